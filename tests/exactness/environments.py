"""Virtual environments with the project's base dependencies and a chosen onnxruntime and numpy."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
COMPUTING: Final = ("onnxruntime", "numpy")
"""What computes the prior's numbers."""

_TIMEOUT_S: Final = 1800.0


class VirtualEnvironmentError(Exception):
    """An environment cannot be made; the message is one line that says why."""


def oldest() -> list[str]:
    """Pins of the oldest onnxruntime and numpy that pyproject.toml allows."""
    lowest = (re.fullmatch(rf"({'|'.join(COMPUTING)})>=([\d.]+)", line) for line in base_dependencies())
    pins = {found[1]: found[2] + ".0" * (2 - found[2].count(".")) for found in lowest if found}
    if set(pins) != set(COMPUTING):
        raise VirtualEnvironmentError(f"pyproject.toml states a lowest version of {sorted(pins)} only")
    return [f"{name}=={version}" for name, version in pins.items()]


def base_dependencies() -> list[str]:
    """The project's, without extras."""
    dependencies: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return dependencies


def make(folder: Path, pins: Sequence[str]) -> Path:
    """Make an environment in `folder`, which must not exist, and return its python.

    The base dependencies come at the versions of constraints.txt; onnxruntime and numpy as `pins` say, else the
    newest that the package index has. Raises VirtualEnvironmentError.
    """
    constraints = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.partition("==")[0] not in COMPUTING
    ]
    _step("venv", [sys.executable, "-m", "venv", str(folder)])
    limits = folder / "constraints.txt"
    limits.write_text("\n".join(constraints) + "\n")
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _step("pip install", [*pip, "-c", str(limits), *base_dependencies(), *pins])
    return folder / "bin" / "python"


def _step(name: str, argv: Sequence[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise VirtualEnvironmentError(f"{name} failed: not done after {_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise VirtualEnvironmentError(f"{name} failed: {lines[-1]}")
