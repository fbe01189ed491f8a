"""The configurations that must all come to the same bits."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import onnxruntime
import torch

from ndsc.codec import entropy, range_coder
from ndsc.codec.bundle import Bundle
from tests.exactness import aarch64, children, environments
from tests.exactness.batches import Batches
from tests.exactness.comparison import Outcome, compare
from tests.exactness.interpreter import Interpreter
from tests.exactness.reference import LARGE, ODD, SMALL, Entry, Reference
from tests.exactness.sessions import LEVELS, MakeSession, OnnxSession, PriorError, with_sessions

THREADS: Final = (1, 2)
BATCHES: Final = (2, 5)
EMULATED_ENCODE_EVERY: Final = 10
EMULATED_CHUNK: Final = 50
"""Small frames of one emulated process: an emulator that dies or hangs then costs one chunk."""
PROCESSORS: Final = ("max", "cortex-a53", "neoverse-n1")
"""What qemu emulates in turn: every instruction it knows, a small board's, a server's."""

_CHILD_TIMEOUT_S: Final = 3600.0
_CHUNK_TIMEOUT_S: Final = 900.0


class NotAtHandError(Exception):
    """This machine does not have what the configuration is about."""


class NotRunError(Exception):
    """The configuration should run here and does not."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What every configuration is given."""

    bundle: Bundle
    reference: Reference
    aarch64_root: Path
    """Made where it is not there."""
    aarch64_frames: int
    """Small frames under emulation."""
    progress: Callable[[str], None]
    """Takes a line for people."""


@dataclass(frozen=True)
class Checked:
    """What was found, and with which versions and settings."""

    outcome: Outcome
    what: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """A configuration's line in the report."""

    name: str
    status: str
    """`exact`, `mismatch`, `not run` or `not at hand`."""
    what: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, int] = field(default_factory=dict)
    encoded: int = 0
    mismatches: int = 0
    first: str | None = None
    """The first mismatch, or why it did not run."""
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.status in ("not run", "not at hand"):
            return f"{self.name:32} {self.status}: {self.first}"
        counts = f"{sum(self.frames.values())} frames, {self.encoded} encoded, {self.mismatches} mismatches"
        return f"{self.name:32} {self.status}: {counts}, {self.seconds:.1f} s" + (
            f"; {self.first}" if self.first else ""
        )


Check = Callable[[Setting], Checked]


def run(name: str, check: Check, setting: Setting) -> Result:
    """Run one configuration; whatever it raises becomes its result."""
    started = time.perf_counter()
    try:
        checked = check(setting)
        if not checked.outcome.total:
            raise NotRunError("not one frame was compared; ask for more")
    except NotAtHandError as error:
        return Result(name, "not at hand", first=str(error))
    except Exception as error:  # the other configurations still have something to say
        kind = "" if isinstance(error, (NotRunError, aarch64.RootError)) else f"{type(error).__name__}: "
        return Result(name, "not run", first=f"{kind}{error}", seconds=_since(started))
    found = checked.outcome
    status = "mismatch" if found.mismatches else "exact"
    return Result(
        name,
        status,
        checked.what,
        found.frames,
        found.encoded,
        found.mismatches,
        found.first,
        _since(started),
    )


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)


def _default(setting: Setting) -> Checked:
    return Checked(
        compare(setting.reference, setting.bundle.bitstream), {"onnxruntime": onnxruntime.__version__}
    )


def _with(make: MakeSession, what: Mapping[str, Any], setting: Setting) -> Checked:
    return Checked(compare(setting.reference, with_sessions(setting.bundle.bitstream, make)), what)


def _onnxruntime(level: str, threads: int) -> Check:
    what = {"onnxruntime": onnxruntime.__version__, "level": level, "threads": threads}
    return partial(_with, partial(OnnxSession, level=level, threads=threads), what)


def _batch(size: int, setting: Setting) -> Checked:
    outcome = Batches(setting.bundle.bitstream, size).compare(setting.reference)
    return Checked(outcome, {"onnxruntime": onnxruntime.__version__, "batch": size})


def _torch(setting: Setting) -> Checked:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work a thread that more of them mostly wait, long on a busy machine
    try:
        return _with(Interpreter, {"torch": torch.__version__, "threads": 1}, setting)
    finally:
        torch.set_num_threads(threads)


def _python_coder(setting: Setting) -> Checked:
    # As where constriction cannot be imported.
    with mock.patch.object(entropy, "_stream", return_value=None):
        if not isinstance(entropy.decoder(b""), range_coder.Decoder):
            raise NotRunError("the pure-Python range coder is not the one in use")
        return Checked(compare(setting.reference, setting.bundle.bitstream), {"range_coder": "pure Python"})


def _cuda(setting: Setting) -> Checked:
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise NotAtHandError(f"this onnxruntime has no {provider}")
    onnxruntime.preload_dlls()
    make = partial(OnnxSession, level="enable_all", threads=1, provider=provider)
    try:
        return _with(make, {"onnxruntime": onnxruntime.__version__, "provider": provider}, setting)
    except PriorError as error:
        raise NotAtHandError(str(error)) from error


def _environment(pins: Callable[[], Sequence[str]], setting: Setting) -> Checked:
    with tempfile.TemporaryDirectory(prefix="ndsc-exactness.") as folder:
        setting.progress("making a virtual environment")
        python = environments.make(Path(folder, "environment"), pins())
        path = Path(folder, "reference.npz")
        setting.reference.save(path)
        report = children.run_in_environment(python, path, setting.bundle.path, timeout_s=_CHILD_TIMEOUT_S)
    return Checked(_whole(report.outcome, len(setting.reference.entries)), report.machine)


def _whole(outcome: Outcome, frames: int) -> Outcome:
    """The outcome of children, who must have checked all they were given."""
    if outcome.total != frames:
        raise NotRunError(f"children checked {outcome.total} of {frames} frames")
    return outcome


def emulated_chunks(reference: Reference, frames: int) -> list[tuple[Entry, ...]]:
    """What is checked under emulation: this many small frames, the odd ones, three large ones of every kind."""
    small, large = reference.of(SMALL)[:frames], reference.of(LARGE)[:9:4]
    chunks = [small[start : start + EMULATED_CHUNK] for start in range(0, len(small), EMULATED_CHUNK)]
    return [chunk for chunk in (reference.of(*ODD), *chunks, large) if chunk]


def _aarch64(setting: Setting) -> Checked:
    setting.progress("entering the aarch64 root, some minutes where it has to be made")
    aarch64.prepare(setting.aarch64_root)
    outcome, machines = Outcome(), dict[str, Mapping[str, Any]]()
    chunks = emulated_chunks(setting.reference, setting.aarch64_frames)
    total, started = sum(map(len, chunks)), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ndsc-exactness.") as folder:
        path = Path(folder, "reference.npz")
        for number, chunk in enumerate(chunks):
            setting.reference.part(chunk).save(path)
            processor = PROCESSORS[number % len(PROCESSORS)]
            report = children.run_in_root(
                setting.aarch64_root,
                path,
                setting.bundle.path,
                processor=processor,
                encode_every=EMULATED_ENCODE_EVERY,
                timeout_s=_CHUNK_TIMEOUT_S,
            )
            outcome += report.outcome
            machines[processor] = report.machine
            counts = f"{outcome.total} of {total} frames, {outcome.mismatches} mismatches"
            setting.progress(f"{counts}, {time.perf_counter() - started:.0f} s")
    return Checked(_whole(outcome, total), {"emulator": _emulator(), "emulated": machines})


def _emulator() -> str:
    done = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


CONFIGURATIONS: Final[Mapping[str, Check]] = {
    "default": _default,
    **{f"onnxruntime-{level}-{n}": _onnxruntime(level, n) for level in LEVELS for n in THREADS},
    **{f"batch-{size}": partial(_batch, size) for size in BATCHES},
    "torch": _torch,
    "python-coder": _python_coder,
    "cuda": _cuda,
    "oldest": partial(_environment, environments.oldest),
    "newest": partial(_environment, list),
    "aarch64": _aarch64,
}
"""Every configuration by its name."""


def named(wanted: Sequence[str]) -> list[str]:
    """Names of the configurations that are, or start with, one of `wanted`. Raises ValueError for a stranger."""
    chosen = []
    for name in wanted:
        found = [one for one in CONFIGURATIONS if one == name or one.startswith(f"{name}-")]
        if not found:
            raise ValueError(f"no configuration {name!r}; there are {', '.join(CONFIGURATIONS)}")
        chosen += found
    return [name for name in CONFIGURATIONS if name in chosen]
