"""The paper's convolutional conditional VQ-VAE (Figure 2), families 8x, 4x and 2x, and its three modes.

    x ── Encoder ── 1x1 ── codebook ── indices ── 3x3 ─┐
    (y, joint mode only)                               ├─ Decoder ── x̂
    y ── SideNetwork ──────────────────────────────────┘

What is sent is the same in every mode: one index of `bits` bits for each position of the latent grid. The modes
differ only in who sees y (paper, Figure 4):

    joint        encoder and decoder
    distributed  the decoder alone
    separate     neither: y is replaced by a constant picture, the network stays the same
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import JsonConfig
from training.quantizer import Quantized, ResidualQuantizer


class Mode(StrEnum):
    """Who sees the side information."""

    JOINT = "joint"
    DISTRIBUTED = "distributed"
    SEPARATE = "separate"


@dataclass(frozen=True)
class FamilyConfig(JsonConfig):
    """One family of the paper, with as many halvings as `channels` has entries after the first."""

    channels: tuple[int, ...] = (48, 96, 192, 192)
    """Width at full size, 1/2, 1/4 … of the frame (h first)."""
    residual_channels: int = 48
    """r: width inside a residual layer."""
    residual_layers: int = 4
    """n: residual layers at each resolution."""
    bits: int = 8
    """Bits of one index: the codebook has 2^bits vectors."""
    latent_dimension: int = 64
    """Length of a code vector."""
    mode: str = Mode.DISTRIBUTED.value
    """A `Mode`."""
    side_channels: tuple[int, ...] = (3,)
    """Channels of each side view; the paper has one view of RGB."""
    source_channels: int = 3
    side_widths: tuple[int, ...] = ()
    """Widths of the side network's halvings; empty: those of the encoder."""
    decoder_stem: int = 0
    """Width of the decoder's first layer; 0: that of the encoder's last."""
    up_widths: tuple[int, ...] = ()
    """Widths of the decoder's doublings, 1/4 of the frame before 1/2; empty: the encoder's, backwards."""

    @property
    def stride(self) -> int:
        """Pixels of the frame to one position of the latent grid, each way: 8, 4 or 2."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def fixed_bpp(self) -> float:
        """Fixed-length rate: bits of the indices to one pixel of x."""
        return self.bits / self.stride**2

    def scaled(self, width: float, layers: int) -> FamilyConfig:
        """The same family with all widths times `width` and `layers` residual layers: for CPUs."""

        def times(widths: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(max(4, round(c * width / 4) * 4) for c in widths)

        return replace(
            self,
            channels=times(self.channels),
            residual_channels=times((self.residual_channels,))[0],
            residual_layers=layers,
            side_widths=times(self.side_widths),
            decoder_stem=times((self.decoder_stem,))[0] if self.decoder_stem else 0,
            up_widths=times(self.up_widths),
        )


FAMILIES: Final = {
    "8x": FamilyConfig(
        (48, 96, 192, 192), 48, 4, side_widths=(96, 96, 96, 96), decoder_stem=96, up_widths=(96, 96, 96)
    ),
    "8x-first": FamilyConfig(
        (32, 64, 128, 256), 32, 3, side_widths=(32, 64, 128, 128), decoder_stem=128, up_widths=(128, 64, 32)
    ),
    "4x": FamilyConfig(
        (64, 128, 256), 64, 4, side_widths=(64, 128, 256), decoder_stem=256, up_widths=(256, 128)
    ),
    "2x": FamilyConfig((64, 128), 64, 4, side_widths=(64, 256), decoder_stem=256, up_widths=(128,)),
}
"""The paper's families; "8x" is its second version ("big2"), "8x-first" the one of the CelebA-HQ experiment.

Widths of the side network and of the decoder are those of the reference's code (acnagle/neural-dsc, code/arch,
commit 9863104), where they are no mirror of the encoder's.
"""


class ResidualLayer(nn.Module):
    """GELU, 3x3 convolution to r channels, GELU, 1x1 back, added. [B, C, h, w] → [B, C, h, w]."""

    def __init__(self, channels: int, residual_channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, residual_channels, 3, padding=1)
        self.outer = nn.Conv2d(residual_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        added: Tensor = x + self.outer(F.gelu(self.inner(F.gelu(x))))
        return added


def _residual(config: FamilyConfig, channels: int) -> nn.Sequential:
    layers = (ResidualLayer(channels, config.residual_channels) for _ in range(config.residual_layers))
    return nn.Sequential(*layers)


def _down(config: FamilyConfig, widths: tuple[int, ...]) -> nn.Sequential:
    """Features at full size [B, h, H, W] → [B, C, H/stride, W/stride]: residual layers and a halving, repeated."""
    stages: list[nn.Module] = []
    for wide, wider in pairwise(widths):
        stages += [_residual(config, wide), nn.Conv2d(wide, wider, 4, stride=2, padding=1)]
    return nn.Sequential(*stages)


class Encoder(nn.Module):
    """x [B, 3, H, W] in [-0.5, 0.5] → latents [B, D, H/stride, W/stride].

    Half of the first layer's channels belong to y. They are zero unless the mode is joint, so that all modes cost
    the same.
    """

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__()
        half = config.channels[0] // 2
        self.source = nn.Conv2d(config.source_channels, config.channels[0] - half, 3, padding=1)
        joint = config.mode == Mode.JOINT
        self.side = nn.Conv2d(sum(config.side_channels), half, 3, padding=1) if joint else None
        self.padding_channels = half
        self.down = _down(config, config.channels)
        self.head = nn.Conv2d(config.channels[-1], config.latent_dimension, 1)

    def forward(self, source: Tensor, side: Tensor) -> Tensor:
        """Latents, unquantized; `side` [B, Σ side_channels, H, W] is looked at in joint mode alone."""
        x = self.source(source)
        y = (
            self.side(side)
            if self.side is not None
            else x.new_zeros(x.shape[0], self.padding_channels, *x.shape[2:])
        )
        latents: Tensor = self.head(self.down(torch.cat([x, y], 1)))
        return latents


class SideNetwork(nn.Module):
    """One view y [B, c, H, W] → features [B, C, H/stride, W/stride]: full-size layers, then halvings."""

    def __init__(self, config: FamilyConfig, side_channels: int) -> None:
        super().__init__()
        hidden, widths = config.channels[0], config.side_widths or config.channels
        self.stem = nn.Conv2d(side_channels, hidden, 3, padding=1)
        self.full_size = _residual(config, hidden)
        self.widen = nn.Conv2d(hidden, widths[0], 3, padding=1)
        self.down = _down(config, widths)

    def forward(self, view: Tensor) -> Tensor:
        """Features on the latent grid."""
        features: Tensor = self.down(self.widen(self.full_size(self.stem(view))))
        return features


class Decoder(nn.Module):
    """Quantized latents and features of every side view, both on the latent grid → x̂ in [-0.5, 0.5]."""

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__()
        stem = config.decoder_stem or config.channels[-1]
        side = (config.side_widths or config.channels)[-1]
        self.stem = nn.Conv2d(config.latent_dimension, stem, 3, padding=1)
        stages: list[nn.Module] = []
        wide = stem + side * len(config.side_channels)
        for narrower in config.up_widths or config.channels[-2::-1]:
            stages += [
                nn.ConvTranspose2d(wide, narrower, 4, stride=2, padding=1),
                _residual(config, narrower),
            ]
            wide = narrower
        self.up = nn.Sequential(*stages)
        self.head = nn.Conv2d(wide, config.source_channels, 3, padding=1)

    def forward(self, latents: Tensor, features: list[Tensor]) -> Tensor:
        """x̂ [B, 3, H, W]: the output is a sigmoid less 0.5."""
        x = self.up(torch.cat([self.stem(latents), *features], 1))
        return torch.sigmoid(self.head(x)) - 0.5


@dataclass(frozen=True)
class Coded:
    """What a forward pass gives: x̂ [B, 3, H, W] in [-0.5, 0.5] and the quantizer's result (one stage)."""

    output: Tensor
    quantized: Quantized


def quantize_one_stage(
    quantizer: ResidualQuantizer, latents: Tensor, quantize: bool, generator: torch.Generator | None
) -> Quantized:
    """Latents [B, D, h, w] through a quantizer of one stage, or past it (`quantize` False)."""
    if not quantize:
        none = torch.zeros(0, dtype=torch.int64, device=latents.device)
        return Quantized(latents, none, latents.new_zeros(()))
    one = torch.ones(len(latents), dtype=torch.int64, device=latents.device)
    quantized: Quantized = quantizer(latents, one, generator)
    return quantized


class ConvolutionalVQVAE(nn.Module):
    """Encoder, one codebook, side networks and decoder of one family in one mode."""

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualQuantizer((2**config.bits,), config.latent_dimension)
        self.side_networks = nn.ModuleList(SideNetwork(config, c) for c in config.side_channels)
        self.decoder = Decoder(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # What one output sees: all taps of a convolution, a quarter of a 4x4 stride-2 transposed one.
                weight = module.weight
                transposed = isinstance(module, nn.ConvTranspose2d)
                fan_in = weight[:, 0].numel() // 4 if transposed else weight[0].numel()
                nn.init.normal_(weight, std=1 / math.sqrt(fan_in))
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def seen(self, side: Tensor) -> Tensor:
        """The side information as this mode sees it: a constant picture when it is separate."""
        return torch.zeros_like(side) if self.config.mode == Mode.SEPARATE else side

    def encode(self, source: Tensor, side: Tensor) -> Tensor:
        """Latents [B, D, h, w] of x [B, 3, H, W]; y [B, Σ side_channels, H, W] counts in joint mode alone."""
        latents: Tensor = self.encoder(source, self.seen(side))
        return latents

    def decode(self, latents: Tensor, side: Tensor) -> Tensor:
        """x̂ from quantized latents and y (all views along the channels)."""
        views = torch.split(self.seen(side), list(self.config.side_channels), dim=1)
        features = [network(view) for network, view in zip(self.side_networks, views, strict=True)]
        output: Tensor = self.decoder(latents, features)
        return output

    def start_around(self, mean: float) -> None:
        """Let an untrained code put out about `mean`, between -0.5 and 0.5."""
        assert self.decoder.head.bias is not None
        nn.init.constant_(self.decoder.head.bias, math.log((0.5 + mean) / (0.5 - mean)))

    def start_blind(self) -> None:
        """Let an untrained joint encoder not see y yet."""
        if self.encoder.side is not None:
            nn.init.zeros_(self.encoder.side.weight)

    def forward(
        self, source: Tensor, side: Tensor, *, quantize: bool = True, generator: torch.Generator | None = None
    ) -> Coded:
        """Code and decode. With a `generator` (training) the codebook takes one EMA step."""
        quantized = quantize_one_stage(self.quantizer, self.encode(source, side), quantize, generator)
        return Coded(self.decode(quantized.latents, side), quantized)
