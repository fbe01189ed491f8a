"""The rate model fitted to rounded indices, and planes left out where they do not pay."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.frames import write_image
from tests.training.small_scalar import CONFIG, MODEL
from training.checkpoint import Checkpoint, CheckpointError
from training.config import ModelConfig
from training.data import TrainingData, render_drives
from training.export import EncoderGraph
from training.finish import NO_GAIN, finish, fit_rate_model, leave_out
from training.model import ConditionalVQVAE
from training.run import Run, TrainingError, train
from training.scalar_codec import ScalarCodec
from training.validation import validate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return TrainingData([], render_drives(2, seed=5, width=160, height=80), CPU)


@pytest.fixture(scope="module")
def trained(data: TrainingData) -> Checkpoint:
    run = Run(MODEL, CONFIG, CPU)
    for pending in train(run, data):
        pending.read()
    return run.checkpoint()


@pytest.fixture
def codec(trained: Checkpoint) -> ScalarCodec:
    model = trained.averaged_model()
    assert isinstance(model, ScalarCodec)
    return model


def test_fitted_the_same_pictures_take_fewer_bits(
    trained: Checkpoint, codec: ScalarCodec, data: TrainingData
) -> None:
    fit_rate_model(codec, replace(CONFIG, seed=1), data, 60, 2e-3, lambda: None)
    fitted = replace(trained, averaged=codec.state_dict())
    held_out = [
        (p.left[:64, :128], p.right[:64, :128]) for p in render_drives(2, seed=9, width=160, height=80)
    ]
    before, after = (validate(one, held_out, CPU) for one in (trained, fitted))
    for old, new in zip(before["bpp"], after["bpp"], strict=True):
        assert new < 0.97 * old
    assert (before["right"], before["none"]) == (after["right"], after["none"])
    other = {
        name for name, value in codec.state_dict().items() if not torch.equal(value, trained.averaged[name])
    }
    assert other
    assert {name.split(".")[0] for name in other} == {"rate_model"}


def test_the_rate_model_says_what_the_prior_pays(codec: ScalarCodec, data: TrainingData) -> None:
    fit_rate_model(codec, replace(CONFIG, seed=1), data, 3, 2e-3, lambda: None)
    frame = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    at = torch.tensor([1])
    with torch.no_grad():
        indices = EncoderGraph(codec)(frame, at)[0].numpy().astype(np.uint16)
        bits = float(codec.rate_model(codec.quantizer(codec.encoder(frame), at), at).sum())
    assert codec.rate_model.prior().ideal_bits(indices, 1) == pytest.approx(bits, rel=0.01)


def test_planes_that_cost_more_than_they_are_worth_are_left_out(
    codec: ScalarCodec, data: TrainingData
) -> None:
    """Plane 2 says nothing to the decoder any more, and costs."""
    with torch.no_grad():
        codec.decoder.stem.weight[:, 2] = 0
        codec.quantizer.log_gain[:, 2] = 1.0
    gains = codec.quantizer.log_gain.detach().clone()
    dear = replace(CONFIG, lowest_lambda=0.05, highest_lambda=0.1)
    gone = leave_out(codec, dear, data)
    for level, planes in enumerate(gone):
        assert 2 in planes
        assert len(planes) < 6
        left = [plane for plane in range(6) if plane not in planes]
        assert torch.equal(codec.quantizer.log_gain[level, left], gains[level, left])
        assert torch.equal(codec.quantizer.log_gain[level, planes], torch.full((len(planes),), NO_GAIN))
        source = data.batch(CONFIG, 3, 0).source
        with torch.no_grad():
            indices = codec.quantizer(codec.encoder(source), torch.tensor([level])).indices
        assert not indices[:, planes].any()


def test_a_finished_codec_is_a_checkpoint_to_export(trained: Checkpoint, data: TrainingData) -> None:
    calls: list[int] = []
    finished = finish(trained, data, 20, device=CPU, advance=lambda: calls.append(1))
    assert len(calls) == 40
    held_out = [
        (p.left[:64, :128], p.right[:64, :128]) for p in render_drives(2, seed=9, width=160, height=80)
    ]
    before, after = (validate(one, held_out, CPU) for one in (trained, finished))
    assert sum(after["bpp"]) < 0.97 * sum(before["bpp"])
    other = {
        name for name, value in finished.averaged.items() if not torch.equal(value, trained.averaged[name])
    }
    assert {name.split(".")[0] for name in other if name != "quantizer.log_gain"} == {"rate_model"}
    assert finished.facts["finish_steps"] == 20
    assert len(finished.facts["left_out"]) == 3
    assert "finish_steps" not in trained.facts


def test_training_goes_on_from_the_weights_before(
    trained: Checkpoint, data: TrainingData, tmp_path: Path
) -> None:
    finished = finish(trained, data, 2, device=CPU)
    finished.save(tmp_path / "finished")
    assert {path.name for path in (tmp_path / "finished").iterdir()} == {
        "averaged.safetensors",
        "model.safetensors",
        "checkpoint.json",
    }
    read = Checkpoint.load(tmp_path / "finished")
    for name, value in finished.averaged.items():
        assert torch.equal(read.averaged[name], value)
    run = Run(MODEL, CONFIG, CPU)
    run.start_from(read)
    for name, value in trained.averaged.items():
        assert torch.equal(run.model.state_dict()[name], value)


@pytest.mark.parametrize("lost", ["model", "averaged"])
def test_a_checkpoint_without_one_of_its_files_is_one_line(
    trained: Checkpoint, tmp_path: Path, lost: str
) -> None:
    trained.save(tmp_path / "run")
    (tmp_path / "run" / f"{lost}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint.load(tmp_path / "run")
    trained.save(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint.load(tmp_path / "run")


def test_a_save_after_one_that_stopped_between_its_renames_keeps_what_there_is(
    trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = tmp_path / "run"
    trained.save(latest)
    latest.rename(tmp_path / "run.old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        replace(trained, step=trained.step + 1).save(latest)
    monkeypatch.undo()
    assert Checkpoint.load(latest).step == trained.step
    replace(trained, step=trained.step + 1).save(latest)
    assert Checkpoint.load(latest).step == trained.step + 1
    assert not (tmp_path / "run.old").exists()


def test_finishing_twice_is_finishing_once(trained: Checkpoint, data: TrainingData) -> None:
    once = finish(trained, data, 3, device=CPU)
    twice = finish(once, data, 3, device=CPU)
    assert once.facts == twice.facts
    for first, second in ((once.model, twice.model), (once.averaged, twice.averaged)):
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert once.finished
    assert not once.as_trained().finished
    assert once.as_trained().facts == trained.facts


def test_what_cannot_be_finished_is_one_line(
    trained: Checkpoint, data: TrainingData, small_model: ConditionalVQVAE, small_config: ModelConfig
) -> None:
    weights = dict(small_model.state_dict())
    with pytest.raises(CheckpointError, match="no rate model of its own"):
        finish(Checkpoint(small_config, CONFIG, 7, weights, weights, {}, {}), data, 1, device=CPU)
    broken = {**trained.averaged, "encoder.head.bias": torch.full((6,), float("nan"))}
    with pytest.raises(TrainingError, match="at step 0"):
        finish(replace(trained, averaged=broken), data, 1, device=CPU)


@pytest.mark.timeout(120)
def test_the_command_tells_what_it_did_and_writes_a_checkpoint(trained: Checkpoint, tmp_path: Path) -> None:
    replace(trained, facts={"data": "others"}).save(tmp_path / "trained")
    for split, seed in (("train", 5), ("val", 9)):
        (pair,) = render_drives(1, seed=seed, width=320, height=160)
        for side, frame in (("left", pair.left), ("right", pair.right)):
            (tmp_path / split / side).mkdir(parents=True)
            write_image(tmp_path / split / side / "0.png", frame)
    command = [sys.executable, "-m", "training.finish", str(tmp_path / "trained"), "--threads", "1"]
    command += [
        "-o",
        str(tmp_path / "done"),
        "--steps",
        "4",
        "--drives",
        "1",
        "--cache",
        str(tmp_path / "cache"),
    ]
    for split, option in (("train", "--pairs"), ("val", "--val-pairs")):
        command += [option, str(tmp_path / split)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of 6 planes left out") == 3
    assert done.stdout.count(" dB → ") == 3
    facts = Checkpoint.load(tmp_path / "done").facts
    assert facts["finish_steps"] == 4
    assert facts["finish_data"] != facts["data"]
    assert "not the pairs and drives that it was trained on" in done.stderr
    assert set(facts["finish_validation"]) == {"right", "none", "bpp"}
    assert "finish_validation" not in Checkpoint.load(tmp_path / "done").as_trained().facts
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (1, f"error: {tmp_path / 'done'} exists: give another -o\n")
