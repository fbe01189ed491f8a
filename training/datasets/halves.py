"""Upper half x, lower half y (paper, CelebA-HQ experiment), of any pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.datasets.views import Views

MNIST_PADDING_PX = 2
"""On each side of a digit: 28 pixels become 32, whole strides for every family."""


def halves(pictures: Tensor) -> Views:
    """uint8 [N, C, H, W], H even → x, the upper H/2 rows, and y, the lower ones."""
    upper, lower = pictures.chunk(2, dim=2)
    return Views((upper.contiguous(), lower.contiguous()))


def digit_halves(digits: Tensor) -> Views:
    """MNIST's uint8 [N, 28, 28] → halves of 16 by 32, of which x's own 14 by 28 pixels are measured."""
    border = MNIST_PADDING_PX
    padded = F.pad(digits[:, None], [border] * 4)
    upper, lower = halves(padded).pictures
    return Views((upper, lower), padding_px=(border, border, border, 0))


def with_mirrored(pictures: Tensor) -> Tensor:
    """[N, C, H, W] → [2N, C, H, W]: the pictures and their mirror images."""
    return torch.cat([pictures, pictures.flip(3)])
