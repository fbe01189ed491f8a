"""A checkpoint becomes a bundle whose graphs agree with torch at every size and batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.errors import BundleError
from ndsc.codec.frames import pad, to_float
from ndsc.codec.runtime import DecoderSession, EncoderSession
from training.checkpoint import Checkpoint, CheckpointError
from training.config import ModelConfig, TrainConfig
from training.data import render_drives
from training.export import DecoderGraph, EncoderGraph, check_frames, compare, export, export_graphs
from training.model import ConditionalVQVAE

SIZES = [(8, 8), (1, 1), (33, 57), (128, 256), (375, 1242)]
"""(height, width)"""


@pytest.fixture(scope="module")
def graphs(small_model: ConditionalVQVAE) -> tuple[bytes, bytes]:
    return export_graphs(small_model)


@pytest.fixture(scope="module")
def checkpoint(small_model: ConditionalVQVAE, small_config: ModelConfig) -> Checkpoint:
    state = small_model.state_dict()
    counts = [list(range(size)) for size in small_config.codebook_sizes]
    return Checkpoint(small_config, TrainConfig(), 7, state, state, {}, {"index_counts": counts})


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_graphs_agree_with_torch(
    small_model: ConditionalVQVAE, graphs: tuple[bytes, bytes], height: int, width: int, batch: int
) -> None:
    rng = np.random.default_rng(height * width + batch)
    frames = [pad(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), 8) for _ in range(batch)]
    x = np.stack([to_float(frame) for frame in frames])
    y = x[::-1].copy()
    indices = EncoderSession(graphs[0]).run(x)
    with torch.no_grad():
        expected = EncoderGraph(small_model)(torch.from_numpy(x)).numpy()
        assert indices.shape == (batch, 2, -(-height // 8), -(-width // 8))
        assert np.mean(indices == expected) >= 0.999
        level = np.arange(batch) % 2
        present = (np.arange(batch) % 3 > 0).astype(np.float32)
        decoded = DecoderGraph(small_model)(
            torch.from_numpy(indices), torch.from_numpy(level), torch.from_numpy(y), torch.from_numpy(present)
        )
    got = DecoderSession(graphs[1]).run(indices, level, y, present)
    assert np.abs(got - decoded.numpy()).max() < 1e-4
    assert got.min() >= 0
    assert got.max() <= 1


@pytest.mark.parametrize("value", [0, 90, 255])
def test_flat_frames_agree(small_model: ConditionalVQVAE, graphs: tuple[bytes, bytes], value: int) -> None:
    flat = np.full((64, 96, 3), value, np.uint8)
    agreement = compare(small_model, *graphs, [(flat, flat)])
    assert agreement.index_agreement == 1
    assert agreement.max_frame_difference < 1e-4


def test_a_bundle_codes_frames(checkpoint: Checkpoint, tmp_path: Path) -> None:
    frames = check_frames(render_drives(1, seed=0, width=96, height=64))
    bundle, agreement = export(
        checkpoint, tmp_path / "bundle", name="small", licence="Apache-2.0", frames=frames
    )
    assert agreement.index_agreement >= 0.999
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.bundle_id == bundle.bundle_id
    assert loaded.manifest.training["steps"] == 7
    encoder, decoder = FrameEncoder(loaded), FrameDecoder(loaded)
    source, side = frames[0]
    for level in range(loaded.rate_level_count):
        compressed = encoder.encode(source, level)
        assert decoder.decode(compressed, side).shape == source.shape
    small = [len(encoder.encode(source, level).payload) for level in range(2)]
    assert small[0] < small[1]


def test_a_checkpoint_without_counts_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    frames = check_frames(render_drives(1, seed=0, width=64, height=64))
    with pytest.raises(BundleError, match="no index counts"):
        export(replace(checkpoint, facts={}), tmp_path / "bundle", name="x", licence="x", frames=frames)
    assert not (tmp_path / "bundle").exists()


def test_a_damaged_checkpoint_is_one_clear_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint")
    assert Checkpoint.load(tmp_path / "checkpoint").step == 7
    weights = tmp_path / "checkpoint" / "averaged.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint.load(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="nowhere: not a checkpoint"):
        Checkpoint.load(tmp_path / "nowhere")
