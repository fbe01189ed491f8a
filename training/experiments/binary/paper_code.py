"""The paper's neural code for the binary source: its fully connected VQ-VAE with y added to the output.

Bits are ±0.5. The output is clip((1 − α) (sigmoid − 0.5) + α y) with α learned from 1, and the loss
−Σ log(1 − |x̂ − x| + 1e-6): minus the log-likelihood of x when x̂ + 0.5 is the probability of a 1.

That output cannot leave y while α > ½: the network's part is at most (1 − α) / 2, that of y is α / 2, so x̂ has the
sign of y whatever the message says. A loss that fits p keeps α close to 1. `Output.LOGITS` adds y before the
sigmoid instead, where a sure network outweighs it.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

from training.experiments.binary.blocks import Failures, draw
from training.paper.dense import DenseConfig, DenseVQVAE
from training.paper.fitting import Sampler


class Output(StrEnum):
    """How y enters the output."""

    MIXED = "mixed"
    """The paper's: clip((1 − α) (sigmoid − 0.5) + α y), α from 1."""
    LOGITS = "logits"
    """sigmoid(network + β y) − 0.5, β from 10: sure of y to 99.3 %."""


class PaperCode(DenseVQVAE):
    """`DenseVQVAE` with an output for bits; x and y are ±0.5."""

    def __init__(self, config: DenseConfig, output: Output = Output.MIXED) -> None:
        super().__init__(config)
        self.output = output
        self.side_weight = nn.Parameter(torch.tensor(1.0 if output is Output.MIXED else 10.0))
        """α or β."""

    def decode(self, latents: Tensor, side: Tensor) -> Tensor:
        """x̂ [B, length] in [−0.5, 0.5]."""
        own = super().decode(latents, side)
        if self.output is Output.LOGITS:
            return torch.sigmoid(own + self.side_weight * side) - 0.5
        own = torch.sigmoid(own) - 0.5
        return ((1 - self.side_weight) * own + self.side_weight * side).clamp(-0.5, 0.5)


def minus_log_likelihood(output: Tensor, source: Tensor) -> Tensor:
    """The paper's loss: [B, n] twice, ±0.5 → nats for a block, mean over the batch."""
    return -torch.log(1 - (output - source).abs() + 1e-6).sum(1).mean()


def sampler(bits: int, batch_size: int, crossover: float, seed: int, device: torch.device) -> Sampler:
    """Batches of (x, y) as ±0.5."""

    def sample(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        source, side = draw(batch_size, bits, crossover, generator, device)
        return source - 0.5, side - 0.5

    return sample


@torch.no_grad()
def measure(
    model: PaperCode, crossover: float, blocks: int, *, seed: int = 0, wrong_message: bool = False
) -> Failures:
    """Block errors of a trained code. `wrong_message`: each block is decoded with another block's message."""
    config = model.config
    device = model.side_weight.device
    generator = torch.Generator().manual_seed(seed)
    failed = done = 0
    while done < blocks:
        count = min(1000, blocks - done)
        x, y = draw(count, config.length, crossover, generator, device)
        latents = model(x - 0.5, y - 0.5).quantized.latents
        if wrong_message:
            latents = latents.roll(1, dims=0)
        output = model.decode(latents, y - 0.5)
        failed += int(((output > 0) != (x > 0.5)).any(1).sum())
        done += count
    return Failures(failed, blocks)
