"""The scalar quantizer and the rate of its indices."""

from __future__ import annotations

import math

import pytest
import torch

from training.config import ScalarConfig
from training.scalar import SCALES, RateModel, ScalarQuantizer, quantized_parameters, table_bits

CONFIG = ScalarConfig(bound=4, levels=3, hidden=8, blocks=1)


def latents(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 12, generator=torch.Generator().manual_seed(seed))


def test_indices_are_whole_bounded_and_finer_at_higher_levels() -> None:
    quantizer = ScalarQuantizer(CONFIG, 3)
    coarse, fine = (quantizer(latents(), torch.full((2,), level)) for level in (0, 2))
    for quantized in (coarse, fine):
        assert torch.equal(quantized.indices, quantized.indices.round())
        assert quantized.indices.abs().max() <= 4
    inside = (fine.indices.abs() < 4) & (coarse.indices.abs() < 4)
    errors = [(q.latents - latents())[inside].square().mean() for q in (coarse, fine)]
    assert errors[1] < errors[0]


def test_training_takes_the_rate_at_noise_and_passes_gradients_through_rounding() -> None:
    quantizer = ScalarQuantizer(CONFIG, 3)
    source = latents().requires_grad_()
    quantized = quantizer(source, torch.tensor([0, 2]), torch.Generator().manual_seed(1))
    scaled = source * quantizer.log_gain[torch.tensor([0, 2])].exp()[:, :, None, None]
    away = (quantized.noisy - scaled.clamp(-4, 4)).abs()
    assert away.max() <= 0.5
    assert away.max() > 0.4
    quantized.latents.sum().backward()
    assert source.grad is not None
    inside = scaled.abs() < 4
    assert torch.allclose(source.grad[inside], torch.ones(()))


def test_the_bits_are_those_of_a_distribution() -> None:
    for mean, scale in ((0.0, 20.0), (0.25, 3.0), (-2.5, 26.0)):
        values = torch.arange(-6, 7) + round(mean)
        bits = table_bits(values, torch.tensor(mean), torch.tensor(scale), 3)
        width = 0.05 * math.exp(0.15 * scale)
        outside = 1 - math.tanh((6.5 - abs(mean - round(mean))) / 2 / width)
        assert float((2.0**-bits).sum()) == pytest.approx(1, abs=1e-3 + outside)
    far = table_bits(torch.tensor([200.0]), torch.tensor(0.0), torch.tensor(20.0), 3)
    assert float(far) == 16  # bounded, so that a stray index does not blow up a training step


def test_means_and_scales_are_those_of_tables() -> None:
    mean, scale = quantized_parameters(torch.randn(999) * 9, torch.randn(999) * 9, 4)
    assert torch.equal(mean * 4, (mean * 4).round())
    assert mean.abs().max() == 4
    assert torch.equal(scale, scale.round())
    assert scale.min().item() == 0
    assert scale.max().item() == SCALES - 1


def test_every_index_is_counted_once_and_sees_only_what_was_coded_before() -> None:
    torch.manual_seed(0)
    rate = RateModel(CONFIG, 3)
    for _, network in rate.networks():
        torch.nn.init.normal_(network.head.weight)
    quantizer, level = ScalarQuantizer(CONFIG, 3), torch.tensor([2, 1])
    before = quantizer(latents(), level)
    bits = rate(before, level)
    assert bits.shape == (2, 3, 8, 12)
    assert torch.isfinite(bits).all()
    order = torch.full((8, 12), 3)
    order[1::2, 1::2] = 2
    order[::2, ::2] = 1
    order[::4, ::4] = 0
    for row, column in ((4, 4), (2, 4), (5, 5), (4, 5)):
        moved = latents()
        moved[:, :, row, column] += 3
        after = rate(quantizer(moved, level), level)
        changed = ((after - bits).abs() > 1e-6).any(dim=(0, 1)).nonzero().tolist()
        assert [row, column] in changed
        others = [order[r, c] for r, c in changed if [r, c] != [row, column]]
        assert all(other > order[row, column] for other in others)
        assert others or order[row, column] == 3


def test_learning_the_prior_lowers_the_rate_towards_the_entropy() -> None:
    torch.manual_seed(0)
    rate = RateModel(CONFIG, 3)
    quantizer, level = ScalarQuantizer(CONFIG, 3), torch.zeros(8, dtype=torch.int64)
    optimizer = torch.optim.Adam(rate.parameters(), lr=3e-2)
    for step in range(60):
        loss = rate(quantizer(latents(8, step), level), level).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    indices = quantizer(latents(64, 999), torch.zeros(64, dtype=torch.int64)).indices
    shares = torch.stack([(indices == value).float().mean() for value in range(-4, 5)])
    entropy = float(-(shares * shares.clamp_min(1e-9).log2()).sum())
    with torch.no_grad():
        found = float(rate(quantizer(latents(8, 999), level), level).mean())
    assert entropy - 0.05 < found < entropy + 0.1
    assert math.isfinite(entropy)
