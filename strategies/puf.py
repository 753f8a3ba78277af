"""PUF: one more round, in which the leaving client's update is subtracted, enlarged.

Mora, Mazzocca, Montanari and Bellavista, 'Federated Unlearning Made Practical: Seamless
Integration via Negated Pseudo-Gradients', arXiv:2504.05822. The leaving client trains
once more, as in any round, and the server goes the other way, `learning_rate` (eta)
times as far. With D_k the update of client k, n_k its examples and N those of all who
take part in the round:

    regular:  w <- w + sum_stay (n_k / N) D_k - eta sum_leave (n_u / N) D_u
    special:  w <- w - eta sum_leave (n_u / N) D_u         (only those who leave train)

Rounds of the others repair what that breaks (`retrain=remaining`). Nothing of any
earlier round is needed. Where the leaving client itself sends ``w - eta D_u`` as what
it has trained, the regular round is plain FedAvg: a server that sees no more than the
sum, under secure aggregation, can do it too (tests/strategies/test_puf.py).

What comes back is of the making of somebody who leaves, perhaps with a grudge: the
model after it is held against the one before the round by the `gate`; where it fails,
the others' part of the round alone stands, and the report says so.

With `forget_samples` the examples that go are to this round what a leaving client is,
as if they were a client of their own. Whose they are trains twice from the same model,
in two rounds of messages: on what goes, and, in the regular form, on the rest.

Differs from the paper: eta is an option with one default a form, the paper's, and not
tuned for each model; the gate is ours.

The leaving clients must be online, for the regular form the others too. The server
stores nothing for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fedneg.core.checks import choice, number
from fedneg.core.formats import name_clients
from fedneg.core.parameters import Vector, add, weights_of
from fedneg.core.samples import ALL, GONE, REST
from fedneg.core.settings import Config
from fedneg.ledger.steps import Step
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.method import About, Needs
from fedneg.strategies.replies import Reply

REGULAR, SPECIAL = FORMS = ("regular", "special")
# The paper's: its CIFAR-100 script, and its section on the special round.
ETA = {REGULAR: 20.0, SPECIAL: 2.0}


class PUF(LedgerFedAvg):
    """FedAvg whose unlearn round subtracts what the leaving clients train in it."""

    about = About("going against one more update of {whom}", place=11)

    forgets_samples = True

    needs_leaving_client = True
    # What came of those examples that go.
    _against: Mapping[int, Reply] = MappingProxyType({})

    @dataclass(frozen=True)
    class Options:
        """The `form`, and eta (`learning_rate`; None: the paper's of that form)."""

        form: str = REGULAR
        learning_rate: float | None = None

        def __post_init__(self) -> None:
            choice("strategy.form", self.form, FORMS)
            if self.learning_rate is not None:
                number("strategy.learning_rate", self.learning_rate, above=0)

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return 1; 2 where a client trains on what goes, and then all on the rest."""
        regular = cls.parse_options(config).form == REGULAR
        return 2 if config.forget_samples and regular else 1

    @property
    def _eta(self) -> float:
        """How many times as far as the leaving clients trained."""
        options: PUF.Options = self.options
        return options.learning_rate or ETA[options.form]

    def needs(self) -> Needs:
        """Return the leaving clients, and for the regular form a round of the others.

        The ledger is not looked at.
        """
        regular = self.options.form == REGULAR
        return Needs(leaving_client=True, remaining_rounds=int(regular))

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return the leaving clients, and for the regular form who else has a round."""
        if self.config.forget_samples:
            return self.forgetting if number == 1 else self.sampled(number)
        stay = self.sampled(number) if self.options.form == REGULAR else ()
        return tuple(sorted({*stay, *self.forgetting}))

    def unlearn_part(self, number: int) -> str:
        """Return what goes in the first round, and the rest in the second."""
        if not self.config.forget_samples:
            return ALL
        return GONE if number == 1 else REST

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters that the round begins with: as they were."""
        self.method_report = {
            "form": f"one {self.options.form} round against their updates",
            "learning_rate": self._eta,
            # How long what was subtracted of each is: nothing yet.
            "subtracted": {str(k): 0.0 for k in client_ids},
            "remains": "what one more update of it, enlarged, does not point at",
        }
        self._against = {}
        self._say_what_is_missing()
        return before

    def _say_what_is_missing(self) -> None:
        """Tell of whom nothing was subtracted: the model may still know all of it."""
        lengths = self.method_report["subtracted"]
        missing = [int(k) for k, length in lengths.items() if not length]
        self.method_report.pop("notice", None)
        if missing:
            self.method_report["notice"] = (
                f"strategy={self.settings.name} subtracted nothing of "
                f"{name_clients(missing)}: no usable update came"
            )

    def combine(self, number: int, good: Mapping[int, Reply]) -> Vector:
        """Return the others' mean step, less eta times that of those who leave.

        What is subtracted is nobody's contribution: it goes into `correction`.
        """
        before = self._global
        if self.options.form == REGULAR and self.unlearn_part(number) == GONE:
            # Until the rest is in, too; what came lies where the next replies go.
            self._against = {
                k: replace(r, local=r.local.copy()) for k, r in good.items()
            }
            return before
        leave, stay = self._sides(number, good)
        # Whoever is on both sides has a weight for each.
        order = sorted([*((k, True) for k in leave), *((k, False) for k in stay)])
        examples = [(leave if out else stay)[k].num_examples for k, out in order]
        shares = dict(zip(order, weights_of(examples), strict=True))
        weights = {k: shares[k, False] for k in stay}
        away = {k: self._eta * shares[k, True] for k in leave}
        after = self._stepped(before, stay, weights) if stay else before
        terms = [(-away[k], r.local - before) for k, r in leave.items()]
        against = add(after, terms)
        if leave and not self.hooks.accept(
            self.ledger.whole(self._rectified), self.ledger.whole(against)
        ):
            for client_id in leave:
                self._fail(
                    client_id, "the model against its update failed the gate; it stays"
                )
            return after
        self.drop((), before=after, after=against)
        for client_id, reply in leave.items():
            step = away[client_id] * reply.norm
            self.method_report["subtracted"][str(client_id)] = step
        self._say_what_is_missing()
        return against

    def _sides(
        self, number: int, good: Mapping[int, Reply]
    ) -> tuple[Mapping[int, Reply], Mapping[int, Reply]]:
        """Return what came of those who leave, or of what goes, and of the others."""
        part = self.unlearn_part(number)
        if part == GONE:
            return good, {}
        if part == REST:
            return self._against, good
        leave = {k: reply for k, reply in good.items() if k in self.forgetting}
        return leave, {k: reply for k, reply in good.items() if k not in leave}

    def _stepped(
        self, before: Vector, stay: Mapping[int, Reply], weights: Mapping[int, float]
    ) -> Vector:
        """Return the parameters after those who stay, who share the round's weight."""
        step = Step(
            {k: (r.local - before) * weights[k] for k, r in stay.items()},
            {k: weights[k] for k in stay},
            gain=self.settings.server_learning_rate,
            local={k: r.local for k, r in stay.items()},
            norms={k: r.norms for k, r in stay.items()},
        )
        return self.enter_step(self.reports[-1].server_round, before, step, stay)
