"""The paper's figures for KITTI Stereo, 128×256, test set of 790: to stand beside ours, never among them.

Read from the vector graphics of the figures in the public repository acnagle/neural-dsc. Rates are of x alone;
those with the prior are counted, ⌈−Σ log2 p⌉ + 1 bits an image, and not bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from training.experiments.stereo.settings import Point


@dataclass(frozen=True)
class Published:
    """One of the paper's models."""

    fixed_bpp: float
    prior_bpp: float
    psnr_db: float
    """Mean of the images' PSNR, float output."""
    ms_ssim: float
    """Window 7."""


PUBLISHED: Final = {
    Point("8x", 1): Published(0.015625, 0.01102, 20.595, 0.8669),
    Point("8x", 2): Published(0.03125, 0.02333, 21.946, 0.9018),
    Point("8x", 3): Published(0.046875, 0.03645, 22.658, 0.9166),
    Point("8x", 8): Published(0.125, 0.09779, 24.687, 0.9455),
    Point("4x", 3): Published(0.1875, 0.12808, 25.642, 0.9595),
    Point("4x", 4): Published(0.25, 0.16218, 26.711, 0.9686),
    Point("4x", 6): Published(0.375, 0.25452, 27.390, 0.9734),
    Point("2x", 3): Published(0.75, 0.38692, 28.870, 0.9759),
}
