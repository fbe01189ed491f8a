"""KITTI Stereo 2012 and 2015, with the split of the distributed-source-coding literature.

Needs `data_stereo_flow.zip` (2012) and `data_scene_flow.zip` (2015) from the makers' page, as they are or
unpacked. Each scene has two pairs, of frames _10 and _11:

    split   scenes                     frames      pairs       samples, each pair in both directions
    train   training of both years     _10, _11    2·(194+200)   1576
    val     testing of both years      _11         195+200        790
    test    testing of both years      _10         195+200        790
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndsc.codec.frames import decode_image
from training.data import Pair
from training.datasets.archives import DataSetError, Folder, open_archive, read_bytes

MAKERS: Final = "https://www.cvlibs.net/datasets/kitti"

SPLITS: Final = {
    "train": ("training", ("_10.png", "_11.png")),
    "val": ("testing", ("_11.png",)),
    "test": ("testing", ("_10.png",)),
}
"""Folder, and endings of the frames' names."""

_YEARS: Final = (
    ("data_scene_flow", "image_2", "image_3"),  # 2015
    ("data_stereo_flow", "colored_0", "colored_1"),  # 2012
)


@dataclass(frozen=True)
class PairFiles:
    """One pair: a file of this name in either folder."""

    left: Folder
    right: Folder
    name: str

    def read(self) -> Pair:
        """Decode both frames. Raises DataSetError when one is missing, ImageError when it is no image."""
        left, right = (
            decode_image(read_bytes(folder, self.name), name=f"{folder}{self.name}")
            for folder in (self.left, self.right)
        )
        if left.shape != right.shape:
            raise DataSetError(
                f"{self.left / self.name}: its right frame has another size; download it again"
            )
        return Pair(left, right)


def list_split(directory: Path, split: str) -> list[PairFiles]:
    """The pairs of `train`, `val` or `test`, 2015 first, by name.

    Raises DataSetError when an archive is missing; the message says which to download.
    """
    part, endings = SPLITS[split]
    pairs = []
    for archive, left, right in _YEARS:
        folders = [open_archive(directory, archive, f"{part}/{view}", MAKERS) for view in (left, right)]
        names = sorted(file.name for file in folders[0].iterdir() if file.name.endswith(endings))
        pairs += [PairFiles(folders[0], folders[1], name) for name in names]
    return pairs


def read(directory: Path, split: str) -> Iterator[Pair]:
    """The pairs of a split, one after the other. Raises as `list_split` and `PairFiles.read`."""
    for files in list_split(directory, split):
        yield files.read()
