"""The paper's figures for KITTI Stereo, 128×256, test set of 790: to stand beside ours, never among them.

From `training.published`. Rates are of x alone; those with the prior are counted, ⌈−Σ log2 p⌉ + 1 bits an image,
and not bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from training.experiments.stereo.settings import PAPER_POINTS, Point
from training.paper.convolutional import FAMILIES
from training.published import load_published


@dataclass(frozen=True)
class Published:
    """One of the paper's models."""

    fixed_bpp: float
    prior_bpp: float
    psnr_db: float
    """Mean of the images' PSNR, float output."""
    ms_ssim: float
    """Window 7."""


def _load() -> dict[Point, Published]:
    """The curves hold one point for each model, in one order, and the fixed-length rate tells which model."""
    psnr = load_published("kitti128_psnr")
    fixed = psnr.curve("Neural DSC, fixed length").points
    counted = psnr.curve("Neural DSC, latent prior").points
    similarity = load_published("kitti128_ms_ssim").curve("Neural DSC, fixed length").points
    by_rate = {
        fixed_bpp: Published(fixed_bpp, prior_bpp, psnr_db, ms_ssim)
        for (fixed_bpp, psnr_db), (prior_bpp, _), (_, ms_ssim) in zip(fixed, counted, similarity, strict=True)
    }
    rates = {point: point.bits / FAMILIES[point.family].stride ** 2 for point in PAPER_POINTS}
    return {point: by_rate[rate] for point, rate in rates.items() if rate in by_rate}


PUBLISHED: Final = _load()
