"""MNIST from both kinds of file, and one line of complaint for all else."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.datasets.mnist import IDX_FILES, Mnist, MnistError, load_mnist


def digits(seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return {
        "train_images": random.integers(0, 256, (5, 28, 28), np.uint8),
        "train_labels": random.integers(0, 10, 5, np.uint8),
        "test_images": random.integers(0, 256, (3, 28, 28), np.uint8),
        "test_labels": random.integers(0, 10, 3, np.uint8),
    }


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def same(loaded: Mnist, arrays: dict[str, NDArray[np.uint8]]) -> bool:
    return all(np.array_equal(getattr(loaded, name), array) for name, array in arrays.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_original_files(tmp_path: Path, zipped: bool) -> None:
    arrays = digits()
    for name, file in IDX_FILES.items():
        content = idx(arrays[name])
        path = tmp_path / (f"{file}.gz" if zipped else file)
        path.write_bytes(gzip.compress(content) if zipped else content)
    assert same(load_mnist(tmp_path), arrays)


def test_npz(tmp_path: Path) -> None:
    arrays = digits()
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)  # type: ignore[arg-type]
    assert same(load_mnist(tmp_path / "mnist.npz"), arrays)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MnistError, match="not there"):
        load_mnist(tmp_path / "mnist.npz")
    with pytest.raises(MnistError, match=r"no train-images-idx3-ubyte nor .*\.gz"):
        load_mnist(tmp_path)
    arrays = digits()
    del arrays["test_labels"]
    np.savez(tmp_path / "mnist.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(MnistError, match="test_labels"):
        load_mnist(tmp_path / "mnist.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all", b"\x80\x04N."])
def test_a_damaged_npz_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mnist.npz"
    path.write_bytes(content)
    with pytest.raises(MnistError, match=r"not an \.npz") as caught:
        load_mnist(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an idx file"),
        (idx(digits()["train_images"])[:-1], "bytes of data where"),
        (b"\0\0\x0d" + idx(digits()["train_images"])[3:], "not an idx file"),
    ],
)
def test_a_damaged_idx_file_is_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / IDX_FILES["train_images"]).write_bytes(content)
    with pytest.raises(MnistError, match=complaint):
        load_mnist(tmp_path)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    arrays = digits()
    with pytest.raises(MnistError, match="train: images"):
        Mnist(**arrays | {"train_labels": arrays["test_labels"]})
    with pytest.raises(MnistError, match="from 0 to 9"):
        Mnist(**arrays | {"test_labels": arrays["test_labels"] + 10})
