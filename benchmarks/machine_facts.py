"""What it was measured on and with, and an environment for pfl."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.material import REPOSITORY
from benchmarks.processes import NotMeasuredError
from fedneg.core.machine import cores

PACKAGES = ("torch", "numpy", "flwr", "ray")
PFL_FOLDER = REPOSITORY / ".venv-pfl"


def machine() -> dict[str, object]:
    """Return the machine: processor, cores that may be used, memory, system."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
        ),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions in this environment, and the commit that is measured."""
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return found | {"fedneg": commit.stdout.strip() or version("fedneg")}


def _processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def pfl_python(folder: Path = PFL_FOLDER) -> str:
    """Return the interpreter of an environment with pfl; it is made if need be.

    Raises
    ------
    NotMeasuredError
        If pfl cannot be installed.
    """
    python = folder / "bin" / "python"
    if _has_pfl(python):
        return str(python)
    print(f"  installing pfl into {folder}", flush=True)
    constraints = str(REPOSITORY / "constraints.txt")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, "--quiet", "-c", constraints, f"torch=={_public('torch')}", "pfl"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise NotMeasuredError(f"pfl cannot be installed: {said[-1]}")
    (folder / ".gitignore").write_text("*\n")
    return str(python)


def _public(package: str) -> str:
    """Return the version of a package here, without its local part."""
    return version(package).partition("+")[0]


def _has_pfl(python: Path) -> bool:
    """Return whether an interpreter is there and finds pfl and torch."""
    if not python.exists():
        return False
    find = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, a)))"
    code = f"a = ('pfl', 'torch'); {find}"
    return subprocess.run([str(python), "-c", code], check=False).returncode == 0
