"""The ablation's pieces: kinds of side information, intervals, and codes whose message hangs on x alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.frames import Frame
from training.experiments.ablation.codes import PaperCode, bundle_codes
from training.experiments.ablation.sides import Interval, Samples, Side
from training.experiments.recipe import RecipeError
from training.paper.convolutional import FAMILIES, ConvolutionalVQVAE, FamilyConfig, Mode
from training.paper.fitting import FitConfig, fit

MODEL = Path(__file__).parents[2] / "models" / "default"


def frames(count: int, seed: int = 0) -> tuple[Frame, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8) for _ in range(count))


SAMPLES = Samples(frames(6), frames(6, seed=1))


def trained(run: Path, mode: Mode = Mode.DISTRIBUTED) -> Path:
    small = replace(FAMILIES["8x"].scaled(1 / 12, 1), bits=2, mode=mode.value)
    model = ConvolutionalVQVAE(FamilyConfig.from_dict(small.to_dict()))
    batch = torch.rand(2, 3, 16, 32) - 0.5
    fit(model, lambda step: (batch, batch), FitConfig(steps=2, unquantized_steps=1), directory=run)
    return run


def test_the_right_side_is_the_pair_s_own() -> None:
    assert all(a is b for a, b in zip(SAMPLES.seen(Side.RIGHT), SAMPLES.sides, strict=True))
    assert SAMPLES.seen(Side.NONE) == [None] * 6


def test_a_wrong_side_is_another_pair_s_frame_of_the_same_camera() -> None:
    for number, side in enumerate(SAMPLES.seen(Side.WRONG)):
        taken = next(i for i, own in enumerate(SAMPLES.sides) if own is side)
        assert taken % 3 != number % 3
        assert taken // 3 == number // 3


def test_a_random_side_is_uniform_noise_and_the_same_each_time() -> None:
    noise = np.stack([side for side in SAMPLES.seen(Side.RANDOM) if side is not None])
    assert noise.mean() == pytest.approx(127.5, abs=2)
    assert noise.std() == pytest.approx(73.9, abs=2)
    assert np.array_equal(noise, np.stack([s for s in SAMPLES.seen(Side.RANDOM) if s is not None]))


def test_one_pair_has_no_wrong_side() -> None:
    with pytest.raises(RecipeError, match="two pairs"):
        Samples(frames(2), frames(2))


def test_intervals_are_over_pairs() -> None:
    by_pair = SAMPLES.by_pair([1, 2, 3, 3, 4, 5])
    assert by_pair.tolist() == [2, 3, 4]
    normal = np.random.default_rng(0).normal(5, 2, 400)
    interval = Interval.of(normal)
    assert interval.mean == pytest.approx(normal.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)
    assert Interval.of(np.full(4, 3.0)) == Interval(3, 3, 3)


def test_a_paper_code_decodes_one_message_with_each_side(tmp_path: Path) -> None:
    torch.manual_seed(0)
    code = PaperCode(trained(tmp_path / "8x-2bit"), torch.device("cpu"))
    assert code.name == "8x-2bit"
    right, wrong = (code.decode(SAMPLES, kind) for kind in (Side.RIGHT, Side.WRONG))
    assert right.bpp == wrong.bpp == 2 / 64
    assert right.outputs[0].shape == (16, 32, 3)
    assert all(x.min() >= 0 and x.max() <= 1 for x in right.outputs)
    assert not np.array_equal(right.outputs[0], wrong.outputs[0])


def test_a_joint_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="only a distributed one"):
        PaperCode(trained(tmp_path, Mode.JOINT), torch.device("cpu"))


def test_a_bundle_decodes_the_same_bytes_with_and_without_y() -> None:
    level = next(bundle_codes(MODEL))
    assert level.name == "default, level 0"
    right, none = (level.decode(SAMPLES, kind) for kind in (Side.RIGHT, Side.NONE))
    assert right.bpp == none.bpp > 0
    assert not np.array_equal(right.outputs[0], none.outputs[0])
