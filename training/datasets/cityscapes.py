"""Cityscapes, left and right views, with the makers' own split: 2975, 500 and 1525 pairs.

Needs `leftImg8bit_trainvaltest.zip` and `rightImg8bit_trainvaltest.zip` from the makers' page (which asks for an
account), as they are or unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndsc.codec.frames import decode_image
from training.data import Pair
from training.datasets.archives import DataSetError, Folder, open_archive, read_bytes

MAKERS: Final = "https://www.cityscapes-dataset.com/downloads"

SPLITS: Final = ("train", "val", "test")

_LEFT, _RIGHT = "leftImg8bit", "rightImg8bit"


@dataclass(frozen=True)
class PairFiles:
    """One pair; `name` is CITY_SEQUENCE_FRAME, which both files' names begin with."""

    left: Folder
    right: Folder
    name: str

    def read(self) -> Pair:
        """Decode both frames. Raises DataSetError when one is missing, ImageError when it is no image."""
        left, right = (
            decode_image(read_bytes(folder, f"{self.name}_{view}.png"), name=self.name)
            for folder, view in ((self.left, _LEFT), (self.right, _RIGHT))
        )
        if left.shape != right.shape:
            raise DataSetError(f"{self.name}: its right frame has another size; download it again")
        return Pair(left, right)


def list_split(directory: Path, split: str) -> list[PairFiles]:
    """The pairs of `train`, `val` or `test`, by city and name.

    Raises DataSetError when an archive is missing; the message says which to download.
    """
    left, right = (
        open_archive(directory, f"{view}_trainvaltest", f"{view}/{split}", MAKERS) for view in (_LEFT, _RIGHT)
    )
    ending = f"_{_LEFT}.png"
    return [
        PairFiles(city, right / city.name, name.removesuffix(ending))
        for city in sorted(
            (folder for folder in left.iterdir() if folder.is_dir()), key=lambda folder: folder.name
        )
        for name in sorted(file.name for file in city.iterdir())
        if name.endswith(ending)
    ]


def read(directory: Path, split: str) -> Iterator[Pair]:
    """The pairs of a split, one after the other. Raises as `list_split` and `PairFiles.read`."""
    for files in list_split(directory, split):
        yield files.read()
