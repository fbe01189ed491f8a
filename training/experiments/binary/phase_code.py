"""A neural code whose message is of use: a periodic encoder and a decoder of dense layers, both learned.

A block of n bits is cut into pieces of `piece_bits`, and one small code sends `message_bits` bits of each:

    message     z_j(x) = sign cos(π (w_j · x + φ_j))     learned: w, real numbers that start uniform in [0, 1)
    decoder     x̂ = y with the bits flipped that a network of dense layers names from z(x) ⊙ z(y)

z_j is a parity of x where w_j is whole. A network hardly finds parities of many bits by gradients on bits: the
mean of a product of n soft factors, and its gradient with it, vanishes with n. Phases do not: z(x) and z(y) agree
with a probability that depends on w_j · (x − y) alone, the few bits that differ, however long the piece. So in
training both ends share a random φ (a dither), the bits are true bits, and the gradient is that of
cos(π w_j · (x − y)). A weight between whole numbers makes its bit unreliable, which pulls it to a whole number;
nothing else tells the encoder to send parities, or which. In the last part of training weights are rounded, φ is 0
and the decoder fits what will be used.

Given, not learned: the cosine, the pieces, one w at both ends, and that the decoder sees the products z(x) z(y).
The loss is the paper's: minus the log-likelihood of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import JsonConfig
from training.experiments.binary.blocks import Failures, draw
from training.paper.fitting import FitError


@dataclass(frozen=True)
class PhaseConfig(JsonConfig):
    """One code and its training run."""

    piece_bits: int = 24
    message_bits: int = 6
    """Sent for one piece."""
    hidden: int = 256
    learned_encoder: bool = True
    """False: random parities that stay, for comparison."""
    steps: int = 1500
    rounded: float = 0.2
    """Last part of the run in which the encoder's weights are rounded."""
    batch_size: int = 512
    encoder_rate: float = 1e-2
    decoder_rate: float = 3e-3
    crossover: float = 0.01
    """p of the training pairs."""
    seed: int = 0


class PhaseCode(nn.Module):
    """Encoder and decoder for one piece."""

    def __init__(self, config: PhaseConfig) -> None:
        super().__init__()
        self.config = config
        weights = torch.rand(config.message_bits, config.piece_bits)
        self.weights = nn.Parameter(weights if config.learned_encoder else weights.round())
        self.weights.requires_grad_(config.learned_encoder)
        self.decoder = nn.Sequential(
            nn.Linear(config.message_bits, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.piece_bits),
        )

    @property
    def parities(self) -> Tensor:
        """What the trained encoder sends: float32 [message_bits, piece_bits] of 0 and 1."""
        parities: Tensor = self.weights.detach().round().remainder(2)
        return parities

    def encode(self, source: Tensor) -> Tensor:
        """Message, [B, message_bits] of 0 and 1, of pieces x [B, piece_bits] of 0 and 1."""
        message: Tensor = (source @ self.parities.T).remainder(2)
        return message

    def decode(self, message: Tensor, side: Tensor) -> Tensor:
        """x̂ [B, piece_bits] of 0 and 1 from a message and y."""
        agreement = 1 - 2 * (message - self.encode(side)).abs()
        flips = (self.decoder(agreement) > 0).to(side.dtype)
        output: Tensor = (side - flips).abs()
        return output

    def loss(self, source: Tensor, side: Tensor, *, rounded: bool, generator: torch.Generator) -> Tensor:
        """Nats for a piece, −log P(x | message, y), mean over the batch."""
        weights: Tensor = self.weights
        if rounded:
            weights = weights + (weights.round() - weights).detach()
        phase = (source - side) @ weights.T
        smooth = torch.cos(math.pi * phase)
        with torch.no_grad():
            dither = torch.zeros(phase.shape, device=phase.device)
            if not rounded:
                dither = torch.rand(phase.shape, generator=generator).to(phase.device)
            ends = [torch.cos(math.pi * (bits @ weights.T + dither)).sign() for bits in (source, side)]
            sent = ends[0] * ends[1]
        flips = self.decoder(smooth + (sent - smooth).detach())
        flipped = (source - side).abs()
        return F.binary_cross_entropy_with_logits(flips, flipped, reduction="none").sum(1).mean()


def train(
    config: PhaseConfig,
    *,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PhaseCode:
    """A code trained with the dials of `config`. Raises FitError when the loss is not finite."""
    torch.manual_seed(config.seed)
    code = PhaseCode(config).to(device)
    optimizer = torch.optim.Adam(
        [
            {"params": [code.weights], "lr": config.encoder_rate},
            {"params": code.decoder.parameters(), "lr": config.decoder_rate},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    last = torch.zeros(())
    for step in range(config.steps):
        source, side = draw(config.batch_size, config.piece_bits, config.crossover, generator, device)
        rounded = not config.learned_encoder or step >= (1 - config.rounded) * config.steps
        loss = code.loss(source, side, rounded=rounded, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        last = loss.detach()
        progress(step + 1, config.steps)
    if not math.isfinite(float(last)):
        raise FitError(f"the loss is {float(last)}: lower the learning rates")
    return code


class LikeliestPattern:
    """The best decoder for the parities of a code: of the error patterns with the syndrome, a lightest one.

    A table of all syndromes, filled with patterns of weight 0 to `weight`; nothing in it is learned.
    """

    def __init__(self, parities: Tensor, weight: int = 3) -> None:
        columns = (parities.cpu().numpy().astype(np.int64).T << np.arange(len(parities))).sum(1)
        bits = len(columns)
        self.patterns = np.zeros((2 ** len(parities), bits), np.uint8)
        free = np.ones(len(self.patterns), bool)
        free[0] = False
        for count in range(1, weight + 1):
            chosen = np.array(list(combinations(range(bits), count)))
            syndromes, first = np.unique(np.bitwise_xor.reduce(columns[chosen], axis=1), return_index=True)
            new = free[syndromes]
            self.patterns[syndromes[new, None], chosen[first[new]]] = 1
            free[syndromes[new]] = False

    def decode(self, syndrome: Tensor) -> Tensor:
        """Patterns [B, piece_bits] of syndromes [B, message_bits], 0 and 1."""
        keys = (syndrome.cpu().numpy().astype(np.int64) << np.arange(syndrome.shape[1])).sum(1)
        return torch.from_numpy(self.patterns[keys]).to(syndrome)


@torch.no_grad()
def measure(
    code: PhaseCode,
    crossover: float,
    blocks: int,
    block_bits: int,
    *,
    table: LikeliestPattern | None = None,
    seed: int = 0,
    wrong_message: bool = False,
) -> Failures:
    """Block errors of a trained code; a block fails when one of its pieces does.

    Args:
        code: for the pieces.
        crossover: p.
        blocks: how many are sent.
        block_bits: a multiple of the piece.
        table: decodes instead of the code's own decoder.
        seed: of the blocks.
        wrong_message: each block is decoded with another block's message.
    """
    device = code.weights.device
    generator = torch.Generator().manual_seed(seed)
    failed = done = 0
    while done < blocks:
        count = min(2000, blocks - done)
        x, y = draw(count, block_bits, crossover, generator, device)
        source, side = x.view(-1, code.config.piece_bits), y.view(-1, code.config.piece_bits)
        message = code.encode(source)
        if wrong_message:
            message = message.roll(block_bits // code.config.piece_bits, dims=0)
        if table is None:
            output = code.decode(message, side)
        else:
            output = (side - table.decode((message - code.encode(side)).abs())).abs()
        failed += int((output.view(count, -1) != x).any(1).sum())
        done += count
    return Failures(failed, blocks)
