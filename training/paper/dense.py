"""The paper's fully connected conditional VQ-VAE: for the binary source, for gradients, for small pictures.

    x ── Encoder ── positions x dimension ── codebook ── indices ─┐
    (y, joint mode only)                                          ├─ Decoder ── x̂
    y ── SideNetwork ─────────────────────────────────────────────┘

The number of residual blocks and what the decoder does with both inputs are not in the paper; here every network
has `blocks` of them and the decoder sees one vector, the latents' features beside those of y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import JsonConfig
from training.paper.convolutional import Coded, Mode, quantize_one_stage
from training.quantizer import ResidualQuantizer


@dataclass(frozen=True)
class DenseConfig(JsonConfig):
    """Sizes of one fully connected code. The defaults are those of the binary source."""

    length: int = 648
    """n: length of x and of y."""
    positions: int = 162
    """Indices sent for one x."""
    bits: int = 1
    """Bits of one index."""
    latent_dimension: int = 128
    """Length of a code vector."""
    hidden: int = 256
    residual: int = 64
    """Width inside a residual block."""
    blocks: int = 2
    mode: str = Mode.DISTRIBUTED.value
    """A `Mode`."""

    @property
    def message_bits(self) -> int:
        """Bits sent for one x."""
        return self.positions * self.bits


class ResidualBlock(nn.Module):
    """Three layers, `hidden` → `residual` → `residual` → `hidden`, GELU before each, added."""

    def __init__(self, hidden: int, residual: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Linear(hidden, residual),
            nn.GELU(),
            nn.Linear(residual, residual),
            nn.GELU(),
            nn.Linear(residual, hidden),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        added: Tensor = x + self.layers(x)
        return added


def _blocks(config: DenseConfig, hidden: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(hidden, config.residual) for _ in range(config.blocks)))


class DenseVQVAE(nn.Module):
    """Encoder, one codebook for all positions, side network and decoder, in one of the three modes.

    x and y are float32 [B, length]. The decoder's output is linear; what it means (a probability, a gradient) is
    the experiment's affair.
    """

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        hidden, half = config.hidden, config.hidden // 2
        self.source = nn.Linear(config.length, hidden - half)
        self.side = nn.Linear(config.length, half) if config.mode == Mode.JOINT else None
        self.body = _blocks(config, hidden)
        self.head = nn.Linear(hidden, config.positions * config.latent_dimension)
        self.quantizer = ResidualQuantizer((2**config.bits,), config.latent_dimension)
        self.side_network = nn.Sequential(
            nn.Linear(config.length, hidden), _blocks(config, hidden), nn.Linear(hidden, config.length)
        )
        self.decoder_stem = nn.Linear(config.positions * config.latent_dimension, hidden)
        self.decoder_body = nn.Sequential(
            nn.Linear(hidden + config.length, hidden), _blocks(config, hidden), nn.GELU()
        )
        self.decoder_head = nn.Linear(hidden, config.length)

    def seen(self, side: Tensor) -> Tensor:
        """The side information as this mode sees it: zeros when it is separate."""
        return torch.zeros_like(side) if self.config.mode == Mode.SEPARATE else side

    def encode(self, source: Tensor, side: Tensor) -> Tensor:
        """Latents [B, D, 1, positions] of x [B, length]; y [B, length] counts in joint mode alone."""
        x = self.source(source)
        half = self.config.hidden // 2
        y = self.side(self.seen(side)) if self.side is not None else x.new_zeros(len(x), half)
        latents: Tensor = self.head(self.body(torch.cat([x, y], 1)))
        return latents.view(len(x), self.config.latent_dimension, 1, self.config.positions)

    def decode(self, latents: Tensor, side: Tensor) -> Tensor:
        """[B, length] from quantized latents and y."""
        features = torch.cat([self.decoder_stem(latents.flatten(1)), self.side_network(self.seen(side))], 1)
        output: Tensor = self.decoder_head(self.decoder_body(features))
        return output

    def start_blind(self) -> None:
        """Let an untrained joint encoder not see y yet."""
        if self.side is not None:
            nn.init.zeros_(self.side.weight)
            nn.init.zeros_(self.side.bias)

    def forward(
        self, source: Tensor, side: Tensor, *, quantize: bool = True, generator: torch.Generator | None = None
    ) -> Coded:
        """Code and decode. With a `generator` (training) the codebook takes one EMA step."""
        quantized = quantize_one_stage(self.quantizer, self.encode(source, side), quantize, generator)
        return Coded(self.decode(quantized.latents, side), quantized)


class DensePictureVQVAE(DenseVQVAE):
    """`DenseVQVAE` of pictures [B, C, H, W] in [-0.5, 0.5], whose pixels are the vector."""

    def encode(self, source: Tensor, side: Tensor) -> Tensor:
        """Latents [B, D, 1, positions] of x; y counts in joint mode alone."""
        return super().encode(source.flatten(1), side.flatten(1))

    def decode(self, latents: Tensor, side: Tensor) -> Tensor:
        """x̂ of the shape of y: a sigmoid less 0.5, as in `ConvolutionalVQVAE`."""
        return torch.sigmoid(super().decode(latents, side.flatten(1)).view_as(side)) - 0.5

    def start_around(self, mean: float) -> None:
        """Let an untrained code put out about `mean`, between -0.5 and 0.5."""
        nn.init.constant_(self.decoder_head.bias, math.log((0.5 + mean) / (0.5 - mean)))
