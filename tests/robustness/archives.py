"""What a decoder's archive holds, read from its file once the decoder has ended."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.robustness.history import Key

_DECODED: Final = 1

_FRAMES: Final = """
    SELECT camera.name, hex(session_id), sequence, state FROM frame
    JOIN session ON session.number = frame.session JOIN camera ON camera.number = session.camera
"""
_SIDES: Final = """
    SELECT camera.name, hex(session_id), sequence FROM side
    JOIN session ON session.number = side.session JOIN camera ON camera.number = session.camera
"""


@dataclass(frozen=True)
class Archived:
    """Frames whose commit outlived the process that made it, though its last word may be missing."""

    stored: frozenset[Key] = frozenset()
    """Of cameras and of side information."""
    decoded: frozenset[Key] = frozenset()


def read_archive(folder: Path) -> Archived:
    """Read the file in `folder`; nothing when there is none."""
    path = folder / "archive.sqlite"
    if not path.exists():
        return Archived()
    with closing(sqlite3.connect(path)) as connection:
        frames = connection.execute(_FRAMES).fetchall()
        sides = connection.execute(_SIDES).fetchall()
    return Archived(
        stored=frozenset((name, session.lower(), sequence) for name, session, sequence, *_ in frames + sides),
        decoded=frozenset(
            (name, session.lower(), sequence)
            for name, session, sequence, state in frames
            if state == _DECODED
        ),
    )
