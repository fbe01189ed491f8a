"""Training the integer prior: what is trained is, bit for bit, what is exported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsc.codec.bundle import Bundle
from ndsc.codec.context import MAX_PASSES
from ndsc.codec.errors import BundleError
from ndsc.codec.schedule import Planes
from training.attach import attach
from training.indices import GridBatch, IndexGrids
from training.labels import label_order, relabelled
from training.prior import load, save, train
from training.prior_network import LatentPrior, PriorConfig, low_bits, schedule

SIZES = (64, 16, 6)


def small(**settings: object) -> PriorConfig:
    values = {
        "codebook_sizes": SIZES,
        "channels": (16, 16, 16),
        "embedding": 8,
        "blocks": (1, 2, 1),
        "batch_size": 4,
    } | settings
    return PriorConfig(**values)  # type: ignore[arg-type]


def random_model(config: PriorConfig) -> LatentPrior:
    torch.manual_seed(0)
    model = LatentPrior(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def random_grids(count: int, height: int = 16, width: int = 32) -> IndexGrids:
    """Grids with something to learn: indices repeat to the right and down."""
    rng = np.random.default_rng(0)
    grids = []
    for _ in range(count):
        first = np.add.outer(rng.integers(0, 3, height).cumsum(), rng.integers(0, 3, width).cumsum()) % 64
        second = (first // 4 + rng.integers(0, 2, first.shape)) % 16
        grids.append(np.stack([first, second, rng.integers(0, 6, first.shape)]).astype(np.uint16))
    return IndexGrids(tuple(grids))


def test_training_and_export_compute_the_same_sums() -> None:
    model = random_model(small())
    order = [np.random.default_rng(s).permutation(size).tolist() for s, size in enumerate(SIZES)]
    prior = model.export(order)
    rng = np.random.default_rng(1)
    labels = np.stack([rng.integers(k, size=(16, 32), dtype=np.int32) for k in SIZES])
    batch = GridBatch(labels[None].astype(np.uint16), np.array([0]), np.array([16]))
    planes = Planes(labels, SIZES, known=True)
    half, shift = 1 << 6, 7
    compared = 0
    for s, stage in enumerate(model.stages):
        for g, group in enumerate(stage.groups):
            sums = np.asarray(prior._sums(planes, prior._plan[s][g])).astype(np.int64)
            for number, phase in enumerate(group.order):
                bands = torch.from_numpy(planes.bands(group.scale).astype(np.int64))[None]
                indices = torch.from_numpy(batch.indices.astype(np.int64))
                logits = model._logits(indices, bands, s, g, phase)[0].detach().double().numpy()
                np.testing.assert_array_equal((sums[number] + half) >> shift, logits * 16)
                compared += logits.size
    assert compared > 40_000


def test_the_codec_pays_what_training_says() -> None:
    model = random_model(small())
    prior = model.export([list(range(size)) for size in SIZES])
    rng = np.random.default_rng(2)
    labels = np.stack([rng.integers(k, size=(16, 32), dtype=np.int32) for k in SIZES])
    with torch.no_grad():
        nats = model(GridBatch(labels[None].astype(np.uint16), np.array([0]), np.array([16])))
    expected = float(nats.sum()) * 512 / math.log(2)
    # The codec rounds frequencies to 2**-16, and its weights table ends 16 nats below the largest logit.
    assert prior.ideal_bits(labels) == pytest.approx(expected, rel=5e-3)


def test_a_prior_trained_in_floats_is_not_exported() -> None:
    with pytest.raises(BundleError, match="floats"):
        random_model(small(quantize=False)).export([list(range(size)) for size in SIZES])


@pytest.mark.parametrize("sizes", [(256,), (256, 256), (256, 256, 256), (2, 3)])
def test_schedules_hold_every_position_once_in_few_passes(sizes: tuple[int, ...]) -> None:
    model = random_model(small(codebook_sizes=sizes))  # Stage checks the positions
    passes = sum(group.table is None for stage in model.stages for group in stage.groups)
    assert passes <= MAX_PASSES
    assert len(schedule(sizes)) == len(sizes)
    model.export([list(range(size)) for size in sizes])


def test_digits_of_codebooks() -> None:
    assert [low_bits(k) for k in (2, 16, 32, 256, 512, 4096, 17, 48)] == [0, 0, 2, 4, 4, 6, 0, 3]


def test_labels_put_like_indices_together() -> None:
    """Indices below 32 only ever stand beside their like, and so do the others."""
    rng = np.random.default_rng(3)
    names = rng.permutation(64)
    grids = [names[rng.integers(0, 32, (1, 16, 32)) + 32 * half] for half in (0, 1) for _ in range(20)]
    (order,) = label_order([g.astype(np.uint16) for g in grids], (64,))
    assert sorted(order) == list(range(64))
    assert set(order[:32]) in (set(names[:32].tolist()), set(names[32:].tolist()))
    labels = relabelled(IndexGrids(tuple(g.astype(np.uint16) for g in grids)), [order])
    assert np.array(order)[labels.grids[0]].tolist() == grids[0].tolist()


def test_training_learns_goes_on_and_leaves_other_stages(tmp_path: Path) -> None:
    grids = random_grids(40)
    config = small(
        validation_samples=8, steps=30, validate_every=10, warm_up_steps=5, protocol_share=1.0, batch_size=4
    )
    both = IndexGrids((*grids.grids, *random_grids(2, 24, 40).grids))
    train(both, both, config, tmp_path / "first")
    lines = [json.loads(line) for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["protocol_bits_per_index"][0] < 5
    assert lines[-1]["protocol_bits_per_index"][1] < 2.5
    again = train(both, both, config, tmp_path / "second", start=tmp_path / "first", stages=[1])
    first, order = load(tmp_path / "first")
    assert load(tmp_path / "second")[1] == order
    for name, value in again.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]) == (not name.startswith("networks.1"))


def test_a_prior_for_other_codebooks_is_not_attached(tmp_path: Path, tiny_bundle: Bundle) -> None:
    model = random_model(small())
    save(model, [list(range(size)) for size in SIZES], tmp_path / "prior")
    (tmp_path / "prior" / "log.jsonl").write_text("")
    with pytest.raises(BundleError, match="codebooks of"):
        attach(tiny_bundle, tmp_path / "prior", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_settings_must_name_every_stage() -> None:
    with pytest.raises(ValueError, match="4 stages"):
        PriorConfig(codebook_sizes=(4, 4, 4, 4))
