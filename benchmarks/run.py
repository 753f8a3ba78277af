"""`make bench`: fedneg beside its peers, in one run on one machine.

Contestants take turns and the median of several samples counts, since times on a shared
machine are noisy; only ratios are worth comparing between machines. Writes
benchmarks/results.json, benchmarks/figures/bench.png and docs/benchmarks.md's table. It
takes three quarters of an hour; ``--only`` measures single lines and ``--quick``
shows in a minute that everything works, and these write only where ``--out`` says.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chart import seconds_chart
from benchmarks.contestants import Contestant, Sample, Stage, groups
from benchmarks.lines import Line, all_lines, needed
from benchmarks.machine_facts import machine, pfl_python, versions
from benchmarks.markers import fill
from benchmarks.material import QUICK, REPOSITORY, Material, Sizes
from benchmarks.processes import NotMeasuredError
from benchmarks.table import peers, profile, table
from fedneg.core.machine import cache_root

SCHEMA = 2
HERE = Path(__file__).parent


class Samples:
    """All samples, by contestant; and why there are none."""

    def __init__(self) -> None:
        self.values: dict[str, list[Sample]] = {}
        self.reasons: dict[str, str] = {}

    def take_turns(self, group: Sequence[Contestant], repeat: int) -> None:
        """Sample every contestant `repeat` times; who fails twice running is out."""
        for number in range(1, repeat + 1):
            for contestant in group:
                name = contestant.name
                if name in self.reasons:
                    continue
                say(f"{name}, {number} of {repeat}")
                sample = self._sample(contestant)
                if sample is not None:
                    self.values.setdefault(name, []).append(sample)
                    say("  " + ", ".join(f"{k} {v:.4g}" for k, v in sample.items()))

    def _sample(self, contestant: Contestant) -> Sample | None:
        """Return a sample at the first or second attempt, or enter why there is none.

        Whatever goes wrong: the others are not to be measured again for it.
        """
        for attempt in (1, 2):
            try:
                return contestant.measure()
            except NotMeasuredError as error:
                reason = str(error)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            say(f"  attempt {attempt}: {reason}")
        self.reasons[contestant.name] = reason
        self.values.pop(contestant.name, None)
        return None

    def medians(self) -> dict[str, dict[str, float]]:
        """Return the median of every quantity of every contestant."""
        return {
            name: {
                quantity: statistics.median(sample[quantity] for sample in samples)
                for quantity in samples[0]
            }
            for name, samples in self.values.items()
        }


_begun = time.monotonic()


def say(text: str) -> None:
    """Print a line of progress with the time since the start."""
    minutes, seconds = divmod(round(time.monotonic() - _begun), 60)
    print(f"[{minutes:3d}:{seconds:02d}] {text}", flush=True)


def line_result(
    line: Line,
    medians: Mapping[str, Mapping[str, float]],
    reasons: Mapping[str, str],
) -> dict[str, Any]:
    """Return a line as results.json has it; without a value, the note says why."""
    found: dict[str, Any] = {
        "name": line.name,
        "what": line.what,
        "value": None,
        "unit": line.unit,
        "target": str(line.target) if line.target else None,
        "reached": None,
        "note": "",
    }
    missing = [name for name in line.needs if name not in medians]
    if missing:
        found["note"] = f"{missing[0]}: {reasons.get(missing[0], 'not asked for')}"
        return found
    found["value"], found["note"] = line.compute(medians)
    if line.target:
        found["reached"] = line.target.is_reached(found["value"])
    return found


def bench(stage: Stage, lines: Sequence[Line], repeat: int) -> dict[str, Any]:
    """Measure what some lines need; return results.json."""
    samples, wanted = Samples(), needed(lines)
    for group in groups(stage):
        chosen = [c for c in group if c.name in wanted]
        samples.take_turns(chosen, repeat)
    medians = samples.medians()
    parts = stage.profiles
    return {
        "schema": SCHEMA,
        "machine": machine(),
        "versions": versions(),
        "data": stage.material.source,
        "sizes": asdict(stage.material.sizes),
        "repeat": repeat,
        "lines": [line_result(line, medians, samples.reasons) for line in lines],
        "medians": medians,
        "samples": samples.values,
        "not_measured": samples.reasons,
        "settings": stage.settings,
        "profile": {
            part: statistics.median(p[part] for p in parts)
            for part in (parts[0] if parts else ())
        },
        "minutes": round((time.monotonic() - _begun) / 60, 1),
    }


def write(results: Mapping[str, Any], out: Path) -> None:
    """Write results.json and the figure into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(results, indent=2, allow_nan=False)
    (out / "results.json").write_text(content + "\n")
    picture = seconds_chart(results["medians"], results["sizes"])
    if picture is not None:
        (out / "figures").mkdir(exist_ok=True)
        (out / "figures" / "bench.png").write_bytes(picture.png)


def chosen_lines(only: str | None, sizes: Sizes) -> list[Line]:
    """Return the lines of these names, or all."""
    lines = all_lines(sizes)
    if only is None:
        return lines
    names = only.split(",")
    known = [line.name for line in lines]
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"no line {unknown[0]!r}; there are {', '.join(known)}")
    return [line for line in lines if line.name in names]


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--repeat", type=int, default=3, help="samples (3)")
    parser.add_argument("--only", metavar="NAME,...", help="these lines only")
    parser.add_argument("--quick", action="store_true", help="tiny: does it work?")
    parser.add_argument("--out", type=Path, help="folder for results.json and figure")
    parser.add_argument("--pfl", metavar="PYTHON", help="an interpreter that has pfl")
    arguments = parser.parse_args(argv)
    if arguments.repeat < 1:
        parser.error(f"--repeat must be at least 1, got {arguments.repeat}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write what is to be written."""
    arguments = arguments_of(argv)
    sizes = QUICK if arguments.quick else Sizes()
    lines = chosen_lines(arguments.only, sizes)
    whole = not arguments.quick and arguments.only is None
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=root) as folder:
        material = Material.find(Path(folder), quick=arguments.quick)
        say(f"data: {material.source}; {len(lines)} lines")
        given = arguments.pfl
        stage = Stage(material, lambda: given or pfl_python())
        results = bench(stage, lines, arguments.repeat)
    text = table(results)
    print(f"\n{text}")
    if results["profile"]:
        print(f"\nwhere a whole run of fedneg goes\n{profile(results)}")
    if results["settings"]:
        print(f"\npeers\n{peers(results)}")
    out = arguments.out or (HERE if whole else None)
    if out is not None:
        write(results, out)
    if whole and arguments.out is None:
        fill(REPOSITORY / "docs" / "benchmarks.md", "bench", text)


if __name__ == "__main__":
    # Ended by a signal, it still ends what it measures and removes what it wrote.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
