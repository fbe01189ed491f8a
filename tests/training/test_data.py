"""Samples: a pure function of (seed, step), and flips that keep the geometry of a stereo pair."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ndsc.codec.frames import write_image
from ndsc.evaluate.pairs import PairsError
from training.config import FaultKind, TrainConfig
from training.data import (
    Batch,
    Orientation,
    Pair,
    TrainingData,
    draw_window,
    jitter,
    load_pairs,
    moved,
    render_drives,
    zoomed,
)
from training.ranks import Ranks, RanksError

CONFIG = replace(TrainConfig(), batch_size=3, crop_height=32, crop_width=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return render_drives(2, seed=5, width=160, height=80)


@pytest.fixture(scope="module")
def data(pairs: list[Pair]) -> TrainingData:
    return TrainingData(pairs, pairs, CPU)


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("source", "side", "present", "level")
    )


def test_a_batch_depends_on_its_step_alone(pairs: list[Pair], data: TrainingData) -> None:
    batch = data.batch(CONFIG, 3, 2)
    assert batch.source.shape == batch.side.shape == (3, 3, 32, 64)
    assert same(batch, TrainingData(pairs, pairs, CPU).batch(CONFIG, 3, 2))
    assert not same(batch, data.batch(CONFIG, 3, 3))


def test_ranks_share_a_batch_in_their_order(data: TrainingData) -> None:
    whole = data.batch(CONFIG, 3, 0)
    parts = [data.batch(CONFIG, 3, 0, Ranks(rank, 3)) for rank in range(3)]
    together = Batch(
        *(torch.cat([getattr(p, n) for p in parts]) for n in ("source", "side", "present", "level"))
    )
    assert same(whole, together)


def test_a_batch_that_does_not_divide_is_refused(data: TrainingData) -> None:
    with pytest.raises(RanksError, match="multiple of 2"):
        data.batch(CONFIG, 3, 0, Ranks(1, 2))


def test_no_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no training pairs"):
        TrainingData([], [], CPU)


def test_a_flip_swaps_the_views() -> None:
    """A point left of its match stays left of it, unless the views are swapped without a mirror."""
    views = torch.zeros(2, 3, 4, 40)
    views[0, ..., 20] = views[1, ..., 15] = 255  # disparity 5
    seen = set()
    for seed in range(64):
        orientation = Orientation.draw(np.random.default_rng(seed), "pair")
        source, side = orientation.apply(views)
        disparity = int(source[0, 0].argmax()) - int(side[0, 0].argmax())
        assert disparity == (-5 if orientation == Orientation(swapped=True, mirrored=(False, False)) else 5)
        seen.add((orientation.swapped, orientation.mirrored))
    assert seen == {(True, (True, True)), (True, (False, False)), (False, (False, False))}


def test_flips_of_each_view_alone_are_those_of_the_paper_s_code() -> None:
    """Two fair coins, and no swap: half of the pairs show one scene mirrored in one view only."""
    views = torch.arange(2 * 3 * 4 * 8, dtype=torch.float32).view(2, 3, 4, 8)
    counts: Counter[tuple[bool, bool]] = Counter()
    for seed in range(400):
        orientation = Orientation.draw(np.random.default_rng(seed), "each")
        applied = orientation.apply(views)
        for view, turned, mirrored in zip(views, applied, orientation.mirrored, strict=True):
            assert torch.equal(turned, view.flip(-1) if mirrored else view)
        counts[orientation.mirrored] += 1
    assert len(counts) == 4
    assert min(counts.values()) > 70


def test_windows_lie_in_the_frame_and_have_its_aspect() -> None:
    sizes = []
    for seed in range(200):
        window = draw_window(90, 200, np.random.default_rng(seed), 32, 64)
        assert 0 <= window.top <= 90 - window.height
        assert 0 <= window.left <= 200 - window.width
        assert window.width / window.height == pytest.approx(2, rel=0.15)
        sizes.append(window.height)
    assert min(sizes) < 36
    assert max(sizes) > 85


def test_a_late_view_is_a_smaller_part_of_the_same_window() -> None:
    """Also of one as high as the frame, which is what most are."""
    ratios = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        window = draw_window(375, 1242, rng, 128, 256)
        late = zoomed(window, rng)
        assert window.top <= late.top <= late.top + late.height <= window.top + window.height
        assert window.left <= late.left <= late.left + late.width <= window.left + window.width
        assert late.width / late.height == pytest.approx(window.width / window.height, rel=0.03)
        ratios.append(late.height / window.height)
    assert min(ratios) < 0.77
    # Up to what half a second is at walking pace: views that nearly fit are the ones that deceive.
    assert 0.96 < max(ratios) < 0.985


def test_a_view_is_moved_by_rows() -> None:
    view = torch.arange(6.0).view(1, 6, 1).expand(3, 6, 2)
    assert moved(view, 2)[0, :, 0].tolist() == [0, 0, 0, 1, 2, 3]
    assert moved(view, -1)[2, :, 1].tolist() == [1, 2, 3, 4, 5, 5]


def test_every_fault_is_drawn_and_shows(pairs: list[Pair]) -> None:
    data = TrainingData(pairs, [], CPU)
    kinds: tuple[FaultKind, ...] = ("pair", "window", "black", "rows", "late")
    config = replace(CONFIG, batch_size=8, synthetic_share=0.0, faulty_share=1.0)
    for kind in kinds:
        samples = [s for step in range(6) for s in data.draw(replace(config, faults=(kind,)), 3, step)]
        sides = [sample.side for sample in samples if sample.side]
        assert len(sides) == len(samples)
        assert {side.black for side in sides} == {kind == "black"}
        both = list(zip(sides, samples, strict=True))
        assert any(side.pair != sample.pair for side, sample in both) is (kind == "pair")
        rows = {side.rows for side in sides}
        assert (rows == {0}) is (kind != "rows")
        if kind == "rows":
            assert 0 not in rows
            assert min(rows) < -4
            assert max(rows) > 4
        if kind == "late":  # the source is the later one in half of them
            wider = [side.window.height > sample.window.height for side, sample in both]
            assert 10 < sum(wider) < 38
        same = [side.window == sample.window for side, sample in both]
        assert all(same) is (kind == "rows")


def test_moved_side_information_is_the_usual_one_moved(pairs: list[Pair]) -> None:
    data = TrainingData(pairs, [], CPU)
    config = replace(CONFIG, batch_size=1, synthetic_share=0.0, faulty_share=1.0, faults=("rows",))
    (sample,) = data.draw(config, 3, 0)
    assert sample.side
    faulty, usual = data.batch(config, 3, 0), data.batch(replace(config, faulty_share=0.0), 3, 0)
    assert torch.equal(faulty.source, usual.source)
    assert torch.equal(faulty.side[0], moved(usual.side[0], sample.side.rows))


def test_a_batch_is_cut_as_pillow_would(data: TrainingData, pairs: list[Pair]) -> None:
    """The window of a pair, antialiased, to a grey level where Pillow rounds twice."""
    config = replace(CONFIG, batch_size=8)
    batch = data.batch(config, 3, 1)
    compared = 0
    for index, sample in enumerate(data.draw(config, 3, 1)):
        if sample.orientation != Orientation(swapped=False, mirrored=(False, False)):
            continue
        at, frame = sample.window, pairs[sample.pair % len(pairs)].left
        cut = Image.fromarray(frame[at.top : at.top + at.height, at.left : at.left + at.width])
        pixels = np.asarray(cut.resize((64, 32), Image.Resampling.BILINEAR))
        lit = np.stack([sample.source_light[c, pixels[..., c]] for c in range(3)])
        difference = np.abs(lit - 255 * batch.source[index].numpy())
        assert difference.max() <= 3  # one level of rounding, made larger by the brightest table
        compared += 1
    assert compared


def test_both_views_get_the_same_window_and_the_scene_the_same_light() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    data = TrainingData([Pair(noise, noise)], [], CPU)
    config = replace(CONFIG, batch_size=32, synthetic_share=0.0)
    batch = data.batch(config, 3, 0)
    own_light = 0
    for index, sample in enumerate(data.draw(config, 3, 0)):
        if np.array_equal(sample.source_light, sample.side_light):
            assert torch.equal(batch.source[index], batch.side[index])
        else:
            own_light += 1
            assert (batch.source[index] - batch.side[index]).abs().max() < 0.25
    assert 8 <= own_light <= 24


def test_side_dropout_is_the_share_asked_for(data: TrainingData) -> None:
    never = data.batch(replace(CONFIG, side_dropout=1.0), 3, 0)
    always = data.batch(replace(CONFIG, side_dropout=0.0), 3, 0)
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
