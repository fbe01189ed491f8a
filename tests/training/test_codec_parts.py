"""The codec's parts: variants differ in one thing, single rates have their λ, bytes are read off a curve."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.checkpoint import CheckpointError
from training.data import Pair, render_drives
from training.experiments.codec.figures import table
from training.experiments.codec.measured import Kind, excess, gain_db, mean_of, measure
from training.experiments.codec.paper import PAPER, measure_paper, train_paper
from training.experiments.codec.trained import train_variant
from training.experiments.codec.variants import (
    AFTERWARDS,
    BLIND,
    LONGER,
    SINGLE,
    SMOKE,
    WHOLE,
    Dials,
    variants,
)
from training.report.bd_rate import Curve
from training.run import Run
from training.scalar import ScalarQuantizer
from training.scalar_codec import distortion_weights

RATES = ("learning_rate", "muon_learning_rate", "gain_learning_rate", "rate_learning_rate", "weight_decay")


def changed(one: Any, other: Any) -> set[str]:
    a, b = asdict(one), asdict(other)
    return {name for name in a if a[name] != b[name]}


def test_each_variant_differs_in_one_thing() -> None:
    whole, *others = variants(Dials(), synthetic=False)
    assert whole.name == WHOLE
    expected: dict[str, tuple[set[str], set[str]]] = {
        LONGER: (set(), {"steps"}),
        "no alignment": ({"alignment"}, set()),
        "no gate, no faults": ({"gate"}, {"faulty_share"}),
        "each view flipped by itself": (set(), {"flips"}),
        BLIND: (set(), {"side_dropout", "faulty_share"}),
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
            gains = [ScalarQuantizer(v.model.scalar, 1).log_gain.detach() for v in (whole, variant)]
            assert float(gains[1][0, 0]) == pytest.approx(float(gains[0][level, 0]))


def curve(name: str, rate: list[float], quality: list[float], pictures: int = 12) -> Curve:
    noise = np.random.default_rng(1).normal(0, 0.2, (pictures, 1))
    images = tuple(map(str, range(pictures)))
    return Curve(name, images, np.tile(rate, (pictures, 1)), np.asarray(quality) + noise - noise.mean())


def test_excess_is_read_off_the_curve_at_the_single_point_s_psnr() -> None:
    many = curve("many", [0.1, 0.2, 0.4], [20, 22, 24])
    read = excess(many, curve("one", [0.2 / 1.05], [22]))
    assert read is not None
    found, low, high = read
    assert found == pytest.approx(5)
    assert low == pytest.approx(5)  # the same pictures are drawn for both, and all shift alike
    assert high == pytest.approx(5)
    assert excess(many, curve("one", [0.2], [27])) is None


def test_excess_has_no_interval_where_a_tail_of_it_is_not_on_the_curve() -> None:
    many = curve("many", [0.1, 0.2, 0.4], [20, 22, 24])
    near_the_top = replace(
        curve("one", [0.38], [23.9]), quality=23.9 + np.linspace(-1, 1, len(many.images))[:, None]
    )
    assert excess(many, near_the_top) is None


def test_gain_is_read_at_equal_rates() -> None:
    base = curve("base", [0.1, 0.2, 0.4], [20, 22, 24])
    assert gain_db(base, curve("higher", [0.1, 0.2, 0.4], [20.3, 22.3, 24.3])) == pytest.approx(0.3)
    # Two decibels for each doubling: at half the rate the same quality is 2 dB more at equal rate.
    assert gain_db(base, curve("smaller", [0.05, 0.1, 0.2], [20, 22, 24])) == pytest.approx(2)
    assert gain_db(base, curve("elsewhere", [1, 2], [20, 22])) is None
    assert gain_db(base, curve("one point", [0.2], [22])) is None


def test_the_paper_s_code_learns_the_crops_and_pays_real_bytes(drives: list[Pair], tmp_path: Path) -> None:
    dials = replace(SMOKE, steps=4)
    steps: list[int] = []
    kept: dict[str, Any] = {"synthetic": True, "device": torch.device("cpu")}
    codes = [
        train_paper(bits, 0, dials, drives, tmp_path / str(bits), lambda done, _: steps.append(done), **kept)
        for bits in (2, 2, 3)
    ]
    assert steps == [1, 2, 3, 4] * 2  # the second is the first's run, as it is
    views = [(pair.left[:128, :256], pair.right[:128, :256]) for pair in drives]
    curves = measure_paper(codes, views)
    assert np.array_equal(curves["right"].bpp[:, 0], curves["right"].bpp[:, 1])
    assert (curves["right"].bpp < 3 / 64 * 1.3).all()
    assert not np.array_equal(curves["right"].quality, curves["none"].quality)
    with pytest.raises(CheckpointError, match="other settings"):
        train_paper(2, 0, dials, drives[:1], tmp_path / "2", lambda done, _: None, **kept)
    larger = replace(dials, steps=2, paper_batch_size=1)  # as many steps, of one crop
    with pytest.raises(CheckpointError, match="other settings"):
        train_paper(2, 0, larger, drives, tmp_path / "2", lambda done, _: None, **kept)


def test_seeds_are_averaged_and_pictures_stay() -> None:
    one, two = curve("a", [0.1, 0.2], [20, 22]), curve("a", [0.3, 0.4], [20, 23])
    both = mean_of([one, two], "a")
    assert both.images == one.images
    assert both.mean()[0] == pytest.approx([0.2, 0.3])
    assert both.mean()[1] == pytest.approx([20, 22.5])


def test_the_table_says_what_each_part_is_worth() -> None:
    better = {"right": 0.0, "none": 3.0, "wrong": 3.5}
    curves: dict[tuple[str, Kind], Curve] = {}
    for kind, less in better.items():
        for name, rates, qualities in (
            (WHOLE, [0.1, 0.2, 0.4], [20, 22, 24]),
            ("twice the rate", [0.2, 0.4, 0.8], [20, 22, 24]),
            ("far away", [0.1, 0.2], [40, 41]),
            (PAPER, [0.2, 0.4, 0.8], [20, 22, 24]),
            (LONGER, [0.05, 0.1, 0.2], [20, 22, 24]),
            (f"{SINGLE}1", [0.19], [22]),
            (f"{SINGLE}9", [0.19], [27]),
        ):
            curves[name, kind] = curve(name, rates, [quality - less for quality in qualities])  # type: ignore[index]
    rows = {row["variant"]: row for row in table(curves, dict.fromkeys((name for name, _ in curves), 1.0))}
    assert rows["twice the rate"]["bd_rate"] == pytest.approx(100)
    assert rows["twice the rate"]["overlap_low_db"] == pytest.approx(20, abs=0.2)
    assert rows["far away"]["bd_rate"] is None
    assert rows[WHOLE]["bd_rate_paper"] == pytest.approx(-50)
    assert rows[LONGER]["bd_rate_paper"] == pytest.approx(-75)
    assert rows[LONGER]["bd_rate"] == pytest.approx(-50)
    assert "bd_rate_paper" not in rows["twice the rate"]
    assert rows[f"{SINGLE}1"]["excess"] == pytest.approx(100 * (0.2 / 0.19 - 1))
    assert rows[f"{SINGLE}1"]["excess_paper"] == pytest.approx(100 * (0.4 / 0.19 - 1))
    assert rows[f"{SINGLE}9"]["excess"] is None
    assert rows[f"{SINGLE}9"]["excess_paper"] is None
    for kind in better:  # one code of the paper's is a point, not a curve
        curves[PAPER, kind] = curve(PAPER, [0.1], [22 - better[kind]])  # type: ignore[index]
    alone = {row["variant"]: row for row in table(curves, dict.fromkeys((name for name, _ in curves), 1.0))}
    assert alone[PAPER]["excess"] == pytest.approx(100)
    assert alone[WHOLE]["bd_rate_paper"] is None
    assert alone[f"{SINGLE}1"]["excess_paper"] is None
    assert rows[WHOLE]["right_gains_db"] == pytest.approx(3)
    assert rows[WHOLE]["wrong_gains_db"] == pytest.approx(-0.5)


@pytest.fixture(scope="module")
def drives() -> list[Pair]:
    return render_drives(2, seed=9)


def test_a_finished_run_is_taken_as_it_is_and_another_s_is_not(drives: list[Pair], tmp_path: Path) -> None:
    dials = replace(SMOKE, steps=2)
    whole = variants(dials, synthetic=True)[0]
    steps: list[int] = []

    def advance(done: int, total: int) -> None:
        steps.append(done)

    first = train_variant(whole, 0, dials, drives, tmp_path, advance, device=torch.device("cpu"))
    again = train_variant(whole, 0, dials, drives, tmp_path, advance, device=torch.device("cpu"))
    assert steps == [1, 2]
    view = drives[0].left[:128, :256], drives[0].right[:128, :256]
    curves = [measure(trained, [view], WHOLE)["right"] for trained in (first, again)]
    assert np.array_equal(curves[0].bpp, curves[1].bpp)
    assert np.array_equal(curves[0].quality, curves[1].quality)
    with pytest.raises(CheckpointError, match="other settings"):
        train_variant(whole, 1, dials, drives, tmp_path, advance, device=torch.device("cpu"))
    with pytest.raises(CheckpointError, match="other data"):
        train_variant(whole, 0, dials, drives[:1], tmp_path, advance, device=torch.device("cpu"))


def test_a_run_begins_with_the_weights_of_start_and_is_not_taken_for_another(
    drives: list[Pair], tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    whole = variants(replace(SMOKE, steps=2), synthetic=True)[0]
    # Nothing learns: the weights stay those of the start.
    frozen: dict[str, Any] = dict.fromkeys(RATES, 0.0)
    still = replace(whole, train=replace(whole.train, **frozen))
    start = Run(whole.model, replace(whole.train, seed=7), cpu).checkpoint()
    trained = train_variant(still, 0, SMOKE, drives, tmp_path, lambda *_: None, device=cpu, start=start)
    for name, value in trained.model.state_dict().items():
        if not name.startswith(("rate_model.", "quantizer.log_gain")):  # finished afterwards
            assert torch.allclose(value, start.averaged[name], atol=1e-6), name
    other = Run(whole.model, replace(whole.train, seed=8), cpu).checkpoint()
    for wrong in (other, None):
        with pytest.raises(CheckpointError, match="started from other weights"):
            train_variant(still, 0, SMOKE, drives, tmp_path, lambda *_: None, device=cpu, start=wrong)
