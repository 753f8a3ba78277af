"""The names of the sub-commands, where each is, and what `fedneg --help` says.

Nothing is imported here that takes time: this is all that most words need.
"""

from collections.abc import Sequence

from fedneg.core.errors import FedNegError
from fedneg.core.named import offered
from fedneg.core.settings import METHODS, conf_groups
from fedneg.core.texts import did_you_mean

# From the name of a sub-command to the module whose Typer `app` has it.
COMMANDS = {
    "compare": "fedneg.cli.compare",
    "judge": "fedneg.cli.judge",
    "cache": "fedneg.cli.cache",
    "check-data": "fedneg.cli.check_data",
    "certificates": "fedneg.cli.certificates",
    "up": "fedneg.cli.up",
    "roster": "fedneg.cli.roster",
    "status": "fedneg.cli.status",
    "request": "fedneg.cli.request",
    "requests": "fedneg.cli.requests",
    "rollback": "fedneg.cli.rollback",
    "verify": "fedneg.cli.verify",
    "audit": "fedneg.cli.audit",
    "scan": "fedneg.cli.scan",
    "vacuum": "fedneg.cli.vacuum",
}
HELP_OPTIONS = ("-h", "--help")

HELP = """\
fedneg: train a federated model, forget a client, show how well that worked.

  fedneg forget=4 attack=backdoor retrain=remaining     one run
  fedneg -m forget=0,1,2,3,4                            a sweep: one run each
  fedneg experiment=paper                               the whole paper
  fedneg state=DIR                                      a federation that lives on
  fedneg --cfg job [key=value ..]                       show the configuration
  fedneg compare [key=value,value ..]                   all methods side by side
  fedneg judge MODEL.safetensors forget=4               anybody's model, judged
  fedneg cache list|prune                               trainings that are kept
  fedneg check-data PATH | --task module:name           a client's own data
  fedneg certificates DIR --clients 3 --host NAME       keys for real clients
  fedneg up --clients 3                                 real clients, here
  fedneg roster list|add|remove --state DIR             which key is which client
  fedneg request forget 3 --state DIR                   a client is to be forgotten
  fedneg requests|status --state DIR                    how far a federation is
  fedneg rollback ROUND --state DIR                     back to a checkpoint
  fedneg audit|scan --state DIR                         what proves that it forgot
  fedneg verify RECEIPT --key PUBLIC                    check a receipt
  fedneg vacuum DATABASE                                a SuperLink's, rewritten
  fedneg COMMAND --help                                 options of each of these

What to ask for, as key=value:
  forget=4 | forget=[1,4] | forget=null   which client ids to forget
  retrain=none|remaining|forgotten|scratch
           none: stop after forgetting; remaining: FedAvg without the forgotten;
           scratch: so, from the start; forgotten: SGD on their data (the paper, 4.2)
  retrain_rounds=2   rounds=10   clients=5   seed=0   reference=true|false

Groups, as group=name, and their values as group.key=value (attack.fraction=0.5);
strategy=module:Class is a method of your own, task=module:name a task (a model and its
data, in place of model= and data=), installed or in the folder you are in:
{groups}

FEDNEG_DATA is the folder with torchvision's MNIST/ and QMNIST/ (else downloaded;
data=digits needs neither); FEDNEG_CACHE that of what is kept.
"""
# Beyond this column a line of the help goes on in the next.
WIDTH = 88


def main_help() -> str:
    """Return what `fedneg --help` says."""
    lines = []
    groups = conf_groups()
    own = set(offered(METHODS)) - set(groups["strategy"])
    groups["strategy"] += [*sorted(own), "module:Class"]
    for group, options in groups.items():
        line = f"  {group}:"
        for number, name in enumerate(options):
            word = f" {name}" + "," * (number < len(options) - 1)
            if len(line + word) > WIDTH:
                lines.append(line)
                line = " " * 3
            line += word
        lines.append(line)
    return HELP.format(groups="\n".join(lines))


def check_first_word(words: Sequence[str]) -> None:
    """Look whether the first word may be an override, if it is no sub-command.

    Raises
    ------
    FedNegError
        If it is neither: likely the name of a sub-command, misspelt.
    """
    if words and "=" not in words[0] and words[0][:1] not in ("-", "~"):
        advice = did_you_mean(words[0], COMMANDS) or "; fedneg --help shows both"
        raise FedNegError(f"{words[0]!r} is neither a command nor key=value{advice}")
