"""The latent prior: causal, learns, and its range coder gives the indices back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import CheckpointError
from training.paper.prior import (
    CausalTransformer,
    Grids,
    PriorFitConfig,
    TransformerConfig,
    bits_per_index,
    decode,
    encode,
    fit_prior,
    image_bits,
    load,
    save,
    windows,
)

SMALL = TransformerConfig(8, (4, 8), dimension=16, heads=2, blocks=2, feed_forward=32)


def model(config: TransformerConfig = SMALL) -> CausalTransformer:
    torch.manual_seed(0)
    made = CausalTransformer(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def grids(count: int, height: int = 4, width: int = 8, *, stages: int = 1, seed: int = 0) -> Grids:
    """Indices that rise by 0 or 1 along the rows: 1 bit each, but for the first of a row."""
    rises = np.random.default_rng(seed).integers(0, 2, (count, stages, height, width))
    return (rises.cumsum(3) % 8).astype(np.uint16)


def test_an_index_s_rate_depends_on_nothing_after_it() -> None:
    changed = grids(1)
    changed[0, 0, 2, 3] ^= 1
    prior = model()
    before, after = (prior(torch.from_numpy(g.astype(np.int64))).detach()[0] for g in (grids(1), changed))
    position = 2 * 8 + 3
    assert torch.equal(before[:position], after[:position])
    assert bool((before[position + 1 :] != after[position + 1 :]).all())


def test_earlier_stages_are_known_at_the_same_position() -> None:
    prior = model(TransformerConfig(8, (4, 8), stage=1, dimension=16, heads=2, blocks=1, feed_forward=32))
    changed = grids(1, stages=2)
    changed[0, 0, 0, 0] ^= 1
    before, after = (
        prior(torch.from_numpy(g.astype(np.int64))).detach()[0] for g in (grids(1, stages=2), changed)
    )
    assert before[0] != after[0]


@pytest.mark.parametrize("size", [(4, 8), (8, 16), (4, 24)])
def test_real_bytes_decode_and_are_close_to_the_ideal_rate(size: tuple[int, int]) -> None:
    prior, sent = model(), grids(3, *size)
    coded = encode(prior, sent)
    assert np.array_equal(decode(prior, coded, *size), sent)
    for data, bits in zip(coded, image_bits(prior, sent), strict=True):
        # The last word is whole, and one more may be needed to tell the last symbols apart.
        assert bits - 1 <= 8 * len(data) <= bits * 1.001 + 64


def test_windows_are_parts_of_the_grid_in_raster_order() -> None:
    numbers = np.arange(2 * 8 * 16, dtype=np.uint16).reshape(2, 1, 8, 16)
    cut = windows(numbers, (4, 8))
    assert cut.shape == (8, 1, 4, 8)
    assert np.array_equal(cut[1, 0], numbers[0, 0, :4, 8:])
    assert np.array_equal(cut[6, 0], numbers[1, 0, 4:, :8])
    with pytest.raises(ValueError, match="does not divide"):
        windows(numbers, (3, 8))


def test_training_finds_the_redundancy_and_is_kept(tmp_path: Path) -> None:
    config = PriorFitConfig(150, 16, learning_rate=1e-2, warm_up_steps=10, validate_every=50)
    held_out = grids(32, seed=1_000_000)
    prior = model(SMALL)
    before = bits_per_index(prior, held_out).mean()
    fitted = fit_prior(prior, lambda step: grids(16, seed=step + 1), {"held_out": held_out}, config, tmp_path)
    ideal = (1 * 28 + 1 * 4) / 32  # the first of a row is 0 or 1 too
    after = bits_per_index(fitted, held_out).mean()
    assert before > 2
    assert ideal - 0.02 < after < 1.5
    assert np.allclose(bits_per_index(load(tmp_path), held_out), bits_per_index(fitted, held_out))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_damaged_prior_is_named(tmp_path: Path) -> None:
    save(model(), tmp_path)
    (tmp_path / "transformer.json").write_text('{"blocks": 3}')
    with pytest.raises(CheckpointError, match="not a latent prior"):
        load(tmp_path)


def test_a_later_stage_does_not_code() -> None:
    prior = model(TransformerConfig(8, (4, 8), stage=1, dimension=16, heads=2, blocks=1, feed_forward=32))
    with pytest.raises(ValueError, match="first stage"):
        encode(prior, grids(1))


def test_an_untrained_prior_costs_about_the_fixed_length() -> None:
    bits = bits_per_index(CausalTransformer(SMALL), grids(4)).mean()
    assert bits == pytest.approx(math.log2(8), abs=0.2)
