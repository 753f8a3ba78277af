"""The lines of the benchmark: what is computed from whose medians, and its target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contestants import COHORT, SMALL, TOGETHER
from benchmarks.material import Sizes

Medians = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Target:
    """What a line's value should be: at most (``<=``) or at least (``>=``) a bound."""

    sign: str
    bound: float

    def is_reached(self, value: float) -> bool:
        """Return whether a value is as it should be."""
        return value <= self.bound if self.sign == "<=" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes
    ----------
    name : str
        For ``--only``.
    what : str
        What is measured, for a reader.
    needs : tuple of str
        Contestants without whose medians there is no value.
    compute : callable
        Medians to the value and to the numbers behind it, in words.
    target : Target or None
        None: reported only.
    unit : str
        Of the value; nothing for a ratio.
    """

    name: str
    what: str
    needs: tuple[str, ...]
    compute: Callable[[Medians], tuple[float, str]]
    target: Target | None = None
    unit: str = ""


def ratio(
    name: str,
    what: str,
    above: str | tuple[str, ...],
    below: str | tuple[str, ...],
    quantity: str,
    target: Target | None = None,
) -> Line:
    """Return a line that divides two medians; of several contestants the best counts.

    The best is the one with the least seconds of this very quantity.
    """
    tops = (above,) if isinstance(above, str) else above
    bottoms = (below,) if isinstance(below, str) else below

    def compute(medians: Medians) -> tuple[float, str]:
        a, b = (
            min(medians[who][quantity] for who in names) for names in (tops, bottoms)
        )
        return a / b, f"{a:.3g} s / {b:.3g} s"

    return Line(name, what, (*tops, *bottoms), compute, target)


def all_lines(sizes: Sizes) -> list[Line]:
    """Return the lines, in the order of the table."""
    return [*_speed(sizes), *_many(sizes), *_forgetting(sizes), *_memory(sizes)]


def _pfl(clients: int) -> tuple[str, ...]:
    """Return the ways to run pfl in one process."""
    return tuple(f"pfl ({how}), {clients} clients" for how in ("1 thread", "2 threads"))


def _speed(sizes: Sizes) -> list[Line]:
    few, rounds = sizes.few, sizes.rounds
    ours, inline = f"fedneg, {few} clients", "fedneg inline, one client"
    plain = tuple(
        f"plain loop ({how}), {few} clients" for how in ("2 processes", "2 threads")
    )
    pfl, two = _pfl(few), f"pfl (2 processes), {few} clients"
    tensors, pil = (
        f"stock Flower ({how}), {few} clients" for how in ("tensors", "pil")
    )
    run = f"whole run, {few} clients, {rounds} rounds"
    return [
        ratio(
            "client-epoch",
            "client-epoch of 10,000 images, `engine=inline` / plain PyTorch loop",
            *(inline, "plain loop, one client", "epoch", Target("<=", 0.90)),
        ),
        ratio(
            "matrix-products",
            "client-epoch, `engine=inline` / its matrix products alone",
            *(inline, "matrix products, one client", "epoch", Target("<=", 1.7)),
        ),
        ratio(
            "whole-run",
            f"{run}: fedneg / plain loop, the best use of two cores",
            *(ours, plain, "whole", Target("<=", 1.15)),
        ),
        ratio(
            "flower-tensors",
            f"{run}: stock Flower, tensors in memory / fedneg",
            *(tensors, ours, "whole", Target(">=", 1.5)),
        ),
        ratio(
            "flower-pil",
            f"{run}: stock Flower, PIL transforms as in its quickstart / fedneg",
            *(pil, ours, "whole", Target(">=", 3.0)),
        ),
        ratio(
            "pfl-round",
            f"a round, {few} clients: pfl, one process / fedneg",
            *(pfl, ours, "round", Target(">=", 1.7)),
        ),
        ratio(
            "pfl-whole",
            f"{run}: pfl, one process / fedneg",
            *(pfl, ours, "whole", Target(">=", 1.3)),
        ),
        ratio(
            "pfl-two-round",
            f"a round, {few} clients: pfl, two processes / fedneg",
            *(two, ours, "round"),
        ),
        ratio(
            "pfl-two-whole",
            f"{run}: pfl, two processes / fedneg",
            *(two, ours, "whole"),
        ),
    ]


def _many(sizes: Sizes) -> list[Line]:
    many, ours = sizes.many, f"fedneg, {sizes.many} clients"
    more = f"fedneg, {sizes.more} clients"
    counts = (sizes.some, sizes.more, sizes.many)

    def growth(medians: Medians) -> tuple[float, str]:
        seconds = [medians[f"fedneg, {n} clients"]["round"] for n in counts]
        more = (seconds[-1] - seconds[0]) / (counts[-1] - counts[0])
        parts = (f"{n}: {s:.3g} s" for n, s in zip(counts, seconds, strict=True))
        return 1000 * more, ", ".join(parts)

    return [
        ratio(
            "many-flower",
            f"a round, {many} clients: stock Flower / fedneg",
            *(f"stock Flower (tensors), {many} clients", ours, "round"),
            Target(">=", 15),
        ),
        ratio(
            "many-pfl",
            f"a round, {many} clients: pfl, one process / fedneg",
            *(_pfl(many), ours, "round", Target(">=", 1.5)),
        ),
        ratio(
            "many-pfl-two",
            f"a round, {many} clients: pfl, two processes / fedneg",
            *(f"pfl (2 processes), {many} clients", ours, "round"),
        ),
        ratio(
            "cohort",
            f"a round, {sizes.more} clients: one by one / `engine.cohort={COHORT}`",
            *(more, f"{more}{TOGETHER}", "round"),
        ),
        ratio(
            "cohort-small",
            f"a round, {sizes.more} clients, `model.hidden=[128]`: one by one / "
            f"`engine.cohort={COHORT}`",
            *(f"{more}{SMALL}", f"{more}{SMALL}{TOGETHER}", "round"),
        ),
        Line(
            "growth",
            f"a round more with each client, {counts[0]} to {counts[-1]} clients on "
            "the same images",
            tuple(f"fedneg, {n} clients" for n in counts),
            growth,
            Target("<=", 3),
            "ms",
        ),
    ]


def _forgetting(sizes: Sizes) -> list[Line]:
    counts = (sizes.few, sizes.some, sizes.many)
    names = tuple(f"unlearn round, {n} clients" for n in counts)

    def flat(medians: Medians) -> tuple[float, str]:
        times = [medians[name]["ms"] for name in names]
        parts = (f"{n}: {t:.3g} ms" for n, t in zip(counts, times, strict=True))
        return max(times) / min(times), ", ".join(parts)

    def equal(medians: Medians) -> tuple[float, str]:
        found = medians["retraining to equal accuracy"]
        more = "" if found["reached"] else "not reached after "
        return found["retrained"] / found["repaired"], (
            f"{found['retrained']:.3g} s ({more}{found['rounds']:.0f} rounds) / "
            f"{found['repaired']:.3g} s, test accuracy {found['accuracy']:.4f}"
        )

    return [
        Line(
            "unlearn",
            f"unlearn round with {', '.join(map(str, counts))} clients of 10,000, "
            "1,000 and about 90 images: slowest / fastest",
            names,
            flat,
            Target("<=", 1.5),
        ),
        Line(
            "equal-accuracy",
            "retraining from scratch / unlearn and two recovery rounds, to equal "
            "test accuracy",
            ("retraining to equal accuracy",),
            equal,
        ),
        ratio(
            "sweep",
            "a sweep over five removed clients / one run (`reference=false`)",
            *("sweep", "one run", "whole", Target("<=", 1.3)),
        ),
    ]


def _memory(sizes: Sizes) -> list[Line]:
    def peak(clients: int, target: Target | None) -> Line:
        name = f"memory, {clients} clients"

        def compute(medians: Medians) -> tuple[float, str]:
            found = medians[name]
            return found["all_mib"] / 1024, f"server {found['server_mib'] / 1024:.3g}"

        return Line(
            f"memory-{clients}",
            f"peak memory of all processes, {clients} clients",
            (name,),
            compute,
            target,
            "GiB",
        )

    def growth(medians: Medians) -> tuple[float, str]:
        few, more = (
            medians[f"mapped ledger, {n} rounds"]["server_mib"] for n in (3, 10)
        )
        return more / few, f"{more:.0f} MiB / {few:.0f} MiB"

    return [
        peak(sizes.few, None),
        peak(sizes.many, Target("<=", 4)),
        Line(
            "memory-rounds",
            "server's peak memory after 10 rounds / after 3, ledger in a memory map",
            ("mapped ledger, 3 rounds", "mapped ledger, 10 rounds"),
            growth,
            Target("<=", 1.1),
        ),
    ]


def needed(lines: Sequence[Line]) -> set[str]:
    """Return the names of the contestants that some lines need."""
    return {name for line in lines for name in line.needs}
