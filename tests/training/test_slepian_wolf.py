"""H(Z|Y) starts at H(Z), learns from y what is there to learn, and never sees what is coded later."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ndsc.codec.scalar_prior import GROUPS
from training.config import ModelConfig, ScalarConfig
from training.experiments.slepian_wolf.__main__ import own_bits
from training.experiments.slepian_wolf.lengths import FAILURE, price
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
    bits, dispersion = model(numbers, y, level, torch.ones(2))
    assert torch.allclose(bits.sum((1, 2, 3)), own_bits(model.codec, numbers, level), rtol=1e-5)
    assert torch.allclose(
        bits, model.codec.rate_model(model.codec.quantizer(model.codec.encoder(x), level), level)
    )
    assert bool((dispersion >= 0).all())


def test_y_is_seen_only_where_it_is_there(model: ConditionalRate) -> None:
    x, y, level = frames()
    numbers = awake(model).indices(x, level)
    present = torch.tensor([1.0, 0.0])
    first, _ = model(numbers, y, level, present)
    second, _ = model(numbers, y.flip(3), level, present)
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


def test_the_price_of_a_length() -> None:
    bits = np.full(200, 1000.0)
    given = np.where(np.arange(200) < 150, 800.0, 900.0)
    flat = price(bits, given, np.zeros(200))
    assert flat.ideal == flat.finite == pytest.approx(0.825)
    assert flat.blind == pytest.approx(0.9)
    spread = price(bits, given, np.full(200, 100.0))
    assert spread.finite == pytest.approx(0.825 + 10 * 3.0902 / 1000, abs=1e-5)
    assert FAILURE == 1e-3
