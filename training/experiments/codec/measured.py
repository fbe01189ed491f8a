"""Real bytes and PSNR of a trained variant, and what they say beside another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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

Kind = Literal["right", "none"]
"""What the decoder sees."""


@torch.no_grad()
def measure(trained: Trained, pairs: Sequence[tuple[Frame, Frame]], kind: Kind, name: str) -> Curve:
    """Code every left frame uint8 [H, W, 3] (whole strides a side) at every level, and decode it from the bytes.

    Rates count the payload, checksum included; quality is PSNR of 8-bit output, dB. Raises RecipeError when a
    payload does not give its indices back.
    """
    model = trained.model
    encoder, decoder = EncoderGraph(model), DecoderGraph(model)
    rates, qualities = [], []
    for left, right in pairs:
        x, y = (torch.from_numpy(to_float(frame))[None] for frame in (left, right))
        present = torch.tensor([float(kind == "right")])
        rate, quality = [], []
        for level in range(model.config.levels):
            at = torch.tensor([level])
            indices = encoder(x, at)[0].numpy()
            sent = len(indices) if model.config.quantizer == "scalar" else level + 1
            coded = trained.prior.encode(indices[:sent], level)
            received = np.zeros_like(indices)
            height, width = indices.shape[1:]
            received[:sent] = trained.prior.decode(coded, sent, height, width, level)
            if not np.array_equal(received[:sent], indices[:sent]):
                raise RecipeError(f"{name}: a payload does not give its indices back")
            output = decoder(torch.from_numpy(received)[None], at, y, present)[0].numpy()
            rate.append(8 * (len(coded) + PAYLOAD_CRC_BYTES) / (left.shape[0] * left.shape[1]))
            quality.append(psnr(left, to_uint8(output)))
        rates.append(rate)
        qualities.append(quality)
    return Curve(name, tuple(str(i) for i in range(len(pairs))), np.array(rates), np.array(qualities))


def joined(curves: Sequence[Curve], name: str) -> Curve:
    """Curves of several seeds as one: a picture coded by another seed's codec is another picture."""
    images = tuple(f"{image}, seed {seed}" for seed, curve in enumerate(curves) for image in curve.images)
    return Curve(
        name, images, np.concatenate([c.bpp for c in curves]), np.concatenate([c.quality for c in curves])
    )


def excess(many: Curve, one: Curve, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Bytes that `many` needs beyond the single point of `one` at its PSNR, in percent; and the 95 % interval.

    Read off `many`'s monotone curve of mean rates. The same pictures are drawn for both (bootstrap). Outside of
    `many`'s qualities there is nothing to read: raises RecipeError.
    """
    rng, count = np.random.default_rng(seed), len(one.images)
    drawn = [_excess(many, one, rng.integers(count, size=count)) for _ in range(resamples)]
    estimate = _excess(many, one, np.arange(count))
    known = [percent for percent in drawn if percent is not None]
    if estimate is None or len(known) < 0.95 * resamples:
        raise RecipeError(f"{one.name} reaches a PSNR that {many.name} does not: no bytes to compare")
    low, high = np.percentile(known, [2.5, 97.5])
    return estimate, float(low), float(high)


def _excess(many: Curve, one: Curve, pictures: NDArray[np.int64]) -> float | None:
    rate, quality = front(*many.mean(pictures))
    (own_rate,), (own_quality,) = one.mean(pictures)
    if len(rate) < 2 or not quality[0] <= own_quality <= quality[-1]:
        return None
    needed = float(np.exp(PchipInterpolator(quality, np.log(rate))(own_quality)))
    return 100 * (needed / float(own_rate) - 1)
