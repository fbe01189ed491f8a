"""MS-SSIM as a loss: what `ndsc.evaluate.ms_ssim` measures, in torch and with gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ndsc.evaluate.metrics import SCALE_WEIGHTS, ms_ssim_min_side

WINDOW, SIGMA = 7, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_LEAST = 1e-3
"""A scale's mean similarity counts as no less: powers below 1 have no gradient at 0."""


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Similarity of frames float32 [B, C, H, W] in [0, 1]: float32 [B], mean over channels.

    Raises ValueError when a side is too short for five scales.
    """
    least = ms_ssim_min_side(WINDOW)
    if min(x.shape[2:]) < least:
        raise ValueError(
            f"MS-SSIM (window {WINDOW}) needs sides of at least {least}, not {list(x.shape[2:])}"
        )
    offsets = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA).square())
    kernel = kernel / kernel.sum()
    pair = torch.stack([x, y])
    product = torch.ones(x.shape[:2], device=x.device, dtype=x.dtype)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale > 0:
            halves = F.avg_pool2d(pair.flatten(0, 1), 2)
            pair = halves.reshape(*pair.shape[:3], *halves.shape[2:])
        similarity = _similarity(pair, kernel, luminance=scale == len(SCALE_WEIGHTS) - 1)
        product = product * similarity.clamp(min=_LEAST) ** weight
    return product.mean(1)


def _filter(maps: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Weighted sums along an axis, where the window fits. No convolution: on CUDA those round to TF32."""
    length = maps.shape[axis] - WINDOW + 1
    return torch.stack([kernel[i] * maps.narrow(axis, i, length) for i in range(WINDOW)]).sum(0)


def _similarity(pair: Tensor, kernel: Tensor, *, luminance: bool) -> Tensor:
    """Mean over one scale of contrast times structure, and times luminance where asked for: [B, C]."""
    x, y = pair
    maps = torch.stack([x, y, x * x + y * y, x * y])
    mean_x, mean_y, mean_squares, mean_product = _filter(_filter(maps, kernel, -2), kernel, -1)
    mean_xy, means_squared = mean_x * mean_y, mean_x.square() + mean_y.square()
    index = (2 * (mean_product - mean_xy) + _C2) / (mean_squares - means_squared + _C2)
    if luminance:
        index = index * (2 * mean_xy + _C1) / (means_squared + _C1)
    similarity: Tensor = index.mean((2, 3))
    return similarity
