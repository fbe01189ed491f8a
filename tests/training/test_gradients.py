"""Gradient compression: the classifier's symmetries, codes that see what they may, bits counted right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.checkpoint import CheckpointError
from training.datasets.mnist import MnistError
from training.experiments.gradients import classifier, digits
from training.experiments.gradients.__main__ import main
from training.experiments.gradients.baselines import (
    Baseline,
    NormSampling,
    Nothing,
    Qsgd,
    RandomK,
    TopK,
    set_bits,
)
from training.experiments.gradients.codes import CodeCompressor, gradient_code, histories, relative_error
from training.experiments.gradients.comparison import curves
from training.experiments.gradients.trajectories import TrainingConfig, collect_gradients, train
from training.experiments.recipe import RecipeError
from training.gradients.code import (
    GradientCode,
    GradientCodeConfig,
    fingerprint,
    magnitudes_of,
    next_squares,
    quantize_scale,
    scale_of,
)
from training.paper.convolutional import Mode
from training.paper.fitting import FitConfig

SMALL = GradientCodeConfig(length=20, positions=5, latent_dimension=4, hidden=16, residual=8)
TRAINING = TrainingConfig(steps=12, batch_size=20)


@pytest.fixture(scope="module")
def split() -> digits.Split:
    return digits.synthetic(120)


@pytest.fixture(scope="module")
def gradients(split: digits.Split) -> Tensor:
    return collect_gradients(split.fit, [0, 1], TRAINING)


def vectors(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, SMALL.length, generator=generator)
    return x, x + 0.5 * torch.randn(x.shape, generator=generator)


def test_the_classifier_has_the_paper_s_412_parameters() -> None:
    assert classifier.PARAMETERS == 412
    assert classifier.start([3, 4]).shape == (2, 412)


def test_gradients_of_a_group_are_those_of_the_group_alone(split: digits.Split) -> None:
    parameters = classifier.start(list(range(10)))  # more than are taken at once
    images, labels = split.fit.images[:60].view(6, 10, 28, 28), split.fit.labels[:60].view(6, 10)
    losses, slopes = classifier.gradients(parameters, images, labels)
    alone = classifier.gradients(parameters[9:], images[:, 9:], labels[:, 9:])
    assert torch.allclose(losses[9:], alone[0], atol=1e-6)
    assert torch.allclose(slopes[9:], alone[1], atol=1e-6)
    step = 1e-2 * slopes / slopes.norm(dim=1, keepdim=True)
    lower = classifier.losses(parameters - step, images, labels)
    assert torch.allclose(losses - lower, 1e-2 * slopes.norm(dim=1), rtol=0.2)


def test_channels_in_another_order_are_the_same_classifier(split: digits.Split) -> None:
    parameters, images = classifier.start([5]), split.test.images[:4, None]
    table = classifier.symmetries()
    assert table.shape == (1296, 412)
    assert len({tuple(row) for row in table.tolist()}) == 1296
    same = classifier.logits(parameters, images)
    for order in table[::97]:
        assert torch.allclose(classifier.logits(parameters[:, order], images), same, atol=1e-6)


def test_a_run_depends_on_its_seed_alone(split: digits.Split) -> None:
    def parameters(seeds: list[int]) -> Tensor:
        return train(split.fit, seeds, TRAINING, None, lambda *_: None)

    together, alone = parameters([7, 8]), parameters([8])
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert not torch.allclose(together[0], alone[0], atol=1e-2)


def test_sending_nothing_is_training_on_one_worker(split: digits.Split) -> None:
    seen: list[Tensor] = []
    train(split.fit, [1], TRAINING, Nothing(), lambda step, p, loss, x, y, received: seen.append(received))
    assert not torch.stack(seen).any()


def test_messages_are_as_long_as_promised_and_decode_alone() -> None:
    torch.manual_seed(0)
    code = GradientCode(SMALL).eval()
    x, y = vectors(6)
    magnitudes = torch.ones_like(x)
    messages = code.encode(x, magnitudes)
    assert messages.shape == (6, 1 + SMALL.positions)
    assert messages.dtype == torch.uint8
    assert torch.allclose(
        code.decode(messages, y, magnitudes)[2:3],
        code.decode(messages[2:3], y[2:3], magnitudes[2:3]),
        atol=1e-6,
    )
    bits = 8 * GradientCode(GradientCodeConfig()).message_bytes
    assert bits == 320


@pytest.mark.parametrize("mode", Mode)
def test_y_reaches_only_who_may_see_it(mode: Mode) -> None:
    torch.manual_seed(0)
    code = GradientCode(replace(SMALL, mode=mode.value)).eval()
    x, y = vectors(8)
    ones, other = torch.ones_like(x), 3 * y.flip(0)
    messages = code.encode(x, ones, y)
    assert torch.equal(messages, code.encode(x, ones, other)) == (mode is not Mode.JOINT)
    assert torch.equal(code.decode(messages, y, ones), code.decode(messages, other, ones)) == (
        mode is Mode.SEPARATE
    )
    if mode is Mode.JOINT:
        with pytest.raises(ValueError, match="joint code"):
            code.encode(x, ones)


def test_a_code_follows_the_scale_of_its_vectors() -> None:
    """Ten octaves up, in x, y and history, and the same indices decode ten octaves up."""
    torch.manual_seed(0)
    code = GradientCode(SMALL).eval()
    x, y = vectors(4)
    ones, factor = torch.ones_like(x), 2.0**10
    messages, larger = code.encode(x, ones), code.encode(factor * x, ones)
    assert torch.equal(messages[:, 1:], larger[:, 1:])
    assert torch.allclose(
        code.decode(larger, factor * y, ones), factor * code.decode(messages, y, ones), rtol=1e-4
    )
    assert torch.equal(messages, code.encode(factor * x, factor * ones))


def test_scales_are_close_and_what_is_not_finite_stays_so() -> None:
    scale = torch.logspace(-3, 3, 50)
    assert torch.allclose(scale_of(quantize_scale(scale)), scale, rtol=0.036)  # half of a tenth of an octave
    assert scale_of(quantize_scale(torch.tensor([torch.nan, torch.inf]))).isnan().all()
    assert scale_of(quantize_scale(torch.zeros(1))) == 2.0**-13


def test_history_follows_the_means_and_forgets_what_is_not_finite() -> None:
    squares = torch.ones(1, 3)
    for _ in range(100):
        squares = next_squares(squares, torch.tensor([[2.0, 4.0, torch.nan]]))
    assert torch.allclose(squares, torch.tensor([[4.0, 16.0, 1.0]]), rtol=1e-3)
    assert torch.allclose(magnitudes_of(squares), squares.sqrt())
    assert magnitudes_of(torch.tensor([[0.0, 100.0]])).min() > 0


def test_histories_know_the_past_and_not_the_present(gradients: Tensor) -> None:
    start = torch.ones(classifier.PARAMETERS)
    known = histories(gradients, start)
    changed = gradients.clone()
    changed[:, 5] *= 100
    again = histories(changed, start)
    assert torch.equal(known[:, :6], again[:, :6])
    assert not torch.equal(known[:, 6], again[:, 6])


def test_the_correction_puts_y_where_the_code_is_silent_and_keeps_what_is_exact() -> None:
    torch.manual_seed(0)
    code = GradientCode(SMALL).eval()
    x, y = vectors(4)
    ones = torch.ones_like(x)
    same = code.estimate(code.encode(y, ones), y, ones)
    assert torch.allclose(same, y, atol=1e-5)  # whatever the code loses of x = y is put back
    received = code.decode(code.encode(x, ones), y, ones)
    assert not torch.allclose(code.estimate(code.encode(x, ones), y, ones), received, atol=1e-2)
    filled = TopK(3, filled=True)(x, y, 0)
    assert ((filled == y).sum(1) == SMALL.length - 3).all()


def test_a_fitted_code_decodes_better_than_zeros_and_comes_back_from_its_file(
    gradients: Tensor, tmp_path: Path
) -> None:
    config = GradientCodeConfig(positions=39, hidden=64, residual=32)
    fitting = FitConfig(steps=150, learning_rate=3e-3, commitment=0.15, unquantized_steps=30)
    code, _ = gradient_code(gradients, config, fitting, batch_size=32, directory=tmp_path)
    x, y = gradients[:, -1, 0], gradients[:, -1, 1]
    magnitudes = histories(gradients, code.start)[:, -1]
    received = code.decode(code.encode(x, magnitudes), y, magnitudes)
    assert relative_error(received / magnitudes, x / magnitudes).mean() < 0.8
    code.save(tmp_path / "code.safetensors", {"steps": 150})
    loaded = GradientCode.load(tmp_path / "code.safetensors")
    assert fingerprint(loaded) == fingerprint(code)
    assert torch.equal(loaded.decode(loaded.encode(x, magnitudes), y, magnitudes), received)
    compressor = CodeCompressor(code)
    assert compressor.bits == 320
    assert torch.equal(compressor(x, y, 0), compressor(x, y, 0))  # step 0 forgets the run before


def test_runs_take_turns_with_the_codes() -> None:
    codes = []
    for seed in range(2):
        torch.manual_seed(seed)
        codes.append(GradientCode(SMALL).eval())
    x, y = vectors(5)
    both = CodeCompressor(*codes)
    alone = [CodeCompressor(code) for code in codes]
    for step in range(2):
        received = both(x, y, step)
        for first, compressor in enumerate(alone):
            assert torch.allclose(received[first::2], compressor(x, y, step)[first::2], atol=1e-6)
    assert not torch.allclose(alone[0](x, y, 0), alone[1](x, y, 0), atol=1e-2)
    assert len({both.key, *(compressor.key for compressor in alone)}) == 3


def test_what_is_no_code_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "code.safetensors"
    for content in (b"", b"\x08\0\0\0\0\0\0\0{}      "):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a gradient code"):
            GradientCode.load(path)


def test_bits_of_the_baselines() -> None:
    x, y = vectors(200)
    top, drawn = TopK(3), RandomK(3)
    assert (top(x, y, 0) != 0).sum(1).tolist() == [3] * 200
    assert top.bits == 3 * 16 + 11  # log2(20 choose 3) = 10.15
    assert (drawn(x, y, 0) != 0).sum(1).tolist() == [3] * 200
    assert drawn.bits == 3 * 16
    assert Nothing().bits == 0
    assert set_bits(torch.tensor([0, 1, 20]), 20).tolist() == [0, 5, 0]
    # Levels of one: the norm, a count up to 20, a set, a sign each.
    quantizer = Qsgd(1)
    used = (quantizer(x, y, 0) != 0).sum(1)
    assert quantizer.bits == pytest.approx(float((32 + 5 + set_bits(used, 20) + used).float().mean()))


@pytest.mark.parametrize("compressor", [Qsgd(1), Qsgd(3), NormSampling(6), RandomK(5, unbiased=True)])
def test_random_baselines_are_unbiased(compressor: Baseline) -> None:
    x, _ = vectors(1)
    many = x.expand(4000, -1)
    received = compressor(many, many, 0)
    error = (received.mean(0) - x[0]).abs() / (received.std(0) / 4000**0.5 + 1e-3)
    assert error.max() < 5


def test_norm_sampling_sends_as_many_as_asked_for() -> None:
    x, y = vectors(500, seed=5)  # not the seed of the first draw
    assert (NormSampling(6)(x, y, 0) != 0).sum(1).float().mean() == pytest.approx(6, abs=0.3)


def test_memory_sends_later_what_was_left_out() -> None:
    x, y = vectors(3)
    compressor = TopK(4, memory=True)
    total = torch.stack([compressor(x, y, step) for step in range(200)]).sum(0)
    assert torch.allclose(total / 200, x, atol=0.1)


def test_curves_are_kept_and_another_compressor_s_are_not_taken_for_them(
    split: digits.Split, tmp_path: Path
) -> None:
    file = tmp_path / "curves" / "a.safetensors"

    def make(k: int) -> float:
        run = curves(split, [0, 1], TRAINING, TopK(k), every=6, file=file)
        assert run.losses.shape == (2, 12)
        assert run.marks.tolist() == [6, 12]
        return run.bits

    first = make(14)
    written = file.stat().st_mtime_ns
    assert make(14) == first == 309
    assert file.stat().st_mtime_ns == written
    assert make(3) < first


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="give --mnist"):
        main(output=tmp_path)
    with pytest.raises(RecipeError, match="multiple of 8"):
        main(output=tmp_path, smoke=True, bits=12)
    with pytest.raises(RecipeError, match="--only best: the compressors are uncompressed, joint"):
        main(output=tmp_path, smoke=True, only=["top-k", "best"])
    with pytest.raises(MnistError, match="not there"):
        main(output=tmp_path, mnist=tmp_path / "mnist.npz")
    assert not list(tmp_path.iterdir())
