"""One picture, coded once by one codec; and what tables and curves are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from training.report.bd_rate import Curve, CurveError

Metric = Literal["psnr_db", "ms_ssim_db"]
"""Qualities that curves are compared by."""


@dataclass(frozen=True)
class Measurement:
    """Bytes and distortion of one picture at one setting of one codec."""

    codec: str
    setting: str
    image: str
    """Folder and name of the picture."""
    pixels: int
    """Of the source x after the protocol; y is free."""
    coded_bytes: int
    """Of the whole file, or of our payload with its checksum."""
    floor_bytes: int
    """Smallest file of the codec for a flat picture of this size; 0 for a payload, which has no file around it."""
    psnr_db: float
    """8-bit output."""
    psnr_float_db: float | None
    """Output before rounding; None where the decoder gives 8 bits alone."""
    ms_ssim: float | None
    """Window 7; None for a picture too small."""
    lpips: float | None
    """Less is better; None where its weights are not installed."""

    @property
    def bpp(self) -> float:
        """Bits to one pixel, everything counted."""
        return 8 * self.coded_bytes / self.pixels

    @property
    def bpp_less_floor(self) -> float:
        """Bits to one pixel beyond what a flat picture costs, and at least one bit in all."""
        return max(8 * (self.coded_bytes - self.floor_bytes), 1) / self.pixels


@dataclass(frozen=True)
class Point:
    """Means over all pictures of one setting."""

    codec: str
    setting: str
    images: int
    bpp: float
    bpp_less_floor: float
    psnr_db: float
    psnr_float_db: float | None
    ms_ssim: float | None
    lpips: float | None


def points(measurements: Iterable[Measurement]) -> list[Point]:
    """One point for each codec and setting, in the order of their first measurement."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.codec, one.setting), []).append(one)
    return [
        Point(
            codec=codec,
            setting=setting,
            images=len(group),
            bpp=fmean(m.bpp for m in group),
            bpp_less_floor=fmean(m.bpp_less_floor for m in group),
            psnr_db=fmean(m.psnr_db for m in group),
            psnr_float_db=_mean([m.psnr_float_db for m in group]),
            ms_ssim=_mean([m.ms_ssim for m in group]),
            lpips=_mean([m.lpips for m in group]),
        )
        for (codec, setting), group in groups.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # A mean over some of the pictures is comparable to nothing.
    return fmean(known) if len(known) == len(values) else None


def decibels(ms_ssim: float) -> float:
    """MS-SSIM as −10 log10(1 − MS-SSIM), in which equal steps look alike; 60 dB at most."""
    return -10 * math.log10(max(1 - ms_ssim, 1e-6))


def curve(
    measurements: Iterable[Measurement],
    codec: str,
    *,
    metric: Metric = "psnr_db",
    less_floor: bool = False,
    name: str | None = None,
) -> Curve:
    """Rate and quality of `codec`, picture by picture, for `bd_rate`.

    `less_floor` takes the flat picture's bytes off every rate. Raises CurveError when there is no such codec, a
    picture lacks a setting, or MS-SSIM was not measured.
    """
    own = {(m.image, m.setting): m for m in measurements if m.codec == codec}
    images = tuple(dict.fromkeys(image for image, _ in own))
    settings = tuple(dict.fromkeys(setting for _, setting in own))
    if not own or len(own) != len(images) * len(settings):
        raise CurveError(f"{codec}: not measured, or not at every setting of every picture")

    def quality(one: Measurement) -> float:
        if metric == "psnr_db":
            return one.psnr_db
        if one.ms_ssim is None:
            raise CurveError(f"{codec}: the pictures are too small for MS-SSIM")
        return decibels(one.ms_ssim)

    table = [[own[image, setting] for setting in settings] for image in images]
    rates = [[m.bpp_less_floor if less_floor else m.bpp for m in row] for row in table]
    return Curve(
        name or codec,
        images,
        np.array(rates, np.float64),
        np.array([[quality(m) for m in row] for row in table]),
    )
