"""The audit trail: every event of every frame as JSON lines, written by both services when they are told to.

A line survives kill -9 of the process that wrote it: it is one write to a file opened for appending.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Self

from ndsc.codec.errors import OutputError


class History:
    """Appends events to a file. Without a file, `record` does nothing."""

    def __init__(self, path: Path | None, **facts: Any) -> None:
        """`facts` stand in every line. Raises OutputError when the file cannot be opened."""
        self._facts = facts
        self._descriptor: int | None = None
        if path is not None:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise OutputError(f"cannot append to {path}: {error.strerror}") from error

    @property
    def enabled(self) -> bool:
        """Whether there is a file: what is costly to find out need not be, without one."""
        return self._descriptor is not None

    def bind(self, **facts: Any) -> Self:
        """The same file, with further facts in every line."""
        other = type(self)(None, **self._facts, **facts)
        other._descriptor = self._descriptor
        return other

    def record(self, event: str, **facts: Any) -> None:
        """Append one event. `m` is CLOCK_MONOTONIC in microseconds: one clock for all processes of a machine."""
        if self._descriptor is None:
            return
        line = {"event": event, "m": time.monotonic_ns() // 1000, "pid": os.getpid(), **self._facts, **facts}
        os.write(self._descriptor, json.dumps(line, separators=(",", ":")).encode() + b"\n")
