"""H(Z|Y) starts at H(Z), learns from y what is there to learn, and never sees what is coded later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor

from ndsc.codec.scalar_prior import GROUPS
from training.config import ModelConfig, ScalarConfig
from training.data import TrainingData, render_drives
from training.experiments.recipe import RecipeError
from training.experiments.slepian_wolf.__main__ import (
    WITH,
    WITHOUT,
    Dials,
    Measured,
    kept_or_fitted,
    measure,
    ratio,
    table,
)
from training.experiments.slepian_wolf.lengths import FAILURE, LOST, price
from training.experiments.slepian_wolf.network import ConditionalRate
from training.scalar import phase_slices
from training.scalar_codec import ScalarCodec

CONFIG = ModelConfig(
    quantizer="scalar",
    channels=16,
    quarter_channels=8,
    encoder_channels=16,
    latent_dimension=4,
    scalar=ScalarConfig(levels=2, hidden=8),
)


@pytest.fixture
def model() -> ConditionalRate:
    torch.manual_seed(0)
    return ConditionalRate(ScalarCodec(CONFIG), 16).eval()


def frames(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(count, 3, 64, 128, generator=generator) for _ in range(2))
    return x, y, torch.arange(count) % 2


def awake(model: ConditionalRate) -> ConditionalRate:
    with torch.no_grad():
        model.head.weight.normal_(std=0.2)
    return model


def test_before_training_it_is_the_codec_s_own_rate(model: ConditionalRate) -> None:
    x, y, level = frames()
    numbers = model.indices(x, level)
    cost = model(numbers, y, level, torch.ones(2))
    assert torch.allclose(cost.given, cost.own, atol=1e-5)
    quantized = model.codec.quantizer(model.codec.encoder(x), level)
    assert torch.allclose(cost.own, model.codec.rate_model(quantized, level), atol=1e-5)
    assert bool((cost.dispersion >= 0).all())


def test_an_index_that_is_always_0_has_no_dispersion(model: ConditionalRate) -> None:
    x, y, level = frames()
    numbers = torch.zeros_like(model.indices(x, level))
    with torch.no_grad():
        for _, network in model.codec.rate_model.networks():
            network.head.weight.zero_()
            network.head.bias.zero_()
        model.codec.rate_model.first_mean.zero_()
        model.codec.rate_model.first_scale.zero_()
        cost = model(numbers, y, level, torch.ones(2))
    assert float(cost.given.max()) < 0.01
    assert float(cost.entropy.max()) < 0.01
    assert (
        float(cost.dispersion.max()) < 0.03
    )  # its neighbours: 2 · 4.5e-5 · 13² bits²; least frequencies 0.12


def test_y_is_seen_only_where_it_is_there(model: ConditionalRate) -> None:
    x, y, level = frames()
    numbers = awake(model).indices(x, level)
    present = torch.tensor([1.0, 0.0])
    first, second = (model(numbers, seen, level, present).given for seen in (y, y.flip(3)))
    assert not torch.allclose(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_no_group_sees_its_own_indices_or_later_ones(model: ConditionalRate) -> None:
    x, y, level = frames()
    numbers = awake(model).indices(x, level)
    side = model.side(model.codec.side_network(y).eighth)
    for number, group in enumerate(GROUPS):
        changed = numbers.clone()
        for later in GROUPS[number:]:
            for phase in range(len(later.phases)):
                changed[phase_slices(later, phase)] += 3
        before = model._corrections(numbers, side, level, group.name)
        after = model._corrections(changed, side, level, group.name)
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
        assert float(before[0].detach().std()) > 0


def test_what_y_tells_is_learned_and_without_it_is_not(model: ConditionalRate) -> None:
    """Flat pictures of random colours, y the same as x: all that is unknown of x is in y."""
    generator = torch.Generator().manual_seed(2)
    level = torch.ones(4, dtype=torch.int64)
    ratios = {}
    for present in (1.0, 0.0):
        torch.manual_seed(0)
        fresh = ConditionalRate(model.codec, 16)
        optimizer = torch.optim.Adam([p for p in fresh.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(60):
            x = torch.rand(4, 3, 1, 1, generator=generator).expand(-1, -1, 32, 64)
            cost = fresh(fresh.indices(x, level), x, level, torch.full((4,), present))
            loss = cost.given.sum() / cost.own.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ratios[present] = float(loss.detach())
    assert ratios[1.0] < 0.9 * ratios[0.0]


def test_a_ratio_of_sums_has_its_own_interval() -> None:
    part, whole = np.array([1.0, 30.0, 5.0]), np.array([10.0, 40.0, 10.0])
    found, low, high = ratio(part, whole)
    assert found == 0.6
    assert low <= found <= high
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.75)


def test_the_price_of_a_length() -> None:
    bits = np.full(200, 1000.0)
    given = np.where(np.arange(200) < 150, 800.0, 900.0)
    flat = price(bits, given, np.zeros(200))
    assert flat.finite == pytest.approx(0.825)
    assert flat.blind == pytest.approx(0.9)
    spread = price(bits, given, np.full(200, 100.0))
    assert spread.finite == pytest.approx(0.825 + 10 * 3.0902 / 1000, abs=1e-5)
    assert spread.blind == flat.blind  # what was realised already holds the noise
    assert (FAILURE, LOST) == (1e-3, 0.05)
    few = price(bits[:39], np.arange(39.0), np.zeros(39))
    assert few.blind == pytest.approx(37 / 1000)  # one of 39 may be lost; two are more than 5 %


def test_what_is_measured_sees_y_only_when_told(model: ConditionalRate) -> None:
    pairs = [
        (pair.left[:64, :128], pair.right[:64, :128])
        for pair in render_drives(2, seed=5, width=160, height=80)
    ]
    others = [(source, side[:, ::-1]) for source, side in pairs]
    awake(model)
    seen, unseen = (
        [measure(model, views, sees_y=sees) for views in (pairs, others)] for sees in (True, False)
    )
    assert np.array_equal(unseen[0].given, unseen[1].given)
    assert (seen[0].given != seen[1].given).all()
    assert np.array_equal(seen[0].bits, unseen[0].bits)


def test_the_table_says_what_y_alone_is_worth() -> None:
    def one(given: list[float]) -> Measured:
        column = np.array(given)[:, None]
        return Measured(np.full((2, 1), 1000.0), column, 0.9 * column, np.zeros((2, 1)))

    (row,) = table({WITH: one([600, 700]), WITHOUT: one([800, 900])}, 2 * 500)
    assert row["bpp"] == 2
    assert (row["given_y"], row["control"]) == (0.65, 0.85)
    assert row["y_alone"] == pytest.approx(1300 / 1700)
    assert (row["one_frame_a_block"], row["encoder_sees_x_alone"]) == (0.65, 0.7)
    assert row["calibration"] == pytest.approx(1 / 0.9)


def test_a_finished_model_is_kept(
    model: ConditionalRate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TrainingData([], render_drives(2, seed=5, width=320, height=160), torch.device("cpu"))

    def take(pictures: str, steps: int = 3) -> tuple[ConditionalRate, float]:
        dials = Dials(steps=steps, batch_size=2, width=16)
        with Progress(disable=True) as progress:
            return kept_or_fitted(model.codec, data, pictures, WITH, dials, tmp_path, progress)

    first, seconds = take("these")
    take("others")
    take("these", steps=4)
    assert len(list(tmp_path.iterdir())) == 3

    def no_training(*_: object, **__: object) -> ConditionalRate:
        raise AssertionError("trained again")

    monkeypatch.setattr("training.experiments.slepian_wolf.__main__.fit", no_training)
    again, again_seconds = take("these")
    assert again_seconds == pytest.approx(seconds, abs=0.1)
    assert float(first.head.weight.detach().std()) > 0
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    for kept in tmp_path.iterdir():
        kept.write_bytes(kept.read_bytes()[:-8])
    with pytest.raises(RecipeError, match="cannot be read: delete it"):
        take("these")
