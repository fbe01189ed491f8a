"""Real bytes and PSNR of a trained variant, and what they say beside another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from ndsc.codec.bitstream import PAYLOAD_CRC_BYTES
from ndsc.codec.frames import Frame, to_float, to_uint8
from ndsc.evaluate.metrics import psnr
from training.experiments.codec.trained import Trained
from training.experiments.recipe import RecipeError
from training.export import DecoderGraph, EncoderGraph
from training.report.bd_rate import Curve, front

Kind = Literal["right", "none", "wrong"]
"""What the decoder sees; a wrong y is the one of the next pair."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@torch.no_grad()
def measure(trained: Trained, pairs: Sequence[tuple[Frame, Frame]], name: str) -> dict[Kind, Curve]:
    """Code every left frame uint8 [H, W, 3] (whole strides a side) at every level; decode the bytes with each y.

    Rates count the payload, checksum included; quality is PSNR of 8-bit output, dB. Raises RecipeError when a
    payload does not give its indices back.
    """
    model = trained.model
    encoder, decoder = EncoderGraph(model), DecoderGraph(model)
    levels = range(model.config.levels)
    rates = np.empty((len(pairs), len(levels)))
    qualities = {kind: np.empty_like(rates) for kind in KINDS}
    for i, (left, right) in enumerate(pairs):
        seen = {"right": right, "none": right, "wrong": pairs[(i + 1) % len(pairs)][1]}
        x = torch.from_numpy(to_float(left))[None]
        for level in levels:
            at = torch.tensor([level])
            indices = encoder(x, at)[0].numpy()
            sent = len(indices) if model.config.quantizer == "scalar" else level + 1
            coded = trained.prior.encode(indices[:sent], level)
            received = np.zeros_like(indices)
            height, width = indices.shape[1:]
            received[:sent] = trained.prior.decode(coded, sent, height, width, level)
            if not np.array_equal(received[:sent], indices[:sent]):
                raise RecipeError(f"{name}: a payload does not give its indices back")
            rates[i, level] = 8 * (len(coded) + PAYLOAD_CRC_BYTES) / (left.shape[0] * left.shape[1])
            for kind in KINDS:
                y = torch.from_numpy(to_float(seen[kind]))[None]
                present = torch.tensor([float(kind != "none")])
                output = decoder(torch.from_numpy(received)[None], at, y, present)[0].numpy()
                qualities[kind][i, level] = psnr(left, to_uint8(output))
    images = tuple(str(i) for i in range(len(pairs)))
    return {kind: Curve(name, images, rates, quality) for kind, quality in qualities.items()}


def mean_of(curves: Sequence[Curve], name: str) -> Curve:
    """Curves of several seeds as one, rates and qualities averaged picture by picture.

    Pictures stay what is drawn for an interval: more seeds are not more scenes.
    """
    rates, qualities = ([getattr(curve, part) for curve in curves] for part in ("bpp", "quality"))
    return Curve(name, curves[0].images, np.mean(rates, 0), np.mean(qualities, 0))


def excess(
    many: Curve, one: Curve, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float] | None:
    """Bytes that `many` needs beyond the single point of `one` at its PSNR, in percent; and the 95 % interval.

    Read off `many`'s monotone curve of mean rates. The same pictures are drawn for both (bootstrap). None where
    the PSNR, or an end of the interval, lies outside of `many`'s qualities: there is nothing to read.
    """
    rng, count = np.random.default_rng(seed), len(one.images)
    estimate = _excess(many, one, np.arange(count))
    drawn = [_excess(many, one, rng.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5], method="inverted_cdf")  # which knows infinities
    return (estimate, float(low), float(high)) if np.isfinite([estimate, low, high]).all() else None


def gain_db(anchor: Curve, other: Curve) -> float | None:
    """Mean PSNR of `other` less that of `anchor` at equal rate, over the logarithms of rates that both have, dB.

    Bjøntegaard's other measure (ITU-T VCEG-M33, 2001), on mean curves with monotone cubic pieces. None without
    rates in common.
    """
    fits, spans = [], []
    for curve in (anchor, other):
        rate, quality = front(*curve.mean())
        if len(rate) < 2:
            return None
        fits.append(PchipInterpolator(np.log(rate), quality))
        spans.append(np.log(rate[[0, -1]]))
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low >= high:
        return None
    base, value = (float(fit.integrate(low, high)) / (high - low) for fit in fits)
    return float(value - base)


def _excess(many: Curve, one: Curve, pictures: NDArray[np.int64]) -> float:
    """Percent; -inf where the quality of `one` is below all of `many`'s, inf where it is above."""
    rate, quality = front(*many.mean(pictures))
    (own_rate,), (own_quality,) = one.mean(pictures)
    if own_quality < quality[0]:
        return -np.inf
    if len(rate) < 2 or own_quality > quality[-1]:
        return np.inf
    needed = float(np.exp(PchipInterpolator(quality, np.log(rate))(own_quality)))
    return 100 * (needed / float(own_rate) - 1)
