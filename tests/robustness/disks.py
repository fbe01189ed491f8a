"""A disk of a few KiB that fills up, and can be made larger: a tmpfs."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.netns import UnavailableError, run


@dataclass(frozen=True)
class Disk:
    """A mounted file system of its own."""

    path: Path

    async def resize(self, kbytes: int) -> None:
        """Make it larger, or as small as what lies on it allows."""
        await run("mount", "-o", f"remount,size={kbytes}k", str(self.path))

    def free_bytes(self) -> int:
        """Bytes that still fit."""
        return shutil.disk_usage(self.path).free


@asynccontextmanager
async def small_disk(path: Path, kbytes: int) -> AsyncIterator[Disk]:
    """Mount an empty disk at `path`, which is made if need be; whatever happens, the disk is gone at the end.

    Raises UnavailableError.
    """
    if os.geteuid() != 0:
        raise UnavailableError("mounting a small disk needs root")
    path.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a moment
    await run("mount", "-t", "tmpfs", "-o", f"size={kbytes}k", "ndsc-robustness", str(path))
    try:
        yield Disk(path)
    finally:
        await run("umount", "--lazy", str(path))
