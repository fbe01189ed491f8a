"""Side views of other kinds, several at once, and the table that compares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.frames import Frame
from training.data import Pair
from training.experiments.multiview import data
from training.experiments.multiview.__main__ import Run, summarise
from training.experiments.multiview.data import edges, grey, half_size, render_drives, select


def test_grey_weighs_the_channels() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 10, 10]], dtype=torch.uint8)
    assert grey(colours[:, :, None, None]).flatten().tolist() == [76, 150, 29, 10]


def test_half_size_repeats_the_mean_of_each_square() -> None:
    picture = torch.tensor([[0, 4, 8, 8], [4, 8, 8, 8]], dtype=torch.uint8).view(1, 1, 2, 4)
    assert half_size(picture)[0, 0].tolist() == [[4, 4, 8, 8], [4, 4, 8, 8]]


def test_edges_are_the_slope_in_any_direction_and_nothing_else() -> None:
    ramp = (3 * torch.arange(8, dtype=torch.uint8)).expand(1, 3, 8, 8)
    for picture in (ramp, ramp.transpose(2, 3)):
        found = edges(picture)
        assert found.shape == (1, 1, 8, 8)
        assert (found[0, 0, 1:-1, 1:-1] == 6).all()
    assert edges(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)).max() == 0


def test_a_drive_moves_and_has_two_cameras() -> None:
    views = render_drives([3, 4], 2)
    assert list(views) == ["source", "right", "earlier", "unrelated"]
    assert all(view.shape == (4, 3, 64, 128) for view in views.values())
    distance = {
        name: float((view.float() - views["source"].float()).square().mean()) for name, view in views.items()
    }
    assert 0 < distance["right"] < distance["unrelated"]
    assert 0 < distance["earlier"] < distance["unrelated"]
    # Of the four samples the first two are one drive, so half the list away is the other one.
    assert torch.equal(views["unrelated"][0], views["right"][2])
    assert all(torch.equal(view, render_drives([3, 4], 2)[name]) for name, view in views.items())


def test_a_mirrored_pair_swaps_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    left: Frame
    right: Frame
    left, right = (rng.integers(0, 256, (64, 128, 3), dtype=np.uint8) for _ in range(2))
    monkeypatch.setattr(data, "load_pairs", lambda *_: [Pair(left, right)])
    scenes = data.load_stereo(Path("x"), "test", 64, lambda _: None)
    colour, source = scenes.train["colour"], scenes.train["source"]
    assert torch.equal(source[1], colour[0].flip(2))
    assert torch.equal(colour[1], source[0].flip(2))
    assert len(scenes.test["edges"]) == 2


def test_selected_views_keep_their_channels() -> None:
    views = {"source": torch.zeros(1, 3, 4, 4), "a": torch.zeros(1, 1, 4, 4), "b": torch.zeros(1, 3, 4, 4)}
    assert select(views, ("a", "b")).side_channels == (1, 3)


def test_gains_are_paired_by_seed() -> None:
    levels = {(): 20.0, ("right",): 21.0, ("right", "earlier"): 21.5}
    runs = [
        Run(views, seed, 64, 0.01, level + seed, level + seed - 2 if views else None, 1.0)
        for views, level in levels.items()
        for seed in (0, 1)
    ]
    none, one, two = summarise("drive", runs)
    assert none["gain_over_none_db"] is None
    assert (one["gain_over_none_db"], one["gain_ci95_db"]) == (1.0, 0.0)
    assert (two["gain_over_none_db"], two["gain_over_first_view_db"]) == (1.5, 0.5)
    assert two["wrong_last_view_gain_db"] == -0.5
