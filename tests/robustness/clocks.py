"""A wall clock that can be stepped for one process alone.

The process's interpreter imports `sitecustomize` before anything else, and that puts another clock into the module
`time`. libfaketime would do the same for native code too, but its waits and its clock differ between threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SITECUSTOMIZE: Final = """
import pathlib, time

_offset = pathlib.Path(__file__).with_name("offset_ns")
_true_time_ns = time.time_ns
time.time_ns = lambda: _true_time_ns() + int(_offset.read_text())
time.time = lambda: time.time_ns() / 1e9
"""


class SteppedClock:
    """The wall clock of Python processes started with `environment`; their monotonic clock is left alone."""

    def __init__(self, folder: Path) -> None:
        """`folder` is one of its own, and is made."""
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        self._offset = folder / "offset_ns"
        self.environment = {"PYTHONPATH": str(folder.resolve())}
        self.step_to(0)

    def step_to(self, offset_s: float) -> None:
        """Make the clock run so far ahead of the true one, from now on."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(round(offset_s * 1e9)))
        new.replace(self._offset)
