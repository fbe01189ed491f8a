"""Distortion measures: PSNR and MS-SSIM, in numpy and float64."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ndsc.codec.frames import Frame

SCALE_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""

_PEAK: Final = 255.0
_C1: Final = (0.01 * _PEAK) ** 2
_C2: Final = (0.03 * _PEAK) ** 2

Planes = NDArray[np.float64]


def psnr(x: Frame, y: Frame) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 frames [H, W, 3], peak 255; infinite when they are equal.

    Raises ValueError when they are not uint8 or their shapes differ.
    """
    if x.dtype != np.uint8 or y.dtype != np.uint8:
        raise ValueError(f"psnr compares uint8 frames, not {x.dtype} and {y.dtype}")
    return _psnr(x, y, _PEAK)


def psnr_float(x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> float:
    """Peak signal-to-noise ratio in dB of two float frames [H, W, 3] in [0, 1], peak 1; infinite when equal.

    Raises ValueError when they are not floats or their shapes differ.
    """
    if not (np.issubdtype(x.dtype, np.floating) and np.issubdtype(y.dtype, np.floating)):
        raise ValueError(f"psnr_float compares float frames, not {x.dtype} and {y.dtype}")
    return _psnr(x, y, 1.0)


def _psnr(x: NDArray[Any], y: NDArray[Any], peak: float) -> float:
    _check_same_shape(x, y)
    squared_error = float(np.mean(np.square(x.astype(np.float64) - y.astype(np.float64))))
    return math.inf if squared_error == 0 else 10 * math.log10(peak * peak / squared_error)


def ms_ssim_min_side(window: int = 7) -> int:
    """Smallest side, in pixels, of a frame that `ms_ssim` measures: the window has to fit the fifth scale."""
    return window << (len(SCALE_WEIGHTS) - 1)


def ms_ssim(x: Frame, y: Frame, window: int = 7, sigma: float = 1.5) -> float:
    """Multi-scale structural similarity of two uint8 frames [H, W, C], in [0, 1].

    Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", 2003:
    contrast and structure at five scales, luminance at the last. Gaussian window of `window` by `window`
    pixels, only where it lies inside the frame; 2 by 2 average pooling from scale to scale, an odd last row
    or column left out; a negative mean at a scale counts as 0. Each channel is measured by itself and the
    result is their mean, as in the published KITTI figures (window 7, sigma 1.5).

    Raises:
        ValueError: shapes differ, the window is not odd, or a side is below `ms_ssim_min_side(window)`.
    """
    _check_same_shape(x, y)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"the window of MS-SSIM is odd, not {window}")
    height, width = x.shape[:2]
    least = ms_ssim_min_side(window)
    if min(height, width) < least:
        raise ValueError(f"MS-SSIM (window {window}) needs sides of at least {least}, not {width}x{height}")
    kernel = _gaussian(window, sigma)
    channels = [_ms_ssim_channel(x[..., c], y[..., c], kernel) for c in range(x.shape[2])]
    return float(np.mean(channels))


def _ms_ssim_channel(x: NDArray[np.uint8], y: NDArray[np.uint8], kernel: NDArray[np.float64]) -> float:
    pair: Planes = np.stack([x, y]).astype(np.float64)
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale > 0:
            pair = _halve(pair)
        last = scale == len(SCALE_WEIGHTS) - 1
        product *= max(_similarity(pair, kernel, luminance=last), 0.0) ** weight
    return product


def _similarity(pair: Planes, kernel: NDArray[np.float64], luminance: bool) -> float:
    """Mean over one scale of contrast times structure, and times luminance where asked for."""
    x, y = pair
    # Only the sum of the two variances enters the index, so x² and y² share one filtering.
    moments = _filter(np.stack([x, y, x * x + y * y, x * y]), kernel)
    mean_x, mean_y, mean_squares, mean_product = moments
    mean_xy = mean_x * mean_y
    means_squared = mean_x * mean_x + mean_y * mean_y
    index = (2 * (mean_product - mean_xy) + _C2) / (mean_squares - means_squared + _C2)
    if luminance:
        index *= (2 * mean_xy + _C1) / (means_squared + _C1)
    return float(index.mean())


def _filter(planes: Planes, kernel: NDArray[np.float64]) -> Planes:
    """Convolve [N, H, W] with a symmetric kernel of k taps, both ways, where it fits: [N, H-k+1, W-k+1]."""
    columns = sliding_window_view(planes, len(kernel), axis=1) @ kernel
    both: Planes = sliding_window_view(columns, len(kernel), axis=2) @ kernel
    return both


def _gaussian(window: int, sigma: float) -> NDArray[np.float64]:
    offsets = np.arange(window, dtype=np.float64) - window // 2
    weights = np.exp(-0.5 * np.square(offsets / sigma))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _halve(planes: Planes) -> Planes:
    """2 by 2 average pooling of [N, H, W]; an odd last row or column is left out."""
    height, width = planes.shape[1] // 2 * 2, planes.shape[2] // 2 * 2
    upper, lower = planes[:, 0:height:2, :width], planes[:, 1:height:2, :width]
    rows = upper + lower
    return (rows[..., 0::2] + rows[..., 1::2]) / 4


def _check_same_shape(x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.shape != y.shape:
        raise ValueError(f"frames to compare have one shape, not {list(x.shape)} and {list(y.shape)}")
