"""Planes that a codec does not use, made anew."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.frames import to_float, write_image
from tests.training.small_scalar import MODEL
from training.checkpoint import Checkpoint, CheckpointError
from training.config import ModelConfig, TrainConfig
from training.data import Frame, render_drives
from training.model import ConditionalVQVAE
from training.revive import plane_shares, revive, unexplained_directions
from training.run import Run
from training.scalar import FRESH_SCALE
from training.scalar_codec import ScalarCodec

UNUSED = [1, 4]


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [pair.left for pair in render_drives(3, seed=5, width=160, height=80)]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Of a codec in which two planes are zero at every level, and say so to decoder and prior."""
    torch.manual_seed(3)
    codec = ScalarCodec(MODEL)
    with torch.no_grad():
        codec.quantizer.log_gain[:] += torch.tensor([0.0, 0.2, 0.1, 0.3, 0.0, 0.5]) * torch.arange(3)[:, None]
        codec.quantizer.log_gain[:, UNUSED] = -9
        codec.quantizer.log_step[:, UNUSED] = 0.7
        codec.rate_model.first_mean[:, UNUSED] = 1.5
        for _, network in codec.rate_model.networks():
            network.head.bias.normal_()
    weights = {name: value.detach().clone() for name, value in codec.state_dict().items()}
    return Checkpoint(MODEL, TrainConfig(), 7, weights, weights, {}, {"seconds": 1.0, "validation": []})


def tensor(frame: Frame) -> torch.Tensor:
    return torch.from_numpy(to_float(np.ascontiguousarray(frame[:64, :128])))[None]


def test_unused_planes_come_into_use_and_the_others_stay(checkpoint: Checkpoint, frames: list[Frame]) -> None:
    revived, planes = revive(checkpoint, frames)
    assert planes == UNUSED
    before, after = checkpoint.averaged_model(), revived.averaged_model()
    assert isinstance(before, ScalarCodec)
    assert isinstance(after, ScalarCodec)
    kept = [plane for plane in range(6) if plane not in UNUSED]
    seen = [tensor(frame) for frame in frames]
    old, new = (plane_shares(codec, seen, 2) for codec in (before, after))
    assert torch.equal(old[UNUSED], torch.zeros(2))
    assert new[UNUSED].min() > 0.2
    assert torch.equal(old[kept], new[kept])


@pytest.mark.parametrize("level", [0, 2])
def test_nothing_is_decoded_or_coded_otherwise(
    checkpoint: Checkpoint, frames: list[Frame], level: int
) -> None:
    before, after = checkpoint.averaged_model(), revive(checkpoint, frames)[0].averaged_model()
    source, at = tensor(frames[0]), torch.tensor([level])
    kept = [plane for plane in range(6) if plane not in UNUSED]
    results = []
    for codec in (before, after):
        assert isinstance(codec, ScalarCodec)
        with torch.no_grad():
            quantized = codec.quantizer(codec.encoder(source), at)
            side = codec.side_network(source)
            results.append(
                (
                    codec.decoder(quantized.latents, at, side, torch.ones(1)),
                    codec.rate_model(quantized, at)[:, kept],
                )
            )
    for old, new in zip(*results, strict=True):
        assert torch.equal(old, new)


def test_of_a_new_plane_nothing_is_known_yet(checkpoint: Checkpoint, frames: list[Frame]) -> None:
    codec = revive(checkpoint, frames)[0].averaged_model()
    assert isinstance(codec, ScalarCodec)
    gains = codec.quantizer.log_gain.detach()
    kept = [plane for plane in range(6) if plane not in UNUSED]
    ratios = (gains[:, kept] - gains[2, kept]).mean(1)
    for plane in UNUSED:
        assert torch.allclose(gains[:, plane] - gains[2, plane], ratios, atol=1e-6)
    assert torch.equal(codec.quantizer.log_step[:, UNUSED], torch.zeros(3, 2))
    for level in range(3):
        at = torch.tensor([level])
        indices = codec.quantizer(codec.encoder(tensor(frames[0])), at).indices.detach()
        for of in codec.rate_model.predictions(indices, at):
            assert torch.equal(of.mean[:, UNUSED], torch.zeros_like(of.mean[:, UNUSED]))
            assert torch.equal(of.scale[:, UNUSED], torch.full_like(of.scale[:, UNUSED], FRESH_SCALE))


def test_new_planes_tell_what_the_used_ones_do_not(checkpoint: Checkpoint, frames: list[Frame]) -> None:
    codec = revive(checkpoint, frames)[0].averaged_model()
    assert isinstance(codec, ScalarCodec)
    with torch.no_grad():
        whole = [codec.encoder(torch.from_numpy(to_float(frame))[None])[0].flatten(1) for frame in frames]
        latents = torch.cat(whole, 1).double() * codec.quantizer.log_gain[2].exp()[:, None]
    assert torch.allclose(latents[UNUSED].std(1, correction=0), torch.ones(2).double(), atol=1e-3)
    assert latents[UNUSED].mean(1).abs().max() < 1e-3
    # Given the used planes, the new ones are uncorrelated and not yet known.
    covariance = torch.cov(latents)
    kept = [plane for plane in range(6) if plane not in UNUSED]
    explained = torch.linalg.solve(covariance[kept][:, kept], covariance[kept][:, UNUSED])
    left = covariance[UNUSED][:, UNUSED] - covariance[UNUSED][:, kept] @ explained
    assert left[0, 1].abs() < 1e-3 * left.diagonal().min()
    assert left.diagonal().min() > 1e-3


def test_directions_are_those_of_the_conditional_covariance() -> None:
    covariance = torch.diag(torch.tensor([9.0, 4.0, 1.0, 0.25])).double()
    found = unexplained_directions(covariance, torch.eye(4).double()[:1], 2)
    assert torch.allclose(found.abs(), torch.eye(4).double()[1:3])
    mixed = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double()  # tells most of the first and some of the second
    (first,) = unexplained_directions(covariance, mixed, 1)
    residual = covariance - covariance @ mixed.T @ mixed @ covariance / 13
    assert torch.allclose(residual @ first, torch.linalg.eigvalsh(residual)[-1] * first)


def test_an_encoder_that_has_nothing_left_to_see_is_refused() -> None:
    covariance = torch.diag(torch.tensor([9.0, 4.0, 0.0])).double()
    with pytest.raises(
        CheckpointError, match="2 planes are to be made anew, and the used ones leave 1 directions"
    ):
        unexplained_directions(covariance, torch.eye(3).double()[:1], 2)


def test_what_cannot_be_made_anew_is_one_line(
    checkpoint: Checkpoint, frames: list[Frame], small_model: ConditionalVQVAE, small_config: ModelConfig
) -> None:
    with pytest.raises(CheckpointError, match="all 6 planes differ"):
        revive(checkpoint, frames, 0.0)
    with pytest.raises(CheckpointError, match="no plane differs"):
        revive(checkpoint, frames, 1.1)
    weights = dict(small_model.state_dict())
    codebooks = Checkpoint(small_config, TrainConfig(), 7, weights, weights, {}, {})
    with pytest.raises(CheckpointError, match="has no planes"):
        revive(codebooks, frames)


def test_a_finished_codec_is_taken_as_it_was_before(checkpoint: Checkpoint, frames: list[Frame]) -> None:
    """One plane in use is left out at the lowest level, and the rate model fitted."""
    averaged = {name: value.clone() for name, value in checkpoint.averaged.items()}
    averaged["quantizer.log_gain"][0, 0] = -12
    averaged["rate_model.first_mean"] += 1
    facts = {**checkpoint.facts, "finish_steps": 5, "finished_from": "0" * 16, "left_out": [[0], [], []]}
    revived, planes = revive(replace(checkpoint, averaged=averaged, facts=facts), frames)
    expected, _ = revive(checkpoint, frames)
    assert planes == UNUSED
    assert revived.facts == expected.facts
    for weights in (revived.model, revived.averaged):
        assert all(torch.equal(value, expected.averaged[name]) for name, value in weights.items())


@pytest.mark.timeout(120)
def test_the_command_writes_a_checkpoint_that_training_starts_from(
    checkpoint: Checkpoint, frames: list[Frame], tmp_path: Path
) -> None:
    for side in ("left", "right"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for number, frame in enumerate(frames):
            write_image(tmp_path / "pairs" / side / f"{number}.png", frame)
    checkpoint.save(tmp_path / "old")
    command = [sys.executable, "-m", "training.revive", str(tmp_path / "old")]
    command += ["--pairs", str(tmp_path / "pairs"), "-o", str(tmp_path / "start")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("2 of 6 planes made anew: [1, 4]\n")
    start = Checkpoint.load(tmp_path / "start")
    run = Run(MODEL, TrainConfig(batch_size=2), torch.device("cpu"))
    run.start_from(start)
    for name, value in revive(checkpoint, frames)[0].averaged.items():
        assert torch.equal(run.model.state_dict()[name], value)
    assert start.facts["made_anew"] == UNUSED
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (1, f"error: {tmp_path / 'start'} exists: give another -o\n")
