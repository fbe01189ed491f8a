"""y → x ← z with all of it linear and Gaussian: the exact terms of Proposition 1.

    z ~ N(0, I)    y ~ N(0, I)    x = A z + B y + e    e ~ N(0, R)

Every distribution of the model is then normal, and so is the best encoder of either kind. The distributed one has
the mean of p(z | x) and the covariance of p(z | x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from training.bound import conditional_elbo, distributed_elbo


@dataclass(frozen=True)
class LinearEncoder:
    """q = N( X x + Y y, C )."""

    source_gain: Tensor
    """X [m, n]."""
    side_gain: Tensor
    """Y [m, k], zero for an encoder that does not see y."""
    covariance: Tensor
    """C [m, m]."""

    def __call__(self, source: Tensor, side: Tensor | None = None) -> MultivariateNormal:
        """q for x [B, n] and, if it is given, y [B, k]."""
        mean = source @ self.source_gain.T
        if side is not None:
            mean = mean + side @ self.side_gain.T
        return MultivariateNormal(mean, self.covariance)


@dataclass(frozen=True)
class GaussianModel:
    """A [n, m], B [n, k] and R [n, n], float64."""

    latent_gain: Tensor
    side_gain: Tensor
    noise: Tensor

    @classmethod
    def scalar(cls, correlation: float, noise: float) -> GaussianModel:
        """x, y and z are numbers, x has variance 1, `correlation` with y and noise variance `noise`.

        z makes up the rest: with a fixed noise (distortion), more of x from y leaves less to send.
        Raises ValueError when nothing is left.
        """
        rest = 1 - correlation**2 - noise
        if rest < 0 or noise <= 0:
            raise ValueError(f"correlation {correlation} and noise {noise} leave no variance to z")
        a, b, r = (torch.tensor([[v]], dtype=torch.float64) for v in (rest**0.5, correlation, noise))
        return cls(a, b, r)

    @property
    def latent_size(self) -> int:
        """m."""
        return self.latent_gain.shape[1]

    @property
    def side_size(self) -> int:
        """k."""
        return self.side_gain.shape[1]

    @property
    def _given_side(self) -> Tensor:
        return self.latent_gain @ self.latent_gain.T + self.noise

    @property
    def _source_covariance(self) -> Tensor:
        return self._given_side + self.side_gain @ self.side_gain.T

    @property
    def posterior(self) -> LinearEncoder:
        """p(z | x, y), the conditional bound's best encoder."""
        gain = torch.linalg.solve(self._given_side, self.latent_gain).T
        identity = torch.eye(self.latent_size, dtype=gain.dtype)
        return LinearEncoder(gain, -gain @ self.side_gain, identity - gain @ self.latent_gain)

    @property
    def best_distributed(self) -> LinearEncoder:
        """The best q(z | x) of any form: exp E_{p(y|x)}[ log p(z | x, y) ], normalised.

        The means over y of the logarithms of normals of one covariance: that covariance, and mean E[z | x].
        """
        posterior = self.posterior
        gain = torch.linalg.solve(self._source_covariance, self.latent_gain).T
        return LinearEncoder(gain, torch.zeros_like(posterior.side_gain), posterior.covariance)

    def smallest_gap(self) -> float:
        """Mean gap of `best_distributed`, nats: ½ tr(P⁻¹ M), M the covariance over y given x of E[z | x, y]."""
        return 0.5 * float(torch.linalg.solve(self.posterior.covariance, self._moved_by_side()).trace())

    def latent_information_in_side(self) -> float:
        """I(z; y | x) in nats, ½ log det(I + P⁻¹ M): never more than `smallest_gap`, equal in first order."""
        moved = torch.linalg.solve(self.posterior.covariance, self._moved_by_side())
        return 0.5 * float(torch.logdet(torch.eye(self.latent_size, dtype=moved.dtype) + moved))

    def _moved_by_side(self) -> Tensor:
        b = self.side_gain
        identity = torch.eye(self.side_size, dtype=b.dtype)
        side_given_source = identity - b.T @ torch.linalg.solve(self._source_covariance, b)
        gain = self.posterior.side_gain
        moved: Tensor = gain @ side_given_source @ gain.T
        return moved

    @property
    def prior(self) -> Distribution:
        """p(z)."""
        zero = torch.zeros(self.latent_size, dtype=torch.float64)
        return MultivariateNormal(zero, torch.eye(self.latent_size, dtype=torch.float64))

    def decoder(self, side: Tensor, latent: Tensor) -> Distribution:
        """p(x | y, z) for y [B, k] and z [B, m]."""
        return MultivariateNormal(latent @ self.latent_gain.T + side @ self.side_gain.T, self.noise)

    def log_evidence(self, source: Tensor, side: Tensor) -> Tensor:
        """log p(x | y) [B]."""
        evidence = MultivariateNormal(side @ self.side_gain.T, self._given_side)
        logs: Tensor = evidence.log_prob(source)  # type: ignore[no-untyped-call]
        return logs

    def exact_bound(self, source: Tensor, side: Tensor, encoder: LinearEncoder) -> Tensor:
        """E_q[ log p(x | y, z) ] − KL( q ‖ p(z) ) for each pair, without sampling: [B]."""
        q = encoder(source, side)
        at_mean: Tensor = self.decoder(side, q.mean).log_prob(source)
        # What the spread of z adds to the squared error, in units of the noise.
        spread = torch.linalg.solve(self.noise, self.latent_gain @ encoder.covariance @ self.latent_gain.T)
        bound: Tensor = at_mean - 0.5 * spread.trace() - kl_divergence(q, self.prior)
        return bound

    def gap(self, source: Tensor, side: Tensor, encoder: LinearEncoder) -> Tensor:
        """KL( q ‖ p(z | x, y) ) for each pair: [B]."""
        divergence: Tensor = kl_divergence(encoder(source, side), self.posterior(source, side))
        return divergence

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` pairs x [count, n], y [count, k]."""

        def normal(size: int) -> Tensor:
            return torch.randn(count, size, dtype=torch.float64, generator=generator)

        latent, side = normal(self.latent_size), normal(self.side_size)
        noise = normal(len(self.noise)) @ torch.linalg.cholesky(self.noise).T
        return latent @ self.latent_gain.T + side @ self.side_gain.T + noise, side


class TrainedEncoder(torch.nn.Module):
    """q = N( X x [+ Y y], diag s² ) with gains and log s to be learned from zero: enough for numbers."""

    def __init__(self, model: GaussianModel, *, sees_side: bool) -> None:
        super().__init__()
        m, n, k = model.latent_size, len(model.noise), model.side_size
        self.source_gain = torch.nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
        self.side_gain = torch.nn.Parameter(torch.zeros(m, k, dtype=torch.float64), requires_grad=sees_side)
        self.log_deviation = torch.nn.Parameter(torch.zeros(m, dtype=torch.float64))

    def encoder(self) -> LinearEncoder:
        """q as it is now, with gradients."""
        covariance = torch.diag(self.log_deviation.exp() ** 2)
        return LinearEncoder(self.source_gain, self.side_gain, covariance)


def train_encoder(
    model: GaussianModel, *, sees_side: bool, steps: int, batch_size: int, generator: torch.Generator
) -> LinearEncoder:
    """An encoder trained by gradients on `training.bound` alone, one draw of z for each fresh pair.

    Adam at 0.03, half a cosine down to zero.
    """
    trained = TrainedEncoder(model, sees_side=sees_side)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    elbo = conditional_elbo if sees_side else distributed_elbo
    for _ in range(steps):
        source, side = model.sample(batch_size, generator)
        loss = -elbo(source, side, trained.encoder(), model.decoder, model.prior).value.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    q = trained.encoder()
    return LinearEncoder(q.source_gain.detach(), q.side_gain.detach(), q.covariance.detach())
