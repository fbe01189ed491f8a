"""The stereo experiment's pieces: views, flips, points, packed indices, and runs that are not done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ndsc.evaluate.protocols import kitti128, native
from training.checkpoint import CheckpointError
from training.data import Pair
from training.datasets.views import Views
from training.experiments.recipe import RecipeError
from training.experiments.stereo.frames import StereoSampler, both_directions, load_views, widest
from training.experiments.stereo.point import Data, code, load_code, pack, run_point
from training.experiments.stereo.published import PUBLISHED
from training.experiments.stereo.settings import PAPER_POINTS, PRESETS, Point
from training.paper.convolutional import FAMILIES

CPU = torch.device("cpu")
TINY = replace(
    PRESETS["smoke"],
    steps=6,
    batch_size=2,
    prior_steps=4,
    prior_batch_size=4,
    width=1 / 12,
    learning_rate=1e-3,
)


def pair(seed: int, height: int = 128, width: int = 256) -> Pair:
    """Smooth pictures, the right one shifted by 4 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 40, 3)).astype(np.float64)
    rows = np.linspace(0, 7, height).astype(int)
    columns = np.linspace(0, 31, width + 4).astype(int)
    wide = coarse[rows][:, columns].astype(np.uint8)
    return Pair(wide[:, 4:].copy(), wide[:, :-4].copy())


def marked() -> Views:
    """One pair: x falls to the right, y to the left, so that every way to turn them shows."""
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 128, 256)
    return Views((ramp, ramp.flip(3)))


def data() -> Data:
    views = [load_views([pair(seed) for seed in seeds], native) for seeds in (range(4), (4,), (5, 6))]
    return Data(views[0], both_directions(views[1]), both_directions(views[2]), "test")


def silent(what: str, done: int, total: int) -> None:
    assert done <= total


def test_the_first_view_is_the_protocol_s_and_the_others_match_in_both_frames() -> None:
    taken = pair(0, 375, 1242)
    views = load_views([taken], kitti128, random_views=3)
    assert [tuple(view.shape) for view in views.pictures] == [(4, 3, 128, 256)] * 2
    left, right = (view.permute(0, 2, 3, 1).numpy() for view in views.pictures)
    assert np.array_equal(left[0], kitti128(taken.left))
    assert np.array_equal(right[0], kitti128(taken.right))
    twins = load_views([Pair(taken.left, taken.left)], kitti128, random_views=3)
    assert torch.equal(twins.pictures[0], twins.pictures[1])
    assert not torch.equal(twins.pictures[0][1], twins.pictures[0][2])
    assert np.array_equal(left, load_views([taken], kitti128, 3).pictures[0].permute(0, 2, 3, 1).numpy())


def test_no_pairs_end_in_one_line() -> None:
    with pytest.raises(RecipeError, match="no stereo pairs"):
        load_views([], kitti128)


def test_a_frame_of_the_right_aspect_is_taken_whole() -> None:
    frame = pair(0, 256, 512).left
    assert widest(frame).shape == (128, 256, 3)
    assert abs(float(widest(frame).mean()) - float(frame.mean())) < 1


def test_both_directions_are_one_after_the_other() -> None:
    views = load_views([pair(0), pair(1)], native)
    twice = both_directions(views)
    assert len(twice) == 4
    assert torch.equal(twice.pictures[0][2:], views.pictures[1])
    assert torch.equal(twice.pictures[1][2:], views.pictures[0])


def facing(picture: Tensor) -> Tensor:
    """True for each picture that falls to the right."""
    return picture[:, 0, 0, 0] < picture[:, 0, 0, -1]


def test_a_pair_is_mirrored_as_one_scene() -> None:
    source, side = StereoSampler(marked(), 64, seed=0)(0)
    assert bool((facing(source) != facing(side)).all())
    assert 16 < int(facing(source).sum()) < 48


def test_published_flips_mirror_each_frame_by_itself() -> None:
    source, side = StereoSampler(marked(), 64, seed=0, published_flips=True)(0)
    assert 16 < int((facing(source) == facing(side)).sum()) < 48


def test_a_batch_is_a_function_of_its_step() -> None:
    sampler = StereoSampler(load_views([pair(seed) for seed in range(4)], native), 4, seed=3)
    assert torch.equal(sampler(5)[0], sampler(5)[0])
    assert not torch.equal(sampler(5)[0], sampler(6)[0])
    assert float(sampler(5)[1].abs().max()) <= 0.5


def test_the_paper_s_points_are_its_nine_models_and_eight_have_published_figures() -> None:
    assert len(PAPER_POINTS) == 9
    assert set(PUBLISHED) < set(PAPER_POINTS)
    for point, published in PUBLISHED.items():
        assert point.network(PRESETS["paper"]).fixed_bpp == published.fixed_bpp
        assert published.prior_bpp < published.fixed_bpp


@pytest.mark.parametrize("family", FAMILIES)
def test_the_paper_preset_is_the_paper_s_network(family: str) -> None:
    assert Point(family, 3).network(PRESETS["paper"]) == replace(FAMILIES[family], bits=3)


def test_the_paper_preset_s_prior_sees_the_whole_grid() -> None:
    paper = PRESETS["paper"]
    assert Point("4x", 6).prior(paper).grid == (32, 64)
    assert (Point("2x", 3).prior(paper).heads, Point("2x", 3).prior(paper).blocks) == (2, 2)


@pytest.mark.parametrize("text", ["8x", "8x:", "8x:0", "8x:11", "16x:2", "8x:two"])
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="FAMILY:BITS"):
        Point.parse(text)
    assert Point.parse("8x:3") == Point("8x", 3)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_fixed_length_is_the_bits_of_the_indices(bits: int) -> None:
    grid = np.random.default_rng(0).integers(0, 2**bits, (1, 4, 8)).astype(np.uint16)
    packed = pack(grid, bits)
    assert len(packed) == 4 * bits
    number = int.from_bytes(packed, "big")
    assert [(number >> (bits * (31 - i))) & (2**bits - 1) for i in range(32)] == grid.ravel().tolist()


def test_a_point_is_trained_measured_and_not_done_again(tmp_path: Path) -> None:
    point, sets = Point("8x", 2), data()
    measured = run_point(point, TINY, sets, tmp_path, CPU, silent)
    assert measured is not None
    assert len(measured.images) == 4
    assert all(image.fixed_bytes == 16 * 32 * 2 // 8 for image in measured.images)
    assert all(image.prior_counted_bits <= 8 * image.prior_bytes + 2 for image in measured.images)
    assert run_point(point, TINY, sets, tmp_path, CPU, lambda *_: pytest.fail("done again")) == measured

    on_val = run_point(point, TINY, replace(sets, test=sets.validation, split="val"), tmp_path, CPU, silent)
    assert on_val is not None
    assert on_val.training_seconds == measured.training_seconds  # the code was not trained again
    assert run_point(point, TINY, sets, tmp_path, CPU, silent) == measured

    model = load_code(tmp_path, CPU)
    indices, output = code(model, sets.test)
    error = (output - sets.test.pictures[0] / 255).square().mean((1, 2, 3))
    assert (-10 * error.log10()).tolist() == pytest.approx([i.psnr_float for i in measured.images], abs=1e-3)
    # The message does not hang on y, what comes out does.
    other_side = torch.rand(4, 3, 128, 256, generator=torch.Generator().manual_seed(0)) - 0.5
    same_indices, other = code(model, sets.test, side=other_side)
    assert np.array_equal(indices, same_indices)
    assert not torch.equal(output, other)


def test_other_settings_do_not_take_over_a_finished_point(tmp_path: Path) -> None:
    run_point(Point("8x", 1), TINY, data(), tmp_path, CPU, silent)
    with pytest.raises(CheckpointError, match="other settings"):
        run_point(Point("8x", 1), replace(TINY, seed=1), data(), tmp_path, CPU, silent)
    (tmp_path / "measured.json").unlink()  # as of a point that was stopped before it was measured
    with pytest.raises(CheckpointError, match="other settings"):
        run_point(Point("8x", 1), replace(TINY, published_flips=True), data(), tmp_path, CPU, silent)
