"""What befalls a store: a disk that is full, a writer that is killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ndsc.service.sqlite import Database


@contextmanager
def tiny_disk(folder: Path, size_mbytes: int) -> Iterator[Path]:
    """A real file system of that size; skips the test where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mbytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    space = os.statvfs(disk)
    assert space.f_bavail == 0
    return filler


def limit_pages(database: Database, more: int) -> None:
    """Let the file grow by so many pages only, as if the disk were full then; a full disk for those not root."""
    pages = database.value("PRAGMA page_count") + more
    database.connection.execute(f"PRAGMA max_page_count = {pages}")


def check_integrity(path: Path) -> None:
    """SQLite's own check of a whole file, by a connection of its own."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def lines_until_killed(script: str, *arguments: Any, most: int) -> list[str]:
    """What a script said until kill -9, after a random number of lines; a line cut short is not among them."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.randint(1, most))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [line.strip() for line in lines if line.endswith("\n")]
