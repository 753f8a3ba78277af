"""fedneg: a federation that forgets a client and can show that it did.

What is public is in `__all__`. It is imported when it is asked for: torch and Flower
take seconds, which neither ``import fedneg`` nor most words of the command line need.
"""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [
    os.path.dirname(os.path.dirname(__file__))
]:
    # `python -m fedneg` puts the working folder first on the path, where a user's
    # clients.py or random.py would stand before ours and Python's; `fedneg` does not.
    # Here, since the imports below are the first to look there.
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for people's editors and mypy; at run time `__getattr__` does it
    from fedneg.core.version import __version__ as __version__
    from fedneg.evaluation.judge import judge as judge
    from fedneg.evaluation.seen import Seen as Seen
    from fedneg.forgettable.refusals import NotLinearError as NotLinearError
    from fedneg.forgettable.strategy import Forgettable as Forgettable
    from fedneg.serving.app import serve as serve
    from fedneg.strategies.compensated import Compensated as Compensated
    from fedneg.strategies.counterfactual import Counterfactual as Counterfactual
    from fedneg.strategies.dampening import Dampening as Dampening
    from fedneg.strategies.distillation import Distillation as Distillation
    from fedneg.strategies.do_nothing import DoNothing as DoNothing
    from fedneg.strategies.federaser import FedEraser as FedEraser
    from fedneg.strategies.fine_tune import FineTune as FineTune
    from fedneg.strategies.gradient_ascent import GradientAscent as GradientAscent
    from fedneg.strategies.negative_gradient import NegativeGradient as NegativeGradient
    from fedneg.strategies.puf import PUF as PUF
    from fedneg.strategies.random_init import RandomInit as RandomInit
    from fedneg.strategies.retrain import Retrain as Retrain
    from fedneg.strategies.weight_negation import WeightNegation as WeightNegation
    from fedneg.tasks.task import ClientRef as ClientRef
    from fedneg.tasks.task import Order as Order
    from fedneg.tasks.task import Split as Split
    from fedneg.tasks.task import Task as Task

# In a checkout `strategies` and `clients` stand at the top, beside this folder; in a
# wheel they lie in it. Their names are fedneg.strategies and fedneg.clients in both.
_HERE = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_HERE, "strategies")):
    __path__.append(os.path.dirname(_HERE))

# Where each public name is, below this package.
_HOMES = {
    "ClientRef": "tasks.task",
    "Compensated": "strategies.compensated",
    "Counterfactual": "strategies.counterfactual",
    "Dampening": "strategies.dampening",
    "Distillation": "strategies.distillation",
    "DoNothing": "strategies.do_nothing",
    "FedEraser": "strategies.federaser",
    "FineTune": "strategies.fine_tune",
    "Forgettable": "forgettable.strategy",
    "GradientAscent": "strategies.gradient_ascent",
    "NegativeGradient": "strategies.negative_gradient",
    "NotLinearError": "forgettable.refusals",
    "Order": "tasks.task",
    "PUF": "strategies.puf",
    "RandomInit": "strategies.random_init",
    "Retrain": "strategies.retrain",
    "Seen": "evaluation.seen",
    "Split": "tasks.task",
    "Task": "tasks.task",
    "WeightNegation": "strategies.weight_negation",
    "judge": "evaluation.judge",
    "serve": "serving.app",
}
__all__ = list(_HOMES)


if not TYPE_CHECKING:  # which would take any name for one that is there

    def __getattr__(name: str) -> Any:
        """Import a public name the first time that it is asked for."""
        home = "core.version" if name == "__version__" else _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """Return what is here, and what may be asked for."""
    return sorted({*globals(), "__version__", *__all__})
