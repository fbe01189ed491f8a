"""Proposition 1 of the paper, the distributed evidence lower bound (dELBO), as a training objective.

The source x is made from the side information y and a latent z that does not depend on y, y → x ← z:

    p(x, y, z) = p(x | y, z) p(y) p(z).

For any q(z), where p(x, z | y) = p(x | y, z) p(z | y) and p(z | y) = p(z),

    log p(x | y) = E_q[ log p(x, z | y) / p(z | x, y) ]
                 = E_q[ log p(x | y, z) p(z) / q(z) ] + E_q[ log q(z) / p(z | x, y) ]
                 = E_q[ log p(x | y, z) ] − KL( q(z) ‖ p(z) ) + KL( q(z) ‖ p(z | x, y) ).

The last term is never negative: without it the line is a lower bound, and the term is its gap. q may look at both
views or at one:

    q(z | x, y)   conditional ELBO   the encoder sees y; tight when q is p(z | x, y)
    q(z | x)      distributed ELBO   it does not; tight when, besides, p(z | x, y) does not depend on y

Among all q(z | x) the best is proportional to exp E_{p(y|x)}[ log p(z | x, y) ], since the mean gap over y is
the KL to it and a constant.

**A VQ-VAE is the special case** of a q that puts all its mass on one index of a codebook at each position
(`codebook_posterior`), a uniform p(z) (`uniform_prior`) and a normal p(x | y, z) around the decoder's output x̂
(`normal_around`). For n positions, K code vectors and d samples of x the bound is

    −‖x − x̂‖² / 2σ² − (d/2) log 2πσ² − n log K:

distortion up to constants, and the fixed-length rate, n log2 K bits. A prior learned afterwards turns n log K into
−log p(z), what an entropy coder spends. That q has no gradient: the straight-through estimate and the commitment
loss stand in for it and are no part of the bound.

All figures are nats for each sample of the batch; `BITS_PER_NAT` converts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

BITS_PER_NAT: Final = 1 / math.log(2)

Decoder = Callable[[Tensor, Tensor], Distribution]
"""(y [B, …], z [B, …]) → p(x | y, z) with batch shape [B]."""


@dataclass(frozen=True)
class Bound:
    """Both terms of a lower bound on log p(x | y), [B] each, in nats."""

    log_likelihood: Tensor
    """E_q[ log p(x | y, z) ], a Monte Carlo mean over z unless q is deterministic."""
    rate: Tensor
    """KL( q ‖ p(z) ), exact."""

    @property
    def value(self) -> Tensor:
        """The bound, [B]; its negative mean is the loss to train encoder, decoder and prior with."""
        return self.log_likelihood - self.rate


def distributed_elbo(
    source: Tensor,
    side: Tensor,
    encoder: Callable[[Tensor], Distribution],
    decoder: Decoder,
    prior: Distribution,
    samples: int = 1,
) -> Bound:
    """The bound of Proposition 1: the encoder is given x and nothing else.

    Args:
        source: x [B, …].
        side: y [B, …], seen by the decoder alone.
        encoder: x → q(z | x) with batch shape [B].
        decoder: p(x | y, z).
        prior: p(z), with batch shape [] or [B].
        samples: draws of z for each x.

    Raises:
        ValueError: `samples` is not positive.
        NotImplementedError: torch knows no closed KL( q ‖ p ) for this pair of families.
    """
    return _elbo(source, side, encoder(source), decoder, prior, samples)


def conditional_elbo(
    source: Tensor,
    side: Tensor,
    encoder: Callable[[Tensor, Tensor], Distribution],
    decoder: Decoder,
    prior: Distribution,
    samples: int = 1,
) -> Bound:
    """As `distributed_elbo` with an encoder (x, y) → q(z | x, y): side information at both ends."""
    return _elbo(source, side, encoder(source, side), decoder, prior, samples)


def _elbo(
    source: Tensor, side: Tensor, posterior: Distribution, decoder: Decoder, prior: Distribution, samples: int
) -> Bound:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    draw = posterior.rsample if posterior.has_rsample else posterior.sample
    logs = [decoder(side, draw()).log_prob(source) for _ in range(samples)]
    rate = kl_divergence(posterior, prior)
    return Bound(torch.stack(logs).mean(0), rate)


def codebook_posterior(indices: Tensor, codebook_size: int) -> Distribution:
    """The q of a VQ-VAE: all mass on the chosen `indices`, int64 [B, …] in [0, codebook_size).

    Samples are those indices; the decoder looks their code vectors up.
    """
    chosen = torch.nn.functional.one_hot(indices, codebook_size)
    logits = torch.zeros(chosen.shape, dtype=torch.float64, device=indices.device)
    logits = logits.masked_fill(chosen == 0, -math.inf)
    return Independent(Categorical(logits=logits), indices.dim() - 1)


def index_prior(log_probabilities: Tensor) -> Distribution:
    """p(z) of an entropy coder with one table a position, [*positions, K]; positions are independent."""
    return Independent(Categorical(logits=log_probabilities), log_probabilities.dim() - 1)


def uniform_prior(
    positions: tuple[int, ...], codebook_size: int, device: torch.device | None = None
) -> Distribution:
    """p(z) of fixed-length coding: every index is as likely as any other at every position."""
    return index_prior(torch.zeros(*positions, codebook_size, dtype=torch.float64, device=device))


def normal_around(output: Tensor, deviation: float) -> Distribution:
    """p(x | y, z) whose −log is the squared error to `output` x̂ [B, …], divided by 2σ², and a constant."""
    return Independent(Normal(output, deviation), output.dim() - 1)


def vqvae_bound(squared_error: Tensor, size: int, rate: Tensor | float, deviation: float) -> Bound:
    """The same bound from what a VQ-VAE's training loop has at hand.

    Args:
        squared_error: ‖x − x̂‖² [B], summed over the sample.
        size: d, numbers in one x.
        rate: nats of the indices, [B] or one for all: n log K, or −log p(z) under a learned prior.
        deviation: σ of p(x | y, z).
    """
    constant = 0.5 * size * math.log(2 * math.pi * deviation**2)
    rates = torch.as_tensor(rate, dtype=squared_error.dtype, device=squared_error.device)
    return Bound(-squared_error / (2 * deviation**2) - constant, rates.expand_as(squared_error))
