"""Samples: a pure function of (seed, step), and flips that keep the geometry of a stereo pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ndsc.codec.frames import write_image
from ndsc.evaluate.pairs import PairsError
from training.config import TrainConfig
from training.data import (
    Batch,
    Pair,
    batches,
    crop_pair,
    jitter,
    load_pairs,
    make_batch,
    orient,
    render_drives,
)

CONFIG = replace(TrainConfig(), steps=4, batch_size=3, crop_height=32, crop_width=64)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return render_drives(2, seed=5, width=160, height=80)


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("source", "side", "present", "level")
    )


def test_a_batch_depends_on_its_step_alone(pairs: list[Pair]) -> None:
    in_order = list(batches(pairs, pairs, CONFIG, 3, 0))
    assert len(in_order) == CONFIG.steps
    assert same(in_order[2], make_batch(pairs, pairs, CONFIG, 3, 2))
    assert not same(in_order[2], in_order[3])
    late = list(batches(pairs, pairs, CONFIG, 3, 2))
    assert [same(a, b) for a, b in zip(late, in_order[2:], strict=True)] == [True, True]


def test_no_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no training pairs"):
        next(batches([], [], CONFIG, 3, 0))


def test_a_flip_swaps_the_views() -> None:
    """A point left of its match stays left of it, unless the views are swapped without a mirror."""
    left, right = np.zeros((4, 40, 3), np.uint8), np.zeros((4, 40, 3), np.uint8)
    left[:, 20] = right[:, 15] = 255  # disparity 5
    seen = set()
    for seed in range(64):
        source, side = orient(left, right, np.random.default_rng(seed))
        disparity = int(source[0, :, 0].argmax()) - int(side[0, :, 0].argmax())
        mirrored = source is not left and source is not right
        assert disparity == (-5 if source is right else 5)
        seen.add("mirrored" if mirrored else "swapped" if source is right else "as it is")
    assert seen == {"mirrored", "swapped", "as it is"}


def test_both_views_get_the_same_window() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    for seed in range(20):
        left, right = crop_pair(Pair(noise, noise), np.random.default_rng(seed), 32, 64)
        assert left.shape == (32, 64, 3)
        assert np.array_equal(left, right)


def test_side_dropout_is_the_share_asked_for(pairs: list[Pair]) -> None:
    never = make_batch(pairs, [], replace(CONFIG, side_dropout=1.0, synthetic_share=0.0), 3, 0)
    always = make_batch(pairs, [], replace(CONFIG, side_dropout=0.0, synthetic_share=0.0), 3, 0)
    assert never.present.tolist() == [0, 0, 0]
    assert always.present.tolist() == [1, 1, 1]


def test_jitter_keeps_black_and_the_size() -> None:
    black = np.zeros((3, 5, 3), np.uint8)
    assert np.array_equal(jitter(black, np.random.default_rng(0), 0.3), black)


def test_views_of_two_sizes_are_refused(tmp_path: Path) -> None:
    for view, width in (("left", 64), ("right", 48)):
        (tmp_path / view).mkdir()
        write_image(tmp_path / view / "a.png", np.zeros((32, width, 3), np.uint8))
    with pytest.raises(PairsError, match="another size"):
        load_pairs([tmp_path])


def test_rendered_drives_are_cached(tmp_path: Path) -> None:
    cache = tmp_path
    first = render_drives(1, seed=9, width=64, height=32, cache=cache)
    again = render_drives(1, seed=9, width=64, height=32, cache=cache)
    assert np.array_equal(first[0].left, again[0].left)
    assert len(list(cache.iterdir())) == 1
