"""Figures that others published, from the data files beside this one. None of them was measured here.

A file is one task: what its two axes are, and its curves, each with the system, where it was read and how exactly,
which end sees the side information, and `estimated_rate`: true where the rate is −Σ log2 p and no bytes were made,
null where the source does not say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndsc.codec.errors import NdscError

_DIRECTORY: Final = Path(__file__).parent


class PublishedError(NdscError):
    """No such file of published figures."""


@dataclass(frozen=True)
class PublishedCurve:
    """One system's curve as its source draws it."""

    system: str
    source: str
    reading: str
    """How exact the points are."""
    estimated_rate: bool | None
    side_information: str
    """Where it is known: decoder, both ends, none."""
    points: tuple[tuple[float, float], ...]
    note: str = ""


@dataclass(frozen=True)
class PublishedTask:
    """All published curves of one task."""

    task: str
    x: str
    y: str
    curves: tuple[PublishedCurve, ...]

    def curve(self, system: str) -> PublishedCurve:
        """The curve of `system`. Raises PublishedError when there is none."""
        for curve in self.curves:
            if curve.system == system:
                return curve
        known = ", ".join(curve.system for curve in self.curves)
        raise PublishedError(f"{self.task}: no published curve of {system!r}; there is {known}")


def published_tasks() -> list[str]:
    """Names that `load_published` takes, those of KITTI first."""
    return sorted(
        (path.stem for path in _DIRECTORY.glob("*.json")), key=lambda name: ("kitti" not in name, name)
    )


def load_published(name: str) -> PublishedTask:
    """The published curves of one task, like `kitti128_psnr`. Raises PublishedError when there is no such file."""
    path = _DIRECTORY / f"{name}.json"
    if name not in published_tasks():
        raise PublishedError(f"no published figures {name!r}; there is {', '.join(published_tasks())}")
    record = json.loads(path.read_text())
    curves = [
        PublishedCurve(**{**curve, "points": tuple((float(x), float(y)) for x, y in curve["points"])})
        for curve in record["curves"]
    ]
    return PublishedTask(record["task"], record["x"], record["y"], tuple(curves))
