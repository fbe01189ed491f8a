"""How much less rate one codec needs than another at equal quality (BD-rate), and how sure that is.

Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001: the mean difference of
the logarithms of two rates over the qualities that both curves reach. Between the measured points the curves are
monotone piecewise cubics (pchip), as in today's practice, not the polynomial of 2001, which overshoots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from ndsc.codec.errors import NdscError

Floats = NDArray[np.float64]

_LEAST_RESAMPLES_SHARE = 0.95


class CurveError(NdscError):
    """Two curves cannot be compared: too few points, no common quality, or other pictures."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Rates and qualities of N pictures at P settings of one codec.

    A curve that others published has one picture, the mean.
    """

    name: str
    images: tuple[str, ...]
    bpp: Floats
    """Bits to one pixel of the source, [N, P]."""
    quality: Floats
    """[N, P], more is better: PSNR in dB, or MS-SSIM in dB."""

    def __post_init__(self) -> None:
        if self.bpp.shape != self.quality.shape or self.bpp.ndim != 2 or len(self.images) != len(self.bpp):
            raise CurveError(
                f"{self.name}: a curve has one rate and one quality for each picture and setting"
            )

    @classmethod
    def of_means(cls, name: str, points: Sequence[tuple[float, float]]) -> Curve:
        """A curve known by its (bpp, quality) points alone."""
        table = np.asarray(points, np.float64).reshape(-1, 2)
        return cls(name, ("mean",), table[None, :, 0], table[None, :, 1])

    def mean(self, pictures: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
        """(bpp [P], quality [P]): means over all pictures, or over those at `pictures`, which may repeat."""
        rows = slice(None) if pictures is None else pictures
        return self.bpp[rows].mean(0), self.quality[rows].mean(0)


@dataclass(frozen=True)
class BDRate:
    """Rate of the tested curve against the anchor's, at equal quality."""

    percent: float
    """−20 means: a fifth less rate."""
    overlap: tuple[float, float]
    """The qualities that both curves reach; the figure says nothing about others."""
    share_of_anchor: float
    """Of the anchor's range of quality, how much lies in the overlap."""
    share_of_test: float


@dataclass(frozen=True)
class BDRateInterval:
    """A BD-rate and its percentile interval over resampled pictures."""

    estimate: BDRate
    low: float
    high: float
    confidence: float
    resamples: int
    failed: int
    """Resamples without a BD-rate, left out of the interval."""


def bd_rate(anchor: Curve, test: Curve) -> BDRate:
    """Mean rate of `test` against `anchor` over the qualities that both reach.

    A point at which the curve spends more rate than at another for no more quality is left out first.

    Raises CurveError when a curve keeps fewer than two points or the qualities have nothing in common.
    """
    return _bd_rate(anchor.name, anchor.mean(), test.name, test.mean())


def bootstrap_bd_rate(
    anchor: Curve, test: Curve, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> BDRateInterval:
    """BD-rate with a percentile interval: pictures drawn with repetition, the same for both curves.

    Each resample makes both mean curves anew from its pictures' figures (Efron's bootstrap, paired). The interval
    tells what other pictures of the same kind would change; it knows nothing of another training run.

    Raises CurveError like `bd_rate`, when the curves are not of the same pictures, when there are fewer than two,
    and when more than a twentieth of the resamples have no BD-rate.
    """
    if anchor.images != test.images:
        raise CurveError(f"{anchor.name} and {test.name} are not of the same pictures in one order")
    count = len(anchor.images)
    if count < 2:
        raise CurveError(f"{test.name}: an interval over pictures needs at least two")
    estimate = bd_rate(anchor, test)
    rng = np.random.default_rng(seed)
    percents = []
    for _ in range(resamples):
        pictures = rng.integers(count, size=count)
        try:
            drawn = _bd_rate(anchor.name, anchor.mean(pictures), test.name, test.mean(pictures))
        except CurveError:
            continue
        percents.append(drawn.percent)
    if len(percents) < _LEAST_RESAMPLES_SHARE * resamples:
        raise CurveError(
            f"{test.name} against {anchor.name}: {resamples - len(percents)} of {resamples} resamples have no "
            "BD-rate; the curves share too little quality"
        )
    tail = 50 * (1 - confidence)
    low, high = np.percentile(percents, [tail, 100 - tail])
    return BDRateInterval(estimate, float(low), float(high), confidence, resamples, resamples - len(percents))


def better_of(one: Curve, other: Curve, name: str) -> Curve:
    """At each setting the better of two curves with the same settings and pictures.

    `one`'s point is taken where its mean quality is at least what `other` reaches at that mean rate (linear
    between points, its end points' quality beyond them), else `other`'s. One choice for all pictures of a setting.
    """
    if one.images != other.images or one.bpp.shape != other.bpp.shape:
        raise CurveError(f"{one.name} and {other.name} are not of the same pictures and settings")
    rate, quality = one.mean()
    other_rate, other_quality = other.mean()
    order = np.argsort(other_rate)
    reached = np.interp(rate, other_rate[order], other_quality[order])
    chosen = quality >= reached
    return Curve(
        name,
        one.images,
        np.where(chosen, one.bpp, other.bpp),
        np.where(chosen, one.quality, other.quality),
    )


def front(rate: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """The points that no other beats in both, rates rising: [P], [P] → [Q], [Q]."""
    order = np.lexsort((-quality, rate))
    kept: list[int] = []
    for point in order:
        if not kept or quality[point] > quality[kept[-1]]:
            kept.append(int(point))
    return rate[kept], quality[kept]


def _bd_rate(
    anchor_name: str, anchor: tuple[Floats, Floats], test_name: str, test: tuple[Floats, Floats]
) -> BDRate:
    log_rates, spans = [], []
    for name, (rate, quality) in ((anchor_name, anchor), (test_name, test)):
        if not (np.isfinite(rate).all() and np.isfinite(quality).all() and (rate > 0).all()):
            raise CurveError(f"{name}: rates must be positive, and rates and qualities finite")
        rate, quality = front(rate, quality)
        if len(rate) < 2:
            raise CurveError(f"{name}: a curve needs two points of rising rate and quality")
        log_rates.append(PchipInterpolator(quality, np.log(rate)))
        spans.append((float(quality[0]), float(quality[-1])))
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low >= high:
        raise CurveError(
            f"{test_name} ({spans[1][0]:.4g} to {spans[1][1]:.4g}) and {anchor_name} ({spans[0][0]:.4g} to "
            f"{spans[0][1]:.4g}) reach no quality in common"
        )
    anchor_mean, test_mean = (float(curve.integrate(low, high)) / (high - low) for curve in log_rates)
    shares = [(high - low) / (span[1] - span[0]) for span in spans]
    return BDRate(float(100 * np.expm1(test_mean - anchor_mean)), (low, high), shares[0], shares[1])
