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

SETUPS: Final = {
    # The paper's network and batch; its steps are 20 epochs of 27,000 faces.
    "celeba": Setup(
        FAMILIES["8x-first"], (1, 2, 4, 8), seeds=3, steps=16_875, batch_size=32, window_px=256,
        learning_rate=3e-4,
    ),
    "mnist": Setup(
        FamilyConfig((8, 16, 32, 64), 16, 1, latent_dimension=32),
        (2, 4, 8), seeds=5, steps=1000, batch_size=32, window_px=32,
    ),
    "stereo": Setup(
        FamilyConfig((8, 16, 32, 64), 16, 1, latent_dimension=32),
        (2, 4), seeds=5, steps=800, batch_size=16, window_px=64,
    ),
    "drive": Setup(
        FamilyConfig((8, 16, 32, 32), 8, 1, latent_dimension=16),
        (2,), seeds=2, steps=100, batch_size=8, window_px=64, unquantized_steps=30,
    ),
}  # fmt: skip
"""By data set: the paper's for CelebA-HQ, what two cores train in minutes for the others."""

STEREO_HEIGHT_PX = 64
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


def load_stereo(folder: Path, split: str, window_px: int, progress: Callable[[str], None]) -> Splits:
    """Frames of `folder`/train, both cameras and mirrored; windows of the left frames of `folder`/`split`."""
    pairs = load_pairs([folder / "train"], progress)
    frames = [frame for pair in pairs for frame in (pair.left, pair.right)]
    test = [pair.left for pair in load_pairs([folder / split], progress)]
    return Splits(
        halves(with_mirrored(stack_frames(frames, STEREO_HEIGHT_PX))),
        halves(stack_frames(test, STEREO_HEIGHT_PX)).windows(window_px),
    )


def load_faces(path: Path, split: str, progress: Callable[[str], None]) -> Splits:
    """CelebA-HQ at 256 by 256."""
    faces = load_celeba(path, progress=lambda done, total: progress(f"face {done}/{total}"))
    return Splits(halves(faces.train), halves(faces.val if split == "val" else faces.test))


def render_synthetic(window_px: int) -> Splits:
    """A few synthetic drives, for the smoke run."""
    height = STEREO_HEIGHT_PX
    pictures: Tensor = stack_frames(
        [pair.left for pair in render_drives(24, seed=11, width=2 * height, height=height)], height
    )
    return Splits(halves(with_mirrored(pictures[:16])), halves(pictures[16:]).windows(window_px))
