"""Proposition 1: the bound holds, is tight where it should be, and a VQ-VAE's loss is its special case."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from training.bound import (
    BITS_PER_NAT,
    codebook_posterior,
    conditional_elbo,
    distributed_elbo,
    index_prior,
    normal_around,
    uniform_prior,
    vqvae_bound,
)
from training.experiments.bound.__main__ import codebook_models, tight_models
from training.experiments.bound.gaussian import GaussianModel, LinearEncoder, train_encoder
from training.paper.convolutional import ConvolutionalVQVAE, FamilyConfig
from training.paper.fitting import mean_squared_error

MIXED = tight_models()["not tight: y and z in the same parts"]


def drawn(model: GaussianModel, count: int = 2000) -> tuple[Tensor, Tensor]:
    return model.sample(count, torch.Generator().manual_seed(5))


def other_encoder(model: GaussianModel, seed: int) -> LinearEncoder:
    generator = torch.Generator().manual_seed(seed)
    gain = torch.randn(model.latent_size, len(model.noise), dtype=torch.float64, generator=generator)
    side = torch.zeros(model.latent_size, model.side_size, dtype=torch.float64)
    root = torch.randn(model.latent_size, model.latent_size, dtype=torch.float64, generator=generator)
    return LinearEncoder(gain, side, root @ root.T + 0.1 * torch.eye(model.latent_size, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_the_gap_is_the_divergence_from_the_posterior_for_every_pair(seed: int) -> None:
    source, side = drawn(MIXED)
    encoder = other_encoder(MIXED, seed)
    gap = MIXED.log_evidence(source, side) - MIXED.exact_bound(source, side, encoder)
    assert (gap >= 0).all()
    torch.testing.assert_close(gap, MIXED.gap(source, side, encoder), rtol=1e-10, atol=1e-8)


def test_the_posterior_inverts_the_model() -> None:
    """Bayes: log p(x | y, z) + log p(z) − log p(z | x, y) is log p(x | y) at every z."""
    source, side = drawn(MIXED, 50)
    latent = torch.randn(50, MIXED.latent_size, dtype=torch.float64)
    posterior: Distribution = MIXED.posterior(source, side)
    joint = MIXED.decoder(side, latent).log_prob(source) + MIXED.prior.log_prob(latent)
    evidence = joint - posterior.log_prob(latent)
    torch.testing.assert_close(evidence, MIXED.log_evidence(source, side), rtol=1e-10, atol=1e-8)


def test_the_conditional_bound_is_tight_and_the_distributed_one_as_tight_as_the_closed_form_says() -> None:
    source, side = drawn(MIXED, 200_000)
    assert MIXED.gap(source, side, MIXED.posterior).max() < 1e-9
    gaps = MIXED.gap(source, side, MIXED.best_distributed)
    error = float(gaps.std() / len(gaps) ** 0.5)
    assert abs(float(gaps.mean()) - MIXED.smallest_gap()) < 4 * error
    assert MIXED.smallest_gap() > MIXED.latent_information_in_side() > 0.5


@pytest.mark.parametrize("name", [name for name in tight_models() if "not tight" not in name])
def test_the_distributed_bound_is_tight_where_the_posterior_does_not_depend_on_y(name: str) -> None:
    model = tight_models()[name]
    source, side = drawn(model)
    assert model.smallest_gap() < 1e-12
    assert model.gap(source, side, model.best_distributed).max() < 1e-9
    assert model.gap(source, side, other_encoder(model, 0)).min() > 1e-3


@pytest.mark.parametrize("change", ["source_gain", "covariance"])
def test_no_other_distributed_encoder_is_better(change: str) -> None:
    source, side = drawn(MIXED, 100_000)
    best = MIXED.best_distributed
    least = MIXED.gap(source, side, best).mean()
    for factor in (0.9, 1.1):
        worse = replace(best, **{change: factor * getattr(best, change)})
        assert MIXED.gap(source, side, worse).mean() > least


def test_sampled_bounds_agree_with_exact_ones() -> None:
    source, side = drawn(MIXED, 50_000)
    torch.manual_seed(0)
    for sampled, encoder in (
        (
            distributed_elbo(source, side, MIXED.best_distributed, MIXED.decoder, MIXED.prior),
            "best_distributed",
        ),
        (conditional_elbo(source, side, MIXED.posterior, MIXED.decoder, MIXED.prior, samples=3), "posterior"),
    ):
        difference = sampled.value - MIXED.exact_bound(source, side, getattr(MIXED, encoder))
        assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5
        assert difference.std() > 0


def test_gradients_on_the_objective_find_the_closed_form() -> None:
    model = GaussianModel.scalar(0.6, 0.2)
    learned = train_encoder(
        model, sees_side=False, steps=500, batch_size=256, generator=torch.Generator().manual_seed(1)
    )
    best = model.best_distributed
    torch.testing.assert_close(learned.source_gain, best.source_gain, rtol=0.05, atol=0)
    torch.testing.assert_close(learned.covariance, best.covariance, rtol=0.1, atol=0)
    assert not learned.side_gain.any()


def test_a_model_without_room_for_z_is_refused() -> None:
    with pytest.raises(ValueError, match="leave no variance"):
        GaussianModel.scalar(0.99, 0.1)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        distributed_elbo(*drawn(MIXED, 2), MIXED.best_distributed, MIXED.decoder, MIXED.prior, samples=0)


@pytest.mark.parametrize("name", codebook_models())
def test_a_vqvae_of_one_index_has_the_bound_as_its_loss(name: str) -> None:
    model = codebook_models()[name]
    source, side = model.sample(3000, torch.Generator().manual_seed(2))
    objective = model.objective(source, side)
    torch.testing.assert_close(objective, model.vqvae_loss(source, side), rtol=0, atol=1e-6)
    joint = model.log_joint(source, side)
    evidence = joint.logsumexp(1)
    assert (objective <= evidence + 1e-9).all()
    posterior = (joint - evidence[:, None]).gather(1, model.nearest(source)[:, None])[:, 0]
    torch.testing.assert_close(evidence - objective, -posterior, rtol=0, atol=1e-9)


def test_the_rate_is_the_fixed_length_rate_or_what_the_prior_charges() -> None:
    indices = torch.tensor([[[0, 3], [2, 1]]])
    silent = normal_around(torch.zeros(1, 1), 1.0)

    def rate(prior: Distribution) -> float:
        nothing = torch.zeros(1, 1)
        bound = distributed_elbo(
            nothing, nothing, lambda _: codebook_posterior(indices, 4), lambda y, z: silent, prior
        )
        return float(bound.rate) * BITS_PER_NAT

    assert rate(uniform_prior((2, 2), 4)) == pytest.approx(8)
    table = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    assert rate(index_prior(table.log().expand(2, 2, 4))) == pytest.approx(1 + 3 + 3 + 2)


def test_the_project_s_vqvae_trains_its_decoder_on_the_bound() -> None:
    """Quantizer and squared error of a training step: the bound's gradient for decoder and side network."""
    torch.manual_seed(0)
    config = FamilyConfig((8, 12, 16), 8, 1, bits=3, latent_dimension=6)
    model = ConvolutionalVQVAE(config).double()
    source, side = (torch.rand(2, 3, 16, 32, dtype=torch.float64) - 0.5 for _ in range(2))
    model.quantizer.start_from_kmeans(model.encode(source, side), torch.Generator().manual_seed(0))
    learns = [*model.decoder.parameters(), *model.side_networks.parameters()]
    size, deviation = source[0].numel(), 0.3

    def encoder(x: Tensor) -> Distribution:
        return codebook_posterior(model(x, side).quantized.indices, 2**config.bits)

    def decoder(y: Tensor, indices: Tensor) -> Distribution:
        latents = model.quantizer.lookup(indices, torch.ones(len(y)))
        return normal_around(model.decode(latents.double(), y), deviation)

    prior = uniform_prior((1, 4, 8), 2**config.bits)
    bound = distributed_elbo(source, side, encoder, decoder, prior)
    expected = torch.autograd.grad(-bound.value.mean(), learns)

    coded = model(source, side)
    loss = mean_squared_error(coded.output, source)
    got = torch.autograd.grad(loss * size / (2 * deviation**2), learns)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)

    error = (coded.output - source).square().flatten(1).sum(1)
    rate = config.fixed_bpp * 16 * 32 / BITS_PER_NAT
    torch.testing.assert_close(
        vqvae_bound(error, size, rate, deviation).value, bound.value, rtol=1e-9, atol=1e-6
    )
    assert float(bound.rate[0]) == pytest.approx(4 * 8 * 3 * math.log(2))
