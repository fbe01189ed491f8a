"""CelebA-HQ at 256 by 256 (Karras et al. 2018), from any of its public copies.

Read are a folder or a zip that holds, at any depth, one image for each face, named by its number: the 1024-pixel
`CelebA-HQ-img/0.jpg` of CelebAMask-HQ (its mask files have other names and are passed over), or a copy already at
256 pixels, `00001.jpg` or `00001.png`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ndsc.codec.errors import NdscError
from ndsc.codec.frames import IMAGE_SUFFIXES, decode_image

TRAIN_SHARE, VAL_SHARE = 0.90, 0.05
"""Of the faces in the order of their numbers; the rest is for testing. The paper names no split; this is ours."""


class CelebaError(NdscError):
    """No CelebA-HQ where one was said to be."""


@dataclass(frozen=True)
class Faces:
    """uint8 [N, 3, side, side] of each split."""

    train: Tensor
    val: Tensor
    test: Tensor


def load_celeba(
    path: Path,
    *,
    side_px: int = 256,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Faces:
    """Decode every face once, resized (Pillow's antialiased bilinear) to `side_px`; 6 GB for all 30,000 at 256.

    Args:
        path: a folder or a zip file, see above.
        side_px: height and width.
        limit: only the first so many faces.
        progress: called as progress(faces read, faces).

    Raises:
        CelebaError: there are no or too few numbered images, or one is not square.
        ImageError: a file is no image.
    """
    read, names = _open(path)
    faces = sorted(
        (n for n in names if n.stem.isdecimal() and n.suffix.lower() in IMAGE_SUFFIXES),
        key=lambda n: (int(n.stem), str(n)),
    )[:limit]
    train_end, val_end = (round(len(faces) * share) for share in (TRAIN_SHARE, TRAIN_SHARE + VAL_SHARE))
    if not 0 < train_end < val_end < len(faces):
        raise CelebaError(
            f"{path}: {len(faces)} images named by a number, too few to split; give the folder or zip of "
            "CelebA-HQ with files such as 0.jpg or 00001.png"
        )

    def picture(name: PurePath) -> Tensor:
        frame = decode_image(read(name), name=f"{path}/{name}")
        if frame.shape[0] != frame.shape[1]:
            raise CelebaError(
                f"{path}/{name}: {frame.shape[1]}x{frame.shape[0]} is not square: not CelebA-HQ"
            )
        if frame.shape[0] != side_px:
            frame = np.asarray(Image.fromarray(frame).resize((side_px, side_px), Image.Resampling.BILINEAR))
        return torch.from_numpy(np.array(frame)).permute(2, 0, 1)

    pictures = torch.empty((len(faces), 3, side_px, side_px), dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for index, decoded in enumerate(pool.map(picture, faces)):
            pictures[index] = decoded
            progress(index + 1, len(faces))
    return Faces(pictures[:train_end], pictures[train_end:val_end], pictures[val_end:])


def _open(path: Path) -> tuple[Callable[[PurePath], bytes], list[PurePath]]:
    """How to read one file below `path`, and the names of all."""
    if path.is_dir():
        return lambda name: (path / name).read_bytes(), [
            p.relative_to(path) for p in path.rglob("*") if p.is_file()
        ]
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CelebaError(f"{path}: neither a folder nor a zip file ({error})") from error
    return lambda name: archive.read(str(name)), [PurePath(n) for n in archive.namelist()]
