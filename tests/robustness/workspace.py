"""A folder that one run has for itself."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WorkspaceError(Exception):
    """Another run has the folder."""


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Empty a folder, or make it, and keep other runs out. What is in it stays. Raises WorkspaceError, OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(
                f"another run uses {folder}: wait for it, or give another --folder"
            ) from None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
