"""Whether a fault shows in a history: one that does not was not injected, and the run proves nothing."""

from __future__ import annotations

from typing import Final

from tests.robustness.history import History
from tests.robustness.rig import CAMERAS

LIVE, OTHER_LIVE, ARCHIVE = (camera.name for camera in CAMERAS)
VICTIMS: Final = (LIVE, ARCHIVE)
"""Where a fault works on some cameras alone. OTHER_LIVE must not notice it."""


class NotInjectedError(Exception):
    """A fault that cannot be seen in the history: the run proves nothing."""


def must_show(shown: bool, what: str) -> None:
    """Raise NotInjectedError unless it is shown."""
    if not shown:
        raise NotInjectedError(f"the history does not show {what}")


def calls(history: History, camera: str) -> int:
    """How often a node opened a call."""
    return len(history.of("node", "opened", camera=camera))


def must_reconnect(history: History, *cameras: str) -> None:
    """Raise NotInjectedError unless each camera opened a call again."""
    for camera in cameras:
        must_show(calls(history, camera) > 1, f"that {camera} opened another call")
