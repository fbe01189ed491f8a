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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndsc.codec.prior import FREQUENCY_BITS
from ndsc.codec.scalar_prior import GROUPS, CellGroup, ScalarPrior
from training.config import ScalarConfig
from training.integer import Convolution, Rounding, bounded, integers, rounded
from training.ranks import Ranks
from training.scalar_graph import BlockLayers, GroupLayers, Steps, scalar_prior

MEAN_BITS = 2
"""Means of the tables are whole quarters."""
SCALES = 40
LOWEST_SCALE, SCALE_STEP = 0.05, 0.15
"""Scales of the tables: 0.05 · exp(0.15 · i), from sure to nearly uniform."""
SCALE_BITS = 3
"""A network's output of 1 is 8 steps of the scale."""
GAIN_RATIO = 1.4
"""Before training: of a level's gain to that of the level below."""
START_SCALE = 20
"""Before training: a scale of 1."""
FRESH_SCALE = 10
"""Of a plane made anew: a scale of 0.22, since most of its indices are 0 at most levels."""


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

    def __init__(self, config: ScalarConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.ranks = Ranks()
        steps = torch.arange(config.levels) - (config.levels - 1)
        start = math.log(config.finest_gain) + math.log(GAIN_RATIO) * steps
        self.log_gain = nn.Parameter(start[:, None].repeat(1, channels))
        self.log_step = nn.Parameter(torch.zeros(config.levels, channels))
        """Of what an index is worth to the decoder, beside 1 / gain."""

    def share(self, ranks: Ranks) -> None:
        """From now on each of `ranks` sees its share of every batch, and its share of the noise."""
        self.ranks = ranks

    def forward(
        self, latents: Tensor, level: Tensor, generator: torch.Generator | None = None
    ) -> ScalarQuantized:
        """Quantize [B, C, h, w] at `level` int64 [B]; with a `generator` (training) the rate is taken at noise."""
        bound = float(self.config.bound)
        gain = self.log_gain[level].exp()[:, :, None, None]
        scaled = latents * gain
        clipped = bounded(scaled, -bound, bound)
        whole = clipped + (clipped.round() - clipped).detach()
        noisy = whole
        if generator is not None:
            batch = len(scaled) * self.ranks.count
            noise = torch.rand((batch, *scaled.shape[1:]), generator=generator, device=scaled.device) - 0.5
            noisy = clipped + noise[self.ranks.share(batch)]
        return ScalarQuantized(self.lookup(whole, level), whole, noisy)

    def lookup(self, numbers: Tensor, level: Tensor) -> Tensor:
        """Latents of whole numbers [B, C, h, w]."""
        return numbers * self.step_size(level)

    def step_size(self, level: Tensor) -> Tensor:
        """What an index of 1 is worth, [B, C, 1, 1]."""
        return (self.log_step[level] - self.log_gain[level]).exp()[:, :, None, None]


def table_bits(values: Tensor, mean: Tensor, scale: Tensor, bound: int) -> Tensor:
    """Bits of `values` under the frequency tables of logistic densities, elementwise.

    `scale` counts `SCALE_STEP`s above `LOWEST_SCALE`. As in the tables each of the 4 · bound + 1 offsets has a
    frequency of at least 1 of 2**16.
    """
    width = LOWEST_SCALE * (SCALE_STEP * scale).exp()
    away = (values - mean).abs()  # the density is symmetric: differences of small tails stay exact
    mass = torch.sigmoid((0.5 - away) / width) - torch.sigmoid((-0.5 - away) / width)
    least = 2.0**-FREQUENCY_BITS
    return -(mass * (1 - least * (4 * bound + 1)) + least).log2()


class RateBlock(nn.Module):
    """Residual block of the rate model: 3x3 depthwise, 1x1, 1x1. [B, C, h, w] → [B, C, h, w]."""

    def __init__(self, rounding: Rounding, channels: int) -> None:
        super().__init__()
        self.rounding = rounding
        self.depthwise = Convolution(rounding, channels, channels, 3, groups=channels)
        self.inner = Convolution(rounding, channels, channels, 1)
        self.outer = Convolution(rounding, channels, channels, 1, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in; activations in and out."""
        steps = self.rounding.to_steps
        branch = self.rounding.activation(steps(self.depthwise(x)), signed=True)
        branch = self.rounding.activation(steps(self.inner(branch)))
        return self.rounding.activation(x + steps(self.outer(branch)))

    def layers(self) -> BlockLayers:
        """In integers."""
        return BlockLayers(self.depthwise.layer(), self.inner.layer(), self.outer.layer())


class GroupNetwork(nn.Module):
    """Mean and scale of a group of phases from the phases already known, for all channels at once."""

    def __init__(self, config: ScalarConfig, channels: int, known: int, phases: int) -> None:
        super().__init__()
        self.bound, self.channels = config.bound, channels
        self.rounding = Rounding()
        self.stem = Convolution(self.rounding, known * channels, config.hidden, 3)
        self.level = nn.Parameter(torch.zeros(config.levels, config.hidden))
        self.blocks = nn.ModuleList(RateBlock(self.rounding, config.hidden) for _ in range(config.blocks))
        self.head = Convolution(self.rounding, config.hidden, 2 * phases * channels, 1, gain=0.1)
        with torch.no_grad():
            self.head.bias[phases * channels :] = START_SCALE / (1 << SCALE_BITS)

    def forward(self, known: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Known phases [B, known · C, r, c] of r×c cells → `quantized_parameters` [B, phases · C, r, c] each."""
        x = self.stem(known) + self.rounding.sums(self.level)[level][:, :, None, None]
        x = self.rounding.activation(self.rounding.to_steps(x))
        for block in self.blocks:
            x = block(x)
        mean, scale = self.head(x).chunk(2, 1)
        return quantized_parameters(mean, scale, self.bound)

    @torch.no_grad()
    def forget(self, planes: Tensor) -> None:
        """Nothing is told by `planes` int64 [P], and of them a mean of 0 and `FRESH_SCALE` wherever they are."""
        hidden, inputs, outputs = len(self.stem.weight), self.stem.weight.shape[1], len(self.head.weight)
        self.stem.weight.view(hidden, inputs // self.channels, self.channels, 3, 3)[:, :, planes] = 0
        means_and_scales = (2, outputs // 2 // self.channels, self.channels)
        self.head.weight.view(*means_and_scales, hidden)[:, :, planes] = 0
        mean, scale = self.head.bias.view(*means_and_scales)
        mean[:, planes], scale[:, planes] = 0, FRESH_SCALE / (1 << SCALE_BITS)

    def layers(self) -> GroupLayers:
        """In integers."""
        sum_bits = self.rounding.weight_bits + self.rounding.activation_bits
        return GroupLayers(
            self.stem.layer(),
            integers(self.rounding.sums(self.level), sum_bits),
            [block.layers() for block in self.blocks if isinstance(block, RateBlock)],
            self.head.layer(),
        )


def quantized_parameters(mean: Tensor, scale: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """A network's outputs → mean in whole quarters within ±bound, and scale as a whole number of steps."""
    mean = bounded(rounded(mean, MEAN_BITS), -bound, bound)
    return mean, bounded(rounded(scale, SCALE_BITS) * (1 << SCALE_BITS), 0, SCALES - 1)


@dataclass(frozen=True)
class Prediction:
    """Mean and scale of the indices of one phase, in the units of `table_bits`."""

    group: CellGroup
    at: tuple[Any, ...]
    """Slices of [B, C, h, w] that pick the phase."""
    mean: Tensor
    """[B, C, r, c], or [B, C, 1, 1] of the first group; `scale` too."""
    scale: Tensor


def phase_slices(group: CellGroup, number: int) -> tuple[Any, ...]:
    """Slices of [..., h, w] that pick a phase of a group."""
    a, b = group.phases[number]
    return ..., slice(a, None, group.side), slice(b, None, group.side)


class RateModel(nn.Module):
    """Bits of a grid of indices under the prior, in the coding order of a few passes.

    Positions are coded in the groups of `ndsc.codec.scalar_prior`, the first by tables for each level and channel.
    Channels of a position are independent given the groups before: the encoder learns to make them so. Everything
    is rounded as in an integer prior (`training.integer`): the rate that is trained is the rate that is paid.
    """

    def __init__(self, config: ScalarConfig, channels: int) -> None:
        super().__init__()
        self.bound = config.bound
        self.first_mean = nn.Parameter(torch.zeros(config.levels, channels))
        self.first_scale = nn.Parameter(
            torch.full((config.levels, channels), START_SCALE / (1 << SCALE_BITS))
        )
        for group in GROUPS[1:]:
            network = GroupNetwork(config, channels, len(group.known), len(group.phases))
            self.add_module(group.name, network)

    def networks(self) -> Iterator[tuple[CellGroup, GroupNetwork]]:
        """Every group but the first, in coding order."""
        for group in GROUPS[1:]:
            network = self.get_submodule(group.name)
            assert isinstance(network, GroupNetwork)
            yield group, network

    @torch.no_grad()
    def forget(self, planes: Tensor) -> None:
        """What was learned of `planes` int64 [P], which then tell the others nothing and have `FRESH_SCALE`."""
        self.first_mean[:, planes], self.first_scale[:, planes] = 0, FRESH_SCALE / (1 << SCALE_BITS)
        for _, network in self.networks():
            network.forget(planes)

    @torch.no_grad()
    def prior(self) -> ScalarPrior:
        """The bundle's prior, whose sums are bit for bit those computed here."""
        mean, scale = quantized_parameters(self.first_mean, self.first_scale, self.bound)
        quarters, scales = ((1 << MEAN_BITS) * mean).int().tolist(), scale.int().tolist()
        rounding = Rounding()
        return scalar_prior(
            {group.name: network.layers() for group, network in self.networks()},
            list(zip(quarters, scales, strict=True)),
            bound=self.bound,
            scales=[LOWEST_SCALE * math.exp(SCALE_STEP * i) for i in range(SCALES)],
            steps=Steps(rounding.activation_bits, rounding.weight_bits, MEAN_BITS, SCALE_BITS),
        )

    def forward(self, quantized: ScalarQuantized, level: Tensor) -> Tensor:
        """Bits [B, C, h, w] of each index; rows and columns of the grid are multiples of 4."""
        with torch.autocast(quantized.indices.device.type, enabled=False):
            return self._bits(quantized.indices.float(), quantized.noisy.float(), level)

    def _bits(self, indices: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        height, width = indices.shape[2:]
        if height % 4 or width % 4:
            raise ValueError(f"the rate of a grid of {height}x{width} is not taken: give multiples of 4")
        bits = torch.empty_like(indices)
        for of in self.predictions(indices, level):
            bits[of.at] = table_bits(noisy[of.at], of.mean, of.scale, self.bound)
        return bits

    def predictions(self, indices: Tensor, level: Tensor) -> Iterator[Prediction]:
        """What each phase's indices are coded with, in coding order, from `indices` [B, C, h, w] before them."""
        mean, scale = quantized_parameters(self.first_mean, self.first_scale, self.bound)
        first = GROUPS[0]
        yield Prediction(
            first, phase_slices(first, 0), mean[level][:, :, None, None], scale[level][:, :, None, None]
        )
        for group, network in self.networks():
            side, phases = group.side, len(group.phases)
            known = [indices[..., a::side, b::side] for a, b in group.known]
            mean, scale = network(torch.cat(known, 1), level)
            for number, parameters in enumerate(
                zip(mean.chunk(phases, 1), scale.chunk(phases, 1), strict=True)
            ):
                yield Prediction(group, phase_slices(group, number), *parameters)
