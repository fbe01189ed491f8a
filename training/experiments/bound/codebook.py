"""A VQ-VAE of one index whose evidence is a sum over its codebook, to hold the loss against.

    k ~ p(k)    y ~ N(0, I)    x = c_k + B y + e    e ~ N(0, σ² I)

The encoder takes the code vector nearest to x. A choice without doubt is not p(k | x, y): its bound is not tight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from training.bound import codebook_posterior, distributed_elbo, index_prior, normal_around, vqvae_bound


@dataclass(frozen=True)
class CodebookModel:
    """c [K, n], B [n, k], log p(k) [K], all float64, and σ."""

    vectors: Tensor
    side_gain: Tensor
    log_prior: Tensor
    deviation: float

    @classmethod
    def random(cls, size: int, dimension: int, deviation: float, generator: torch.Generator) -> CodebookModel:
        """`size` normal code vectors, equally likely, and a side view of `dimension` numbers."""
        vectors = torch.randn(size, dimension, dtype=torch.float64, generator=generator)
        gain = (
            torch.randn(dimension, dimension, dtype=torch.float64, generator=generator) * 0.3 / dimension**0.5
        )
        log_prior = torch.full((size,), -math.log(size), dtype=torch.float64)
        return cls(vectors, gain, log_prior, deviation)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x [count, n] and y [count, k]."""
        probabilities = self.log_prior.exp()
        chosen = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        side = torch.randn(count, self.side_gain.shape[1], dtype=torch.float64, generator=generator)
        output = self.reconstruct(chosen, side)
        return output + self.deviation * torch.randn(
            output.shape, dtype=torch.float64, generator=generator
        ), side

    def nearest(self, source: Tensor) -> Tensor:
        """The encoder, which does not see y: int64 [B]."""
        return torch.cdist(source, self.vectors).argmin(1)

    def reconstruct(self, indices: Tensor, side: Tensor) -> Tensor:
        """x̂ [B, n] of indices [B] and y."""
        return self.vectors[indices] + side @ self.side_gain.T

    def objective(self, source: Tensor, side: Tensor) -> Tensor:
        """`distributed_elbo` of this model, [B]."""

        def encoder(x: Tensor) -> Distribution:
            return codebook_posterior(self.nearest(x), len(self.vectors))

        def decoder(y: Tensor, indices: Tensor) -> Distribution:
            return normal_around(self.reconstruct(indices, y), self.deviation)

        return distributed_elbo(source, side, encoder, decoder, index_prior(self.log_prior)).value

    def vqvae_loss(self, source: Tensor, side: Tensor) -> Tensor:
        """−loss of a VQ-VAE [B]: squared error and rate, the rate log K if all indices are as likely."""
        indices = self.nearest(source)
        squared_error = (source - self.reconstruct(indices, side)).square().sum(1)
        return vqvae_bound(squared_error, source.shape[1], -self.log_prior[indices], self.deviation).value

    def log_joint(self, source: Tensor, side: Tensor) -> Tensor:
        """log p(x, k | y) for every k: [B, K]."""
        outputs = self.vectors + (side @ self.side_gain.T)[:, None]
        each: Tensor = Normal(outputs, self.deviation).log_prob(source[:, None])  # type: ignore[no-untyped-call]
        return each.sum(-1) + self.log_prior
