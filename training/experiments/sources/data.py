"""Halves of three data sets and of the synthetic drive, each with the settings it is run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from training.data import load_pairs, render_drives
from training.datasets.celeba import load_celeba
from training.datasets.halves import digit_halves, halves, with_mirrored
from training.datasets.mnist import load_mnist
from training.datasets.views import Views, stack_frames
from training.experiments.fixed_rate import Setup
from training.paper.convolutional import FAMILIES, FamilyConfig
from training.paper.dense import DenseConfig

SETUPS: Final = {
    # The paper's network and batch; its steps are 20 epochs of 27,000 faces.
    "celeba": Setup(
        FAMILIES["8x-first"], (1, 2, 4, 8), seeds=3, steps=16_875, batch_size=32, window_px=256,
        learning_rate=3e-4, distortion_weight=1.0,
    ),
    "mnist": Setup(
        DenseConfig(positions=8, latent_dimension=16),
        (1, 2, 4), seeds=5, steps=3000, batch_size=64, window_px=32, unquantized_steps=200,
    ),
    "stereo": Setup(
        DenseConfig(positions=8, latent_dimension=16),
        (2, 4), seeds=5, steps=1500, batch_size=64, window_px=32, unquantized_steps=200,
    ),
    "drive": Setup(
        FamilyConfig((8, 16, 32, 32), 8, 1, latent_dimension=16),
        (2,), seeds=2, steps=60, batch_size=16, window_px=32, unquantized_steps=15,
    ),
}  # fmt: skip
"""By data set: the paper's for CelebA-HQ, what two cores train in minutes for the others.

Digits and small crops go through the fully connected network: it trains several times as many in the same time,
and a joint code takes long to make use of y.
"""

FRAME_HEIGHT_PX = 128
"""To which stereo frames are resized, as in the protocol `kitti128`; halves are of square crops."""
VAL_DIGITS = 5000
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class Splits:
    """Train: whole pictures to draw windows from. Test: windows. Both are halves."""

    train: Views
    test: Views


def load_digits(path: Path, split: str) -> Splits:
    """MNIST; `split` is test (its 10,000) or val (5000 that are then not trained on)."""
    mnist = load_mnist(path)
    order = torch.randperm(len(mnist.train_images), generator=torch.Generator().manual_seed(_SHUFFLE_SEED))
    digits = torch.from_numpy(mnist.train_images.copy())[order]
    test = digits[:VAL_DIGITS] if split == "val" else torch.from_numpy(mnist.test_images.copy())
    return Splits(digit_halves(digits[VAL_DIGITS:]), digit_halves(test))


def load_stereo(folder: Path, split: str, crop_px: int, progress: Callable[[str], None]) -> Splits:
    """Square crops of the left and right frames of `folder`/train, mirrored too, and of left ones of `split`.

    Halves of a whole frame have little to do with each other: they touch in one row of many.
    """
    pairs = load_pairs([folder / "train"], progress)
    frames = stack_frames([frame for pair in pairs for frame in (pair.left, pair.right)], FRAME_HEIGHT_PX)
    test = stack_frames([p.left for p in load_pairs([folder / split], progress)], FRAME_HEIGHT_PX)
    return Splits(
        halves(strips(with_mirrored(frames), crop_px, crop_px // 2)),
        halves(strips(test, crop_px, crop_px)).windows(crop_px),
    )


def strips(pictures: Tensor, height: int, stride: int) -> Tensor:
    """[N, C, H, W] → every strip of `height` rows, `stride` rows apart: [N x strips, C, height, W]."""
    return pictures.unfold(2, height, stride).permute(0, 2, 1, 4, 3).flatten(0, 1).contiguous()


def load_faces(path: Path, split: str, progress: Callable[[str], None]) -> Splits:
    """CelebA-HQ at 256 by 256."""
    faces = load_celeba(path, progress=lambda done, total: progress(f"face {done}/{total}"))
    return Splits(halves(faces.train), halves(faces.val if split == "val" else faces.test))


def render_synthetic(crop_px: int) -> Splits:
    """A few synthetic drives, for the smoke run."""
    pairs = render_drives(14, seed=11, width=128, height=64)
    pictures = stack_frames([pair.left for pair in pairs], 64)
    train, test = (strips(part, crop_px, crop_px) for part in (with_mirrored(pictures[:10]), pictures[10:]))
    return Splits(halves(train), halves(test).windows(crop_px))
