"""The codec's parts: variants differ in one thing, single rates have their λ, bytes are read off a curve."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.checkpoint import CheckpointError
from training.data import Pair, render_drives
from training.experiments.codec.measured import excess, joined, measure
from training.experiments.codec.trained import train_variant
from training.experiments.codec.variants import AFTERWARDS, SINGLE, SMOKE, WHOLE, Dials, variants
from training.experiments.recipe import RecipeError
from training.report.bd_rate import Curve
from training.scalar_codec import distortion_weights


def changed(one: Any, other: Any) -> set[str]:
    a, b = asdict(one), asdict(other)
    return {name for name in a if a[name] != b[name]}


def test_each_variant_leaves_out_one_part() -> None:
    whole, *others = variants(Dials(), synthetic=False)
    assert whole.name == WHOLE
    expected: dict[str, tuple[set[str], set[str]]] = {
        "no alignment": ({"alignment"}, set()),
        "no gate, no useless y": ({"gate"}, {"faulty_share"}),
        "each view flipped by itself": (set(), {"flips"}),
        AFTERWARDS: ({"quantizer"}, {"unquantized_steps"}),
        f"{SINGLE}2": ({"scalar"}, {"lowest_lambda", "highest_lambda"}),
        f"{SINGLE}5": ({"scalar"}, {"lowest_lambda", "highest_lambda"}),
    }
    found = {v.name: (changed(whole.model, v.model), changed(whole.train, v.train)) for v in others}
    assert found == expected


def test_a_single_rate_has_the_lambda_and_the_first_gain_of_its_level() -> None:
    whole, *others = variants(Dials(), synthetic=False)
    weights = distortion_weights(whole.train, 8)
    for variant in others:
        if variant.name.startswith(SINGLE):
            level = int(variant.name.removeprefix(SINGLE))
            assert variant.train.lowest_lambda == pytest.approx(float(weights[level]))
            gain = whole.model.scalar.finest_gain / 1.4 ** (7 - level)
            assert variant.model.scalar.finest_gain == pytest.approx(gain)


def curve(name: str, rate: list[float], quality: list[float], pictures: int = 12) -> Curve:
    noise = np.random.default_rng(1).normal(0, 0.2, (pictures, 1))
    images = tuple(map(str, range(pictures)))
    return Curve(name, images, np.tile(rate, (pictures, 1)), np.asarray(quality) + noise - noise.mean())


def test_excess_is_read_off_the_curve_at_the_single_point_s_psnr() -> None:
    many = curve("many", [0.1, 0.2, 0.4], [20, 22, 24])
    found, low, high = excess(many, curve("one", [0.2 / 1.05], [22]))
    assert found == pytest.approx(5)
    assert low == pytest.approx(5)  # the same pictures are drawn for both, and all shift alike
    assert high == pytest.approx(5)
    with pytest.raises(RecipeError, match="no bytes to compare"):
        excess(many, curve("one", [0.2], [27]))


def test_seeds_are_joined_as_more_pictures() -> None:
    one, two = curve("a", [0.1, 0.2], [20, 22]), curve("a", [0.3, 0.4], [20, 22])
    both = joined([one, two], "a")
    assert len(set(both.images)) == 24
    assert both.mean()[0] == pytest.approx([0.2, 0.3])


@pytest.fixture(scope="module")
def drives() -> list[Pair]:
    return render_drives(2, seed=9)


def test_a_finished_run_is_taken_as_it_is_and_another_s_is_not(drives: list[Pair], tmp_path: Path) -> None:
    dials = replace(SMOKE, steps=2)
    whole = variants(dials, synthetic=True)[0]
    steps: list[int] = []

    def advance(done: int, total: int) -> None:
        steps.append(done)

    first = train_variant(whole, 0, dials, drives, tmp_path, advance, device="cpu")
    again = train_variant(whole, 0, dials, drives, tmp_path, advance, device="cpu")
    assert steps == [1, 2]
    view = drives[0].left[:128, :256], drives[0].right[:128, :256]
    curves = [measure(trained, [view], "right", WHOLE) for trained in (first, again)]
    assert np.array_equal(curves[0].bpp, curves[1].bpp)
    assert np.array_equal(curves[0].quality, curves[1].quality)
    with pytest.raises(CheckpointError, match="other settings"):
        train_variant(whole, 1, dials, drives, tmp_path, advance, device="cpu")
    with pytest.raises(CheckpointError, match="other data"):
        train_variant(whole, 0, dials, drives[:1], tmp_path, advance, device="cpu")
