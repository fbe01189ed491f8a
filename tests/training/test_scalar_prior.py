"""A trained rate model and the prior made of it: the same sums, the same bits, to the last one."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from ndsc.codec import scalar_prior
from ndsc.codec.errors import BundleError, PayloadCorruptError
from ndsc.codec.scalar_prior import GROUPS, ScalarPrior
from training.config import ScalarConfig
from training.scalar import RateModel, ScalarQuantized

PLANES, LEVELS, BOUND = 5, 3, 6
SIZES = [(1, 1), (1, 7), (2, 2), (3, 5), (4, 4), (9, 14), (16, 32)]


@pytest.fixture(scope="module")
def model() -> RateModel:
    """With weights large enough that means and scales differ everywhere."""
    torch.manual_seed(3)
    model = RateModel(ScalarConfig(levels=LEVELS, bound=BOUND, hidden=24, blocks=2), PLANES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head.weight" in name:
                parameter.mul_(3)
            if "level" in name or "bias" in name or "first" in name:
                parameter.add_(torch.randn_like(parameter) * 0.4)
    return model


@pytest.fixture(scope="module")
def prior(model: RateModel) -> ScalarPrior:
    return model.prior()


def grids(prior: ScalarPrior, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(height * width)
    uniform = rng.integers(0, 2 * BOUND + 1, (PLANES, height, width), dtype=np.int32)
    return [uniform, prior.sample(rng, PLANES, height, width, 1), np.zeros_like(uniform)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_what_is_encoded_is_decoded(prior: ScalarPrior, height: int, width: int) -> None:
    for level in range(LEVELS):
        for indices in grids(prior, height, width):
            coded = prior.encode(indices, level)
            assert np.array_equal(prior.decode(coded, PLANES, height, width, level), indices)


def test_passes_side_by_side_code_the_same_bytes(model: RateModel, prior: ScalarPrior) -> None:
    height, width = 47, 156
    assert height * width >= scalar_prior.SIDE_BY_SIDE_POSITIONS
    of_large = grids(prior, height, width)
    with ThreadPoolExecutor(4) as pool:  # a prior of its own, whose sessions the threads make at once
        encode = partial(model.prior().encode, rate_level=1, threads=2)
        side_by_side = list(pool.map(encode, of_large * 2))
    assert side_by_side == [prior.encode(indices, 1) for indices in of_large] * 2
    for indices, coded in zip(of_large, side_by_side, strict=False):
        assert np.array_equal(prior.decode(coded, PLANES, height, width, 1), indices)


def test_the_codec_pays_what_training_says(prior: ScalarPrior, model: RateModel) -> None:
    """Sums are equal to the bit. Tables leave out what lies beyond the values, which training pays for: little."""
    for level in range(LEVELS):
        rng = np.random.default_rng(level)
        for indices in (prior.sample(rng, PLANES, 16, 32, level), grids(prior, 16, 32)[0]):
            values = torch.from_numpy(indices[None] - BOUND).float()
            with torch.no_grad():
                told = model(ScalarQuantized(values, values, values), torch.tensor([level])).sum().item()
            paid = prior.ideal_bits(indices, level)
            assert 0.99 * told < paid < 1.001 * told
            assert 8 * len(prior.encode(indices, level)) == pytest.approx(paid, rel=1e-3, abs=64)


def test_sums_are_those_of_training(prior: ScalarPrior, model: RateModel) -> None:
    """Every mean and scale of every group; the network sees what training showed it."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 2 * BOUND + 1, (PLANES, 12, 20), dtype=np.int32)
    values = torch.from_numpy(indices[None] - BOUND).float()
    padded = prior._padded(12, 20)
    padded[:] = indices
    differ = 0
    for group in GROUPS[1:]:
        mean, scale = prior._parameters(padded, group, 2, 12 // group.side, 20 // group.side)
        known = torch.cat([values[..., a :: group.side, b :: group.side] for a, b in group.known], 1)
        with torch.no_grad():
            expected = model.get_submodule(group.name)(known, torch.tensor([2]))
        expected_mean, expected_scale = (x[0].numpy() for x in expected)
        assert np.array_equal(mean.reshape(expected_mean.shape), 4 * expected_mean)
        assert np.array_equal(scale.reshape(expected_scale.shape), expected_scale)
        differ += len(np.unique(mean)) + len(np.unique(scale))
    assert differ > 60


def test_a_payload_in_another_form_is_refused(prior: ScalarPrior) -> None:
    coded = prior.encode(grids(prior, 9, 14)[1], 1)
    for damaged in (coded + bytes(4), b"\xff" * len(coded)):
        with pytest.raises(PayloadCorruptError):
            prior.decode(damaged, PLANES, 9, 14, 1)


def test_an_index_that_no_encoder_makes_is_refused(prior: ScalarPrior) -> None:
    """Of a position that no network sees: the bytes are canonical, and nothing else shows it."""
    indices = grids(prior, 9, 14)[1]
    refused = 0
    for plane in range(PLANES):
        for outside in (-1, 2 * BOUND + 1):
            other = indices.copy()
            other[plane, 0, 1] = outside
            try:
                coded = prior.encode(other, 1)
            except (ValueError, IndexError, KeyError):  # further from the mean than the tables reach
                continue
            with pytest.raises(PayloadCorruptError):
                prior.decode(coded, PLANES, 9, 14, 1)
            refused += 1
    assert refused >= PLANES


def test_levels_have_tables_of_their_own(prior: ScalarPrior) -> None:
    indices = grids(prior, 9, 14)[0]
    assert len({prior.encode(indices, level) for level in range(LEVELS)}) == LEVELS


def test_a_grid_too_large_for_the_networks_is_refused_before_it_takes_memory(prior: ScalarPrior) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="beyond"):
            prior.decode(bytes(64), PLANES, 1 << 13, 1 << 13)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
