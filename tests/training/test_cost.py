"""The counter against counts by hand, and published systems against figures their authors or others gave."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ndsc.codec.bundle import Bundle, default_bundle_path
from training.checkpoint import Checkpoint
from training.experiments.cost.__main__ import check
from training.experiments.cost.architectures import (
    DsinDecoder,
    Gdn,
    ReferencePrior,
    System,
    neural_dsc,
    published_systems,
)
from training.experiments.cost.counting import count_module, count_onnx, count_parameters
from training.experiments.cost.systems import Codec, measure, prepared
from training.experiments.recipe import RecipeError


@pytest.fixture(scope="module")
def systems() -> dict[str, System]:
    return {system.name: system for system in published_systems()}


def test_layers_counted_by_hand() -> None:
    def frame(channels: int, height: int, width: int) -> Tensor:
        return torch.zeros(1, channels, height, width)

    convolution = count_module(nn.Conv2d(3, 8, 5, stride=2, padding=2), frame(3, 12, 20))
    assert (convolution.parameters, convolution.mac) == (3 * 8 * 25 + 8, 6 * 10 * 8 * 3 * 25)
    grouped = count_module(nn.Conv2d(8, 8, 3, padding=1, groups=4), frame(8, 4, 4))
    assert (grouped.parameters, grouped.mac) == (8 * 2 * 9 + 8, 16 * 8 * 2 * 9)
    transposed = count_module(nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), frame(4, 5, 7))
    assert (transposed.parameters, transposed.mac) == (4 * 6 * 16 + 6, 5 * 7 * 4 * 6 * 16)
    linear = count_module(nn.Linear(10, 4), torch.zeros(7, 10))
    assert (linear.parameters, linear.mac) == (44, 7 * 10 * 4)
    norm = count_module(Gdn(), frame(192, 2, 3))
    assert (norm.parameters, norm.mac) == (192 * 192 + 192, 6 * 192 * 192)


def test_a_transformer_counted_by_hand() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    prior, n = ReferencePrior(bits=5, blocks=3).eval(), 20
    counted = count_module(prior, torch.zeros(1, n, dtype=torch.int64))
    block_parameters = (4 * 128 * 128 + 4 * 128) + (2 * 128 * 512 + 512 + 128) + 4 * 128
    assert counted.parameters == 33 * 128 + 3 * block_parameters + 128 * 32 + 32
    block_mac = n * (4 * 128 * 128 + 2 * 128 * 512) + 2 * n * n * 128
    assert counted.mac == 3 * block_mac + n * 128 * 32


def test_shared_layers_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert count_parameters([nn.Sequential(layer, layer), layer]) == 12


def test_a_graph_counts_like_the_module() -> None:
    torch.manual_seed(0)
    weights = {
        "conv": torch.randn(8, 3, 3, 3),
        "up": torch.randn(8, 6, 4, 4),
        "matrix": torch.randn(10, 5),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("ConvTranspose", ["b", "up"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("MatMul", ["c", "matrix"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, None, 5])],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    counted = count_onnx(model, {"x": np.zeros((1, 3, 4, 5), np.float32)})

    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False),
        nn.Linear(10, 5, bias=False),
    )
    assert counted == count_module(module, torch.zeros(1, 3, 4, 5))
    assert counted.mac == 4 * 5 * 8 * 27 + 4 * 5 * 8 * 6 * 16 + 6 * 8 * 10 * 5


def test_an_encoder_in_int8_counts_like_the_one_in_floats() -> None:
    released = Checkpoint.load(Path(__file__).parents[2] / "models" / "rate-distortion").averaged_model()
    graph = onnx.load_from_string(Bundle.load(default_bundle_path()).encoder_onnx)
    feeds: dict[str, NDArray[Any]] = {
        "frame": np.zeros((1, 3, 64, 128), np.float32),
        "rate_level": np.zeros(1, np.int64),
    }
    counted = count_onnx(graph, feeds)
    floats = count_module(released.encoder, torch.zeros(1, 3, 64, 128))
    assert any(node.op_type == "DequantizeLinear" for node in graph.graph.node)
    assert counted.mac == floats.mac
    gains = released.config.levels * released.config.latent_dimension
    assert abs(counted.parameters - floats.parameters - gains) <= 8  # a few constants of arithmetic


def test_neural_dsc_costs_what_its_own_figures_say(systems: dict[str, System]) -> None:
    codecs = [prepared(system) for name, system in systems.items() if name.startswith("Neural DSC")]
    check([_row(codec) for codec in codecs])
    priors = [codec.prior.count.parameters for codec in codecs]
    assert 0.395e6 < min(priors) < max(priors) < 0.9e6
    assert {codec.prior_steps for codec in codecs} == {512, 2048, 8192}


def _row(codec: Codec) -> dict[str, str | float]:
    row: dict[str, str | float] = {"system": codec.name}
    for part in ("encoder", "decoder"):
        count = getattr(codec, part).count
        row |= {f"{part}_parameters": count.parameters, f"{part}_mac_per_pixel": count.mac / (128 * 256)}
    return row


def test_a_count_that_its_own_figures_deny_is_refused() -> None:
    row = _row(prepared(neural_dsc("2x", 4, 2)))
    with pytest.raises(RecipeError, match="encoder of"):
        check([row | {"encoder_parameters": 2e6}])


@pytest.mark.parametrize("name", ["DSIN", "NDIC, Ballé 2017", "NDIC, Ballé 2018", "NDIC-CAM"])
def test_published_networks_fit_together(systems: dict[str, System], name: str) -> None:
    """Shapes alone: what the encoder makes the decoder takes, and a frame of 128x256 comes out."""
    system = systems[name]
    encoder, decoder = (copy.deepcopy(p.module).to("meta") for p in (system.encoder, system.decoder))
    latents = encoder(system.encoder.inputs[0].to("meta"))
    expected, side = system.decoder.inputs
    extra = 1 if name == "DSIN" else 0  # the importance map
    assert latents[:, extra:].shape == expected.shape
    assert decoder(expected.to("meta"), side.to("meta")).shape == (1, 3, 128, 256)


def test_parameters_of_the_published_networks(systems: dict[str, System]) -> None:
    """Ballé's transforms and DSIN's body, by arithmetic."""
    n = 192
    norms = 3 * (n * n + n)
    analysis = 75 * n + n + 3 * (25 * n * n + n) + norms
    synthesis = 25 * 2 * n * n + n + 2 * (25 * n * n + n) + 75 * n + 3 + norms
    ndic = systems["NDIC, Ballé 2017"]
    assert count_parameters([ndic.encoder.module]) == analysis
    assert count_parameters([ndic.decoder.module]) == analysis + synthesis
    sizes, scales = pairwise((3, 64, 128)), 2 * (64 + 128 + 32 * 128 + 33)
    body = 32 * 9 * 128 * 128
    dsin = sum(25 * i * o for i, o in sizes) + body + 25 * 128 * 33 + scales
    assert count_parameters([systems["DSIN"].encoder.module]) == dsin


def test_dsin_finds_the_patch_where_it_is(systems: dict[str, System]) -> None:
    """y is x moved by whole pixels: the match moves it back, but for the columns that are not in y."""
    decoder = systems["DSIN"].decoder.module
    assert isinstance(decoder, DsinDecoder)
    source = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(0))
    side = torch.roll(source, (3, 5), (2, 3))
    matched = decoder.matched(source, side, side)
    torch.testing.assert_close(matched[..., :112, :224], source[..., :112, :224])


def test_timing_counts_its_runs() -> None:
    calls: list[int] = []
    times = measure(lambda: calls.append(1), 5)
    assert times.runs == 5
    assert len(calls) == 6
    assert 0 <= times.median_ms < 10
    assert measure(lambda: None, 2, at_least_s=1e-4).runs > 2
