"""Processes that check a reference set elsewhere: in a virtual environment, or in an emulated machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.exactness import aarch64
from tests.exactness.comparison import Outcome
from tests.exactness.environments import ROOT

_CHILD: Final = "tests.exactness.child"


class ChildError(Exception):
    """A child process could not check; the message is one line that says why."""


@dataclass(frozen=True)
class Report:
    """What a child found, and on what."""

    machine: dict[str, Any]
    outcome: Outcome


def run_in_environment(python: Path, reference: Path, bundle: Path, *, timeout_s: float) -> Report:
    """Check the .npz `reference` with the interpreter of a virtual environment. Raises ChildError."""
    # Nothing but the checkout may come in beside what the environment holds.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    argv = [str(python), "-m", _CHILD, str(reference.resolve()), str(bundle.resolve())]
    try:
        done = subprocess.run(
            argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"a child was not done after {timeout_s:.0f} s") from error
    return _report(done)


def run_in_root(
    root: Path,
    reference: Path,
    bundle: Path,
    *,
    processor: str,
    encode_every: int,
    timeout_s: float,
) -> Report:
    """Check `reference` inside an aarch64 root, on a processor that qemu knows by this name.

    Raises ChildError and RootError.
    """
    argv: Sequence[str] = (
        *("python3", "-m", _CHILD, f"/reference/{reference.name}", f"/bundles/{bundle.resolve().name}"),
        *("--encode-every", str(encode_every)),
    )
    mounts = {
        "/project": ROOT,
        "/reference": reference.resolve().parent,
        "/bundles": bundle.resolve().parent,  # the folder beside it: a bundle can be a zip
    }
    inside = {"PYTHONPATH": "/project", "QEMU_CPU": processor}
    try:
        done = aarch64.run(root, argv, mounts=mounts, timeout_s=timeout_s, env=inside)
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"a child was not done after {timeout_s:.0f} s under emulation") from error
    return _report(done)


def _report(done: subprocess.CompletedProcess[str]) -> Report:
    if done.returncode not in (0, 1) or not done.stdout.strip():
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise ChildError(f"a child ended with status {done.returncode}: {lines[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Report(found["machine"], Outcome(**found["outcome"]))
