"""Stereo pairs on disk: `DIR/left/NAME` is a source, `DIR/right/NAME` its side information."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ndsc.codec.errors import NdscError
from ndsc.codec.frames import IMAGE_SUFFIXES


class PairsError(NdscError):
    """A folder of stereo pairs cannot be used: a folder, an image or a partner is missing."""


@dataclass(frozen=True)
class PairPaths:
    """One stereo pair: `name` is the stem both files share."""

    name: str
    left: Path
    right: Path


def list_pairs(directory: Path) -> list[PairPaths]:
    """The pairs below `directory`, sorted by name.

    `directory` holds the folders `left` and `right`. A pair is one image in each with the same stem; the
    suffixes may differ. Files that are not images are passed over.

    Raises:
        PairsError: a folder is missing, there are no images, an image has no partner (the message names the
            first such image), or two images in one folder share a stem.
    """
    left = _images_by_stem(directory / "left")
    right = _images_by_stem(directory / "right")
    if not left and not right:
        raise PairsError(f"{directory}: left and right hold no images; put frames of the same name in both")
    names = sorted(left.keys() | right.keys())
    for name in names:
        if name not in right:
            raise PairsError(f"{left[name]}: no partner named {name}.* in {directory / 'right'}")
        if name not in left:
            raise PairsError(f"{right[name]}: no partner named {name}.* in {directory / 'left'}")
    return [PairPaths(name, left[name], right[name]) for name in names]


def _images_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise PairsError(f"{folder}: no such folder; a folder of pairs holds the folders left and right")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file() or path.name.startswith("."):
            continue
        if path.stem in images:
            raise PairsError(f"{path}: {images[path.stem].name} has the same stem; rename or remove one")
        images[path.stem] = path
    return images
