"""Digits for the classifier: MNIST, or shapes made here that take no file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.datasets.mnist import load_mnist
from training.experiments.gradients.classifier import CLASSES, as_inputs


@dataclass(frozen=True)
class Digits:
    """Images as `classifier.as_inputs` makes them, float32 [N, 28, 28], and labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Digits:
        """Digits `start` to `stop`."""
        return Digits(self.images[start:stop], self.labels[start:stop])

    def to(self, device: torch.device) -> Digits:
        """The same digits there."""
        return Digits(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Split:
    """Who trains on what: no digit of `evaluate` is in `fit`."""

    fit: Digits
    """Of the runs whose gradients the codes are fitted on."""
    evaluate: Digits
    """Of the runs that are compared."""
    test: Digits
    """For test accuracy."""

    def to(self, device: torch.device) -> Split:
        """The same digits there."""
        return Split(self.fit.to(device), self.evaluate.to(device), self.test.to(device))


def mnist(path: Path) -> Split:
    """MNIST's training digits in a fixed random order, half and half, and its test digits.

    Raises MnistError when they cannot be read.
    """
    data = load_mnist(path)
    labels = torch.from_numpy(data.train_labels).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train = Digits(as_inputs(torch.from_numpy(data.train_images)[order]), labels[order])
    half = len(train) // 2
    test = Digits(as_inputs(torch.from_numpy(data.test_images)), torch.from_numpy(data.test_labels).long())
    return Split(train.part(0, half), train.part(half, 2 * half), test)


def synthetic(count: int, seed: int = 0) -> Split:
    """`count` images for each part: a smooth shape for each class, moved a little, and noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(CLASSES, 1, 5, 5, generator=generator)
    shapes = (F.interpolate(coarse, 28, mode="bicubic", align_corners=False)[:, 0] > 0).float()

    def make() -> Digits:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        moves = torch.randint(-2, 3, (count, 2), generator=generator).tolist()
        images = torch.stack(
            [shapes[k].roll((dy, dx), (0, 1)) for k, (dy, dx) in zip(labels.tolist(), moves, strict=True)]
        )
        noisy = images + 0.3 * torch.randn(images.shape, generator=generator)
        return Digits(as_inputs((255 * noisy).clamp(0, 255).to(torch.uint8)), labels)

    return Split(make(), make(), make())
