"""Scalar quantizer with a gain for each rate level, and the rate of its indices under a learned prior.

    latents ── × gain[level] ── round, clip to ±bound ── indices ── ÷ gain[level] ── decoder
                                                            │
                                       RateModel: bits of the indices, a few passes

A finite scalar quantizer (Mentzer et al. 2024) of C channels is a product codebook of (2 · bound + 1)^C vectors
that needs no training of its own. One encoder serves all rates: a level only scales the latents (Cui et al. 2021).
Encoder, quantizer, prior and decoder learn together for R + λD. Rounding passes gradients straight through to the
decoder; the rate is taken at latents with uniform noise of the same width (Ballé et al. 2017; both: Minnen and
Singh 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import JsonConfig


@dataclass(frozen=True)
class ScalarConfig(JsonConfig):
    """Sizes of the quantizer and of its prior."""

    channels: int = 32
    """C: indices at each position of the grid."""
    bound: int = 15
    """Indices lie in [-bound, bound]."""
    levels: int = 8
    finest_gain: float = 4.0
    """Gain of the highest level before training, for latents of unit size; each level below has 1/1.4 of it."""
    hidden: int = 96
    """Width of the prior's networks."""
    blocks: int = 2


@dataclass(frozen=True)
class ScalarQuantized:
    """What the quantizer returns for latents [B, C, h, w]."""

    latents: Tensor
    """[B, C, h, w] for the decoder, straight-through gradient."""
    indices: Tensor
    """float [B, C, h, w], whole numbers in [-bound, bound], straight-through gradient."""
    noisy: Tensor
    """[B, C, h, w]: the scaled latents with noise instead of rounding, where the rate is taken; in evaluation
    the indices themselves."""


class ScalarQuantizer(nn.Module):
    """Latents of unit size → indices at a rate level."""

    def __init__(self, config: ScalarConfig) -> None:
        super().__init__()
        self.config = config
        steps = torch.arange(config.levels) - (config.levels - 1)
        start = math.log(config.finest_gain) + math.log(1.4) * steps
        self.log_gain = nn.Parameter(start[:, None].repeat(1, config.channels))
        self.log_step = nn.Parameter(torch.zeros(config.levels, config.channels))
        """Of what an index is worth to the decoder, beside 1 / gain."""

    def forward(
        self, latents: Tensor, level: Tensor, generator: torch.Generator | None = None
    ) -> ScalarQuantized:
        """Quantize [B, C, h, w] at `level` int64 [B]; with a `generator` (training) the rate is taken at noise."""
        bound = float(self.config.bound)
        gain = self.log_gain[level].exp()[:, :, None, None]
        scaled = latents * gain
        clipped = scaled.clamp(-bound, bound)
        rounded = clipped + (clipped.round() - clipped).detach()
        noisy = rounded
        if generator is not None:
            noise = torch.rand(scaled.shape, generator=generator, device=scaled.device) - 0.5
            noisy = clipped + noise
        return ScalarQuantized(rounded * self.step_size(level), rounded, noisy)

    def step_size(self, level: Tensor) -> Tensor:
        """What an index of 1 is worth, [B, C, 1, 1]."""
        return (self.log_step[level] - self.log_gain[level]).exp()[:, :, None, None]


def logistic_bits(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """−log2 of the mass of a logistic density in [value − ½, value + ½], elementwise; never more than 24 bits."""
    scale = log_scale.clamp(-4, 4).exp()
    away = (values - mean).abs()  # the density is symmetric: differences of small tails stay exact
    mass = torch.sigmoid((0.5 - away) / scale) - torch.sigmoid((-0.5 - away) / scale)
    return -mass.clamp_min(2.0**-24).log2()


class PriorBlock(nn.Module):
    """Residual block of the prior: 3x3 depthwise, 1x1, ReLU, 1x1. [B, C, h, w] → [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.up = nn.Conv2d(channels, channels, 1)
        self.down = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        added: Tensor = x + self.down(F.relu(self.up(self.depthwise(x))))
        return added


class GroupNetwork(nn.Module):
    """Mean and log scale of a group of phases from the phases already known, for all channels at once."""

    def __init__(self, config: ScalarConfig, known: int, phases: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(known * config.channels, config.hidden, 3, padding=1)
        self.level = nn.Embedding(config.levels, config.hidden)
        self.body = nn.Sequential(*(PriorBlock(config.hidden) for _ in range(config.blocks)))
        self.head = nn.Conv2d(config.hidden, 2 * phases * config.channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.level.weight)

    def forward(self, known: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Known phases [B, known · C, r, c] of r×c cells → mean and log scale [B, phases · C, r, c]."""
        x = self.body(F.relu(self.stem(known) + self.level(level)[:, :, None, None]))
        mean, log_scale = self.head(F.relu(x)).chunk(2, 1)
        return mean, log_scale


class RateModel(nn.Module):
    """Bits of a grid of indices under the prior, in the coding order of a few passes.

    Positions are coded in four groups: every fourth row and column (by a table for each level and channel), the
    rest of every second row and column, the other diagonal of each 2x2 cell, the remaining two of each cell.
    Channels of a position are independent given the groups before: the encoder learns to make them so.
    """

    def __init__(self, config: ScalarConfig) -> None:
        super().__init__()
        self.config = config
        self.first_mean = nn.Parameter(torch.zeros(config.levels, config.channels))
        self.first_log_scale = nn.Parameter(torch.zeros(config.levels, config.channels))
        self.coarse = GroupNetwork(config, known=1, phases=3)
        self.diagonal = GroupNetwork(config, known=1, phases=1)
        self.rest = GroupNetwork(config, known=2, phases=2)

    def forward(self, quantized: ScalarQuantized, level: Tensor) -> Tensor:
        """Bits [B, C, h, w] of each index; rows and columns of the grid are multiples of 4."""
        indices, noisy = quantized.indices, quantized.noisy
        height, width = indices.shape[2:]
        if height % 4 or width % 4:
            raise ValueError(f"the rate of a grid of {height}x{width} is not taken: give multiples of 4")
        bits = torch.empty_like(indices)
        mean, log_scale = (p[level][:, :, None, None] for p in (self.first_mean, self.first_log_scale))
        bits[..., ::4, ::4] = logistic_bits(noisy[..., ::4, ::4], mean, log_scale)

        def code(network: GroupNetwork, known: list[Tensor], places: list[tuple[slice, slice]]) -> None:
            mean, log_scale = network(torch.cat(known, 1), level)
            of_phase = zip(places, mean.chunk(len(places), 1), log_scale.chunk(len(places), 1), strict=True)
            for (rows, columns), its_mean, its_log_scale in of_phase:
                bits[..., rows, columns] = logistic_bits(noisy[..., rows, columns], its_mean, its_log_scale)

        def every(start: int, step: int) -> slice:
            return slice(start, None, step)

        code(
            self.coarse,
            [indices[..., ::4, ::4]],
            [(every(0, 4), every(2, 4)), (every(2, 4), every(0, 4)), (every(2, 4), every(2, 4))],
        )
        code(self.diagonal, [indices[..., ::2, ::2]], [(every(1, 2), every(1, 2))])
        code(
            self.rest,
            [indices[..., ::2, ::2], indices[..., 1::2, 1::2]],
            [(every(0, 2), every(1, 2)), (every(1, 2), every(0, 2))],
        )
        return bits
