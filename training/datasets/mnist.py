"""MNIST (LeCun, Cortes and Burges): handwritten digits, from the original idx files or one .npz."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.errors import NdscError

IDX_FILES: Final = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
"""The published files, each as it is or with .gz."""

_IDX_UINT8 = 8


class MnistError(NdscError):
    """No MNIST where it was looked for, or a damaged file."""


@dataclass(frozen=True)
class Mnist:
    """Digits and what they are: 60,000 to train on and 10,000 to test on in the published files.

    They keep the order of the file, and there are files sorted by label: shuffle before you take a part.
    """

    train_images: NDArray[np.uint8]
    """[N, 28, 28], ink is 255."""
    train_labels: NDArray[np.uint8]
    """[N], 0 to 9."""
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images.ndim != 3 or labels.shape != images.shape[:1] or not len(labels):
                raise MnistError(
                    f"{part}: images {images.shape} and labels {labels.shape} do not belong together"
                )
            if images.dtype != np.uint8 or labels.dtype != np.uint8 or labels.max() > 9:
                raise MnistError(f"{part}: images must be uint8 and labels uint8 from 0 to 9")


def load_mnist(path: Path) -> Mnist:
    """Read a folder with the four idx files, gzipped or not, or one .npz with the arrays of `Mnist`.

    Raises:
        MnistError: nothing there, a file is damaged, or its shapes are wrong.
    """
    if path.is_dir():
        return Mnist(**{name: _read_idx(_find(path, file)) for name, file in IDX_FILES.items()})
    names = [field.name for field in fields(Mnist)]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Mnist(**{name: arrays[name] for name in names})
    except FileNotFoundError as error:
        raise MnistError(f"{path}: not there; give mnist.npz or the folder of the idx files") from error
    except KeyError as error:
        raise MnistError(
            f"{path}: has no array of this name: {error}; it needs {', '.join(names)}"
        ) from error
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise MnistError(f"{path}: not an .npz of MNIST ({error})") from error


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise MnistError(f"{folder}: no {name} nor {name}.gz there")


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """One idx file: two zero bytes, type, number of dimensions, each dimension big-endian 32 bit, the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise MnistError(f"{path}: cannot be read ({error})") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != bytes((0, 0, _IDX_UINT8)) or len(content) < start:
        raise MnistError(f"{path}: not an idx file of bytes")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    if len(content) != start + math.prod(shape):
        raise MnistError(
            f"{path}: {len(content) - start} bytes of data where {shape} needs {math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
