"""The conditional VQ-VAE of the paper (Figure 2), in its 8x family.

    x ─ Encoder ─ latents ─ ResidualQuantizer ─ indices ─┐
                                                         ├─ Decoder ─ x̂
    y ─ SideNetwork ─ features at 1/8 and 1/4 ───────────┘

Encoder and quantizer see x only; the decoder sees the indices and y. Against the paper's network: the first
layer is a pixel-unshuffle and the work is depthwise and 1x1 convolutions at 1/8 (a camera node pays for every
MAC), and the decoder may align y by attention along rows, since rectified views match on the same row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ActivationKind, ModelConfig, TrainConfig
from training.layers import Depthwise, Patches, Pointwise
from training.quantizer import Quantized, ResidualQuantizer


class Block(nn.Module):
    """Residual block: 5x5 depthwise, 1x1 up, GELU or ReLU, 1x1 down. [B, C, h, w] → [B, C, h, w]."""

    def __init__(self, channels: int, activation: ActivationKind, expansion: int = 2) -> None:
        super().__init__()
        self.activation = activation
        self.depthwise = Depthwise(channels, 5)
        self.up = Pointwise(channels, channels * expansion)
        self.down = Pointwise(channels * expansion, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        wide = self.up(self.depthwise(x))
        active = F.gelu(wide, approximate="tanh") if self.activation == "gelu" else F.relu(wide)
        branch: Tensor = self.down(active)
        return x + branch


def blocks(count: int, channels: int, activation: ActivationKind = "gelu") -> nn.Sequential:
    """`count` residual blocks in a row."""
    return nn.Sequential(*(Block(channels, activation) for _ in range(count)))


class Encoder(nn.Module):
    """Frame [B, 3, H, W] in [0, 1] → latents [B, D, H/8, W/8]. Sees x only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.encoder_channels or config.channels
        self.stem = Patches(3, config.stride, channels)
        self.body = blocks(config.encoder_blocks, channels, config.encoder_activation)
        self.head = Pointwise(channels, config.latent_dimension)

    def forward(self, frame: Tensor) -> Tensor:
        """Latents, unquantized."""
        latents: Tensor = self.head(self.body(self.stem(frame)))
        return latents


class RowAttention(nn.Module):
    """Aligns y to x: each position of x attends to every position of y on the same row.

    In a rectified pair a scene point lies on one row in both views, shifted by its disparity. A learned bias by
    offset tells likely disparities from unlikely ones; offsets past `reach` share one bias, so any width works.
    """

    def __init__(self, channels: int, heads: int, reach: int) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.query = Pointwise(channels, channels)
        self.key = Pointwise(channels, channels)
        self.value = Pointwise(channels, channels)
        self.offset_bias = nn.Parameter(torch.zeros(heads, 2 * reach + 1))

    def _rows(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → [B·h, heads, w, C/heads]."""
        batch, channels, height, width = features.shape
        split = features.reshape(batch, self.heads, channels // self.heads, height, width)
        return split.permute(0, 3, 1, 4, 2).reshape(batch * height, self.heads, width, channels // self.heads)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Features of y [B, C, h, w], moved to where x [B, C, h, w] sees them: [B, C, h, w]."""
        batch, channels, height, width = x.shape
        query, key, value = self._rows(self.query(x)), self._rows(self.key(y)), self._rows(self.value(y))
        columns = torch.arange(width, device=x.device)
        offsets = (columns[None, :] - columns[:, None]).clamp(-self.reach, self.reach) + self.reach
        scores = query @ key.transpose(-1, -2) / math.sqrt(channels // self.heads)
        weights = (scores + self.offset_bias[:, offsets]).softmax(-1)
        rows = (weights @ value).reshape(batch, height, self.heads, width, channels // self.heads)
        return rows.permute(0, 2, 4, 1, 3).reshape(batch, channels, height, width)


class Gate(nn.Module):
    """How much of y's features counts, for each position and channel.

    It sees x, the features, and their product, which is large where they agree; each at the position and over the
    whole picture: single positions of another place may agree by chance.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.here = Pointwise(3 * channels, channels)
        self.everywhere = Pointwise(3 * channels, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y [B, C, h, w] → weights in (0, 1) [B, C, h, w], about 0.9 before training."""
        both = torch.cat([x, y, x * y], 1)
        return torch.sigmoid(self.here(both) + self.everywhere(both.mean((2, 3), keepdim=True)) + 2)


class Merge(nn.Module):
    """Brings y's features into the decoder: as they lie, aligned by rows, or "absent" when there is no y."""

    def __init__(self, channels: int, heads: int, reach: int, config: ModelConfig) -> None:
        super().__init__()
        sources = 2 if config.alignment else 1
        self.attention = RowAttention(channels, heads, reach) if config.alignment else None
        self.mix = Pointwise(channels * (1 + sources), channels)
        self.gate = Gate(channels) if config.gate else None
        self.absent = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, y: Tensor, present: Tensor) -> Tensor:
        """x, y [B, C, h, w]; present [B, 1, 1, 1] is 1 with side information and 0 without."""
        of_side = [y, self.attention(x, y)] if self.attention is not None else [y]
        weight = present
        if self.gate is not None:
            weight = present * self.gate(x, of_side[-1])
        merged: Tensor = self.mix(torch.cat([x, *(part * weight for part in of_side)], 1))
        return x + merged + self.absent * (1 - present)


@dataclass(frozen=True)
class SideFeatures:
    """Features of y: `eighth` [B, C, H/8, W/8] and `quarter` [B, C4, H/4, W/4]."""

    eighth: Tensor
    quarter: Tensor


class SideNetwork(nn.Module):
    """Side information y [B, 3, H, W] in [0, 1] → features at 1/8 and 1/4 resolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eighth_stem = Patches(3, 8, config.channels)
        self.eighth_body = blocks(config.side_blocks, config.channels)
        self.quarter_stem = Patches(3, 4, config.quarter_channels)
        self.quarter_body = blocks(2, config.quarter_channels)

    def forward(self, side_information: Tensor) -> SideFeatures:
        """Features of y at both resolutions."""
        return SideFeatures(
            self.eighth_body(self.eighth_stem(side_information)),
            self.quarter_body(self.quarter_stem(side_information)),
        )


class Decoder(nn.Module):
    """Quantized latents [B, D, H/8, W/8] and features of y → frame [B, 3, H, W], unclipped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c8, c4 = config.channels, config.quarter_channels
        self.stem = nn.Conv2d(config.latent_dimension, c8, 3, padding=1)
        self.level = nn.Embedding(config.levels, c8)
        self.first = blocks(2, c8)
        self.merge_eighth = Merge(c8, heads=4, reach=16, config=config)
        self.body_eighth = blocks(config.decoder_blocks, c8)
        self.up = Pointwise(c8, 4 * c4)
        self.merge_quarter = Merge(c4, heads=2, reach=32, config=config)
        self.body_quarter = blocks(config.decoder_blocks, c4)
        self.head = Pointwise(c4, 3 * 16)

    def forward(self, latents: Tensor, level: Tensor, side: SideFeatures, present: Tensor) -> Tensor:
        """`level` int64 [B], `present` float [B] (1: y is there)."""
        there = present[:, None, None, None]
        x = self.first(self.stem(latents) + self.level(level)[:, :, None, None])
        x = self.body_eighth(self.merge_eighth(x, side.eighth, there))
        x = F.pixel_shuffle(self.up(x), 2)
        x = self.body_quarter(self.merge_quarter(x, side.quarter, there))
        return F.pixel_shuffle(self.head(x), 4) + 0.5


def start_weights(codec: nn.Module, decoder: Decoder) -> None:
    """Weights of `codec` before training: those of `start_layers`, and pictures small."""
    start_layers(codec)
    with torch.no_grad():  # the first pictures are mid-grey, not noise of ten times the pixel range
        decoder.head.weight.mul_(0.05)


def start_layers(network: nn.Module) -> None:
    """Weights before training: normal by fan-in, biases zero, residual branches small."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | Pointwise):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in))
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):  # a residual branch starts small: depth then costs no stability
            with torch.no_grad():
                module.down.weight.mul_(0.2)


@dataclass(frozen=True)
class Reconstruction:
    """What a forward pass of the VQ-VAE gives: the frame [B, 3, H, W] (unclipped) and the quantizer's result."""

    frame: Tensor
    quantized: Quantized


@dataclass(frozen=True)
class OperatingPoint:
    """What the decoder receives at one rate level, in evaluation."""

    latents: Tensor
    """[B, D, h, w]."""
    bits: Tensor | None
    """[B], estimated by the codec's own rate model; None where it has none."""


class ConditionalVQVAE(nn.Module):
    """Encoder, residual vector quantizer, side network and conditional decoder."""

    quantity = "commitment"
    """The loss's part beside the distortion."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualQuantizer(config.codebook_sizes, config.latent_dimension)
        self.side_network = SideNetwork(config)
        self.decoder = Decoder(config)
        start_weights(self, self.decoder)

    def forward(
        self,
        frame: Tensor,
        side_information: Tensor,
        present: Tensor,
        level: Tensor,
        *,
        quantize: bool = True,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Code and decode `frame` [B, 3, H, W] at `level` [B] with y where `present` [B] is 1."""
        latents = self.encoder(frame)
        if quantize:
            quantized = self.quantizer(latents, level + 1, generator)
        else:
            no_indices = torch.zeros(0, dtype=torch.int64, device=frame.device)
            quantized = Quantized(latents, no_indices, latents.new_zeros(()))
        decoded = self.decoder(quantized.latents, level, self.side_network(side_information), present)
        return Reconstruction(decoded, quantized)

    def losses(self, result: Reconstruction, source: Tensor, level: Tensor, config: TrainConfig) -> Tensor:
        """float32 [3]: loss of the batch, MSE on [0, 1] and commitment."""
        mse = (result.frame.float() - source).square().mean()
        commitment = result.quantized.commitment
        return torch.stack([config.distortion_weight * mse + config.commitment * commitment, mse, commitment])

    def operating_points(self, source: Tensor) -> list[OperatingPoint]:
        """Of frames [B, 3, H, W], one for each rate level."""
        indices = self.quantizer(self.encoder(source)).indices
        levels = torch.arange(self.config.levels, device=source.device)
        return [OperatingPoint(self.quantizer.lookup(indices, level[None] + 1), None) for level in levels]
