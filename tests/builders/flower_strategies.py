"""Flower's strategies, each with the same again, slowly, and what is said of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from builders.slow_server import (
    Optimiser,
    Weigh,
    by_adaptive_clipping,
    by_bulyan,
    by_clipping,
    by_examples,
    by_krum,
    by_loss,
    by_rank,
    contributions,
)
from builders.strangers import INITIAL, TRAINED, Arrays, Watched, step_of


@dataclass(frozen=True)
class Case:
    """A strategy, and the same again, slowly."""

    make: Callable[..., Strategy]
    weigh: Callable[[], Weigh] = lambda: by_examples
    optimiser: Callable[[], Optimiser] = Optimiser
    at_least: int = 1
    all_or_none: bool = False
    clients: int = 4
    # QFedAvg takes no whole numbers among the arrays.
    floats: bool = False
    # Flower computes second moments in the model's own type, the test in float64.
    dtype: type = np.float32
    # Of two replies that are nearest to one another, rounding chooses.
    fractions: tuple[float, ...] = (0.5, 1.0)
    # Words of what `strategy.depends` says.
    depends: tuple[str, ...] = ()
    mods: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def strategy(self, **more: Any) -> Strategy:
        """Return a new one."""
        return self.make(fraction_evaluate=0.0, **self.options, **more)

    @property
    def initial(self) -> Arrays:
        """The model that it starts from.

        Without 0-d arrays: Flower's clipping on the server forgets to clip such.
        """
        return {
            name: (np.atleast_1d(array) if self.all_or_none else array).astype(
                self.dtype
            )
            if array.dtype.kind == "f"
            else array
            for name, array in INITIAL.items()
            if not self.floats or array.dtype.kind == "f"
        }

    def by_hand(self, grid: Watched, **more: Any) -> dict[int, Arrays]:
        """Return each client's contribution, as the messages say."""
        return contributions(
            grid,
            self.weigh(),
            self.optimiser(),
            at_least=self.at_least,
            all_or_none=self.all_or_none,
            **more,
        )


def adaptive(kind: str, make: Callable[..., Strategy], **options: float) -> Case:
    """Return the case of a strategy that divides by second moments."""
    return Case(
        make,
        optimiser=lambda: Optimiser(
            kind,
            rate=options["eta"],
            momentum=options.get("beta_1", 0.0),
            beta_2=options.get("beta_2", 0.0),
            tau=options["tau"],
        ),
        dtype=np.float64,
        depends=("second moments",),
        options=options,
    )


ATTRIBUTED = {
    "FedAdam": adaptive("adam", FedAdam, eta=0.05, beta_1=0.9, beta_2=0.99, tau=1e-3),
    "FedYogi": adaptive("yogi", FedYogi, eta=0.02, beta_1=0.8, beta_2=0.95, tau=1e-3),
    "FedAdagrad": adaptive("adagrad", FedAdagrad, eta=0.1, tau=1e-3),
    "FedMedian": Case(FedMedian, lambda: by_rank(None), depends=("counted",)),
    "FedTrimmedAvg": Case(
        FedTrimmedAvg,
        lambda: by_rank(0.3),
        depends=("counted",),
        options={"beta": 0.3},
    ),
    "Krum": Case(
        Krum,
        lambda: by_krum(1, 1),
        clients=8,
        fractions=(1.0,),
        depends=("weighed",),
        options={"num_malicious_nodes": 1},
    ),
    "MultiKrum": Case(
        MultiKrum,
        lambda: by_krum(1, 2),
        clients=8,
        fractions=(1.0,),
        depends=("weighed",),
        options={"num_malicious_nodes": 1, "num_nodes_to_select": 2},
    ),
    "Bulyan": Case(
        Bulyan,
        lambda: by_bulyan(1),
        at_least=7,
        clients=8,
        fractions=(1.0,),
        depends=("counted",),
        options={"num_malicious_nodes": 1},
    ),
    "QFedAvg": Case(
        QFedAvg,
        lambda: by_loss(0.2, 0.1),
        floats=True,
        depends=("weighed",),
        options={"q": 0.2, "client_learning_rate": 0.1},
    ),
}


def clipped(make: Callable[..., Strategy], *arguments: float, **more: Any) -> Any:
    """Return what makes FedAvg with noiseless clipping around it."""

    def made(**options: Any) -> Strategy:
        return make(FedAvg(**options), 0.0, *arguments, num_sampled_clients=4, **more)

    return made


ATTRIBUTED |= {
    "DifferentialPrivacyServerSideFixedClipping": Case(
        clipped(DifferentialPrivacyServerSideFixedClipping, 0.45),
        lambda: by_clipping(0.45),
        all_or_none=True,
        floats=True,
        depends=("weighed",),
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": Case(
        clipped(
            DifferentialPrivacyServerSideAdaptiveClipping, initial_clipping_norm=0.45
        ),
        lambda: by_adaptive_clipping(0.45, rate=0.2, wanted=0.5),
        all_or_none=True,
        floats=True,
        depends=("weighed", "clipped to"),
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": Case(
        clipped(
            DifferentialPrivacyClientSideAdaptiveClipping, initial_clipping_norm=0.45
        ),
        all_or_none=True,
        floats=True,
        depends=("clipped to",),
        mods=(adaptiveclipping_mod,),
    ),
}
HELD = {
    "FedAvg": Case(FedAvg),
    "FedProx": Case(FedProx, options={"proximal_mu": 0.1}),
    "FedAvgM": Case(
        FedAvgM,
        optimiser=lambda: Optimiser(rate=0.5, momentum=0.9),
        options={"server_learning_rate": 0.5, "server_momentum": 0.9},
    ),
    "DifferentialPrivacyClientSideFixedClipping": Case(
        clipped(DifferentialPrivacyClientSideFixedClipping, 0.45),
        all_or_none=True,
        floats=True,
        mods=(fixedclipping_mod,),
    ),
}
# Noise that each client adds before it sends: of its update, as the server sees it.
LOCAL_NOISE = Case(FedAvg, floats=True, mods=(LocalDpMod(0.45, 0.1, 5.0, 0.01),))
ALL = HELD | ATTRIBUTED | {"LocalDpMod": LOCAL_NOISE}


def bound(whole: Arrays, *rows: Arrays) -> float:
    """Return a millionth of the training's step, and of what rounding is of."""
    largest = max(np.abs(row[n]).max() for row in (whole, *rows) for n in TRAINED)
    return 1e-6 * float(step_of(whole) + largest)
