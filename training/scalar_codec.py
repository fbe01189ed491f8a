"""The codec that learns for rate and distortion at once, at all its rate levels.

    x ─ Encoder ─ latents ─ ScalarQuantizer at a level ─ indices ─┬─ RateModel ─ bits
                                                                  └─ Decoder with features of y ─ x̂

Encoder, side network and decoder are those of `training.model`; what differs is the quantizer (`training.scalar`)
and the loss, R + λD with a λ for each level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import ModelConfig, TrainConfig
from training.model import ConditionalVQVAE, Decoder, Encoder, OperatingPoint, SideNetwork, start_weights
from training.ms_ssim import ms_ssim
from training.scalar import RateModel, ScalarQuantizer

MS_SSIM_SCALE = 4300.0
"""1 - MS-SSIM times this is about the MSE on 0..255 of the same decoded street frame, so one λ does for both."""


@dataclass(frozen=True)
class RatedReconstruction:
    """What a forward pass gives: the frame [B, 3, H, W] (unclipped) and its bits [B]."""

    frame: Tensor
    bits: Tensor


def distortion_weights(config: TrainConfig, levels: int) -> Tensor:
    """λ of each level, float32 [levels], evenly spaced in log λ: weight of the MSE on 0..255 against bpp."""
    low, high = math.log(config.lowest_lambda), math.log(config.highest_lambda)
    return torch.linspace(low, high, levels).exp()


def distortion_of(frame: Tensor, source: Tensor, ms_ssim_share: float) -> Tensor:
    """D of frames [B, 3, H, W] in [0, 1], float32 [B]: the MSE on 0..255, or 1 - MS-SSIM in part."""
    squared = 255**2 * (frame - source).square().mean((1, 2, 3))
    if not ms_ssim_share:
        return squared
    return squared.lerp(MS_SSIM_SCALE * (1 - ms_ssim(frame, source)), ms_ssim_share)


class ScalarCodec(nn.Module):
    """Encoder, scalar quantizer, rate model, side network and conditional decoder."""

    quantity = "bpp"
    """The loss's part beside the distortion."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.side_network = SideNetwork(config)
        self.decoder = Decoder(config)
        start_weights(self, self.decoder)
        self.quantizer = ScalarQuantizer(config.scalar, config.latent_dimension)
        self.rate_model = RateModel(config.scalar, config.latent_dimension)

    def forward(
        self,
        frame: Tensor,
        side_information: Tensor,
        present: Tensor,
        level: Tensor,
        *,
        quantize: bool = True,
        generator: torch.Generator | None = None,
    ) -> RatedReconstruction:
        """Code and decode `frame` [B, 3, H, W] at `level` [B] with y where `present` [B] is 1.

        With a `generator` (training) bits are those of latents with noise. There is nothing to learn before the
        quantizer can start, so `quantize` must be true.
        """
        if not quantize:
            raise ValueError("the scalar codec quantizes from its first step on: set unquantized_steps to 0")
        quantized = self.quantizer(self.encoder(frame).float(), level, generator)
        bits = self.rate_model(quantized, level).float().sum((1, 2, 3))
        decoded = self.decoder(quantized.latents, level, self.side_network(side_information), present)
        return RatedReconstruction(decoded, bits)

    def losses(
        self, result: RatedReconstruction, source: Tensor, level: Tensor, config: TrainConfig
    ) -> Tensor:
        """float32 [3]: loss of the batch, MSE on [0, 1] and bits a pixel. D is the MSE, or MS-SSIM in part.

        A sample's R + λD is divided by the square root of its λ's share of the largest: else the highest level,
        whose losses are tens of times those of the lowest, would alone decide the shared weights.
        """
        pixels = source.shape[2] * source.shape[3]
        bpp = result.bits / pixels
        mse = (result.frame.float() - source).square().mean((1, 2, 3))
        weights = distortion_weights(config, self.config.levels).to(source.device)[level]
        balance = (weights / config.highest_lambda).rsqrt()
        distortion = distortion_of(result.frame.float(), source, config.ms_ssim_share)
        loss = ((bpp + weights * distortion) * balance).mean()
        return torch.stack([loss, mse.mean(), bpp.mean()])

    def operating_points(self, source: Tensor) -> list[OperatingPoint]:
        """Of frames [B, 3, H, W], one for each rate level."""
        latents = self.encoder(source)
        points = []
        for level in range(self.config.levels):
            at = torch.full((len(source),), level, device=source.device)
            quantized = self.quantizer(latents, at)
            bits = self.rate_model(quantized, at).sum((1, 2, 3))
            points.append(OperatingPoint(quantized.latents, bits))
        return points


Codec = ConditionalVQVAE | ScalarCodec


def build(config: ModelConfig) -> Codec:
    """The codec of these settings, before training."""
    return ConditionalVQVAE(config) if config.quantizer == "residual_vq" else ScalarCodec(config)
