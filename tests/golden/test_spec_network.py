"""Section 8 of proto/SPEC.md: its proof refuses what the codec's does, its integers are onnxruntime's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ndsc.codec import exact, onnx_graph
from ndsc.codec.bundle import Bundle
from ndsc.codec.context import ContextPrior, softmax_weights
from tests.golden import spec_bundle, spec_decoder
from tests.golden.agreement import refusal
from tests.golden.networks import ALLOWED, REFUSED, SHAPES, changed
from tests.golden.spec_errors import BundleError
from tests.golden.spec_network import Network
from tests.unit.context_prior import SHIFT, stages, tiny_prior

Bundles = dict[str, spec_bundle.Bundle]


def network_of(bundle: spec_bundle.Bundle) -> Network:
    assert isinstance(bundle.prior, spec_bundle.ContextPrior)
    return bundle.prior.network


@pytest.mark.parametrize("name", ["released", "context", "coarse"])
def test_both_proofs_come_to_the_same_bounds(name: str, written: dict[str, Bundle], bundles: Bundles) -> None:
    """Of every value that is whole; the codec gives bounds of outputs, so each is made one."""
    network, prior = network_of(bundles[name]), written[name].prior
    assert isinstance(prior, ContextPrior)
    ours = {value: bound.B for value, bound in network.bounds.items() if bound.t == 0}
    graph = dataclasses.replace(onnx_graph.read(prior.network, "prior.onnx"), outputs=tuple(ours))
    theirs = exact.prove(graph, network.rows, "prior.onnx")
    assert ours == {value: bound.largest for value, bound in theirs.items()}
    assert {f"s{s}g{g}.sums" for s, g in ((0, 1), (1, 0), (2, 0))} <= ours.keys()


@pytest.mark.parametrize("name", ["released", "context", "coarse"])
def test_no_value_leaves_its_bound(name: str, bundles: Bundles) -> None:
    """On labels of chance, each of them and the edge of the grid among them."""
    bundle, rng = bundles[name], np.random.default_rng(0)
    assert isinstance(bundle.prior, spec_bundle.ContextPrior)
    network = bundle.prior.network
    labels = spec_decoder.Labels(bundle.prior.codebook_sizes, 19, 22)
    for s, size in enumerate(bundle.prior.codebook_sizes):
        for y in range(19):
            for x in range(22):
                labels.known[s, y, x] = int(rng.integers(size))
    seen = set()
    for s, stage in enumerate(bundle.prior.stages):
        for g, group in enumerate(stage.groups):
            if group.table is None:
                feeds = spec_decoder.network_inputs(bundle.prior, s, g, labels)
                for value_name, value in network.run(f"s{s}g{g}.sums", feeds).items():
                    if value_name not in feeds:
                        seen.add(value_name)
                        bound = network.bounds[value_name]
                        assert np.abs(value.steps).max() <= bound.B
                        assert value.t == bound.t
    assert seen == set(network.bounds)


# What both refuse


def _codec_uses(data: bytes) -> None:
    ContextPrior(stages(), softmax_weights(1 / 16), SHIFT, data).encode(np.zeros((3, 4, 4), np.int32))


def _spec_uses(data: bytes, rows: dict[str, int]) -> None:
    groups: dict[str, dict[str, int]] = {}
    for name, count in rows.items():
        groups.setdefault(name.split(".")[0], {})[name] = count
    Network(data, groups)


@pytest.mark.parametrize("what", REFUSED)
def test_both_refuse_the_same_networks(what: str, bundles: Bundles) -> None:
    model = onnx.load_from_string(tiny_prior().network)
    _spec_uses(model.SerializeToString(), network_of(bundles["context"]).rows)
    data = changed(REFUSED[what])
    assert refusal(_spec_uses, data, network_of(bundles["context"]).rows) == "BundleError"
    assert refusal(_codec_uses, data) == "BundleError"


# Shapes, which show in a run


def sums_of(data: bytes, bundle: spec_bundle.Bundle) -> list[Any]:
    """Logits of every network on a grid of 4 × 4, all labels 0, by the specification's reader."""
    groups: dict[str, dict[str, int]] = {}
    for name, count in network_of(bundle).rows.items():
        groups.setdefault(name.split(".")[0], {})[name] = count
    assert isinstance(bundle.prior, spec_bundle.ContextPrior)
    prior = dataclasses.replace(bundle.prior, network=Network(data, groups))
    labels = spec_decoder.Labels(prior.codebook_sizes, 4, 4)
    labels.known = {(s, y, x): 0 for s in range(3) for y in range(4) for x in range(4)}
    return [
        spec_decoder.logits(prior, s, g, labels).tolist()
        for s, stage in enumerate(prior.stages)
        for g in range(len(stage.groups))
    ]


@pytest.mark.parametrize("what", ALLOWED)
def test_both_take_the_same_networks(what: str, bundles: Bundles) -> None:
    model = onnx.load_from_string(tiny_prior().network)
    expected = sums_of(model.SerializeToString(), bundles["context"])
    ALLOWED[what](model)
    assert sums_of(model.SerializeToString(), bundles["context"]) == expected
    assert refusal(_codec_uses, model.SerializeToString()) == ""


@pytest.mark.parametrize("what", SHAPES)
def test_shapes_that_do_not_fit(what: str, bundles: Bundles) -> None:
    data = changed(SHAPES[what])
    assert refusal(sums_of, data, bundles["context"]) == "BundleError"
    assert refusal(_codec_uses, data) == "BundleError"


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"no network"])
def test_files_that_are_no_network(data: bytes) -> None:
    with pytest.raises(BundleError):
        Network(data, {})
    assert refusal(_codec_uses, data) == "BundleError"


# The operations, with attributes that no bundle uses so far


def test_operations_are_those_of_onnxruntime() -> None:
    rng = np.random.default_rng(1)

    def numbers(low: int, high: int, *shape: int) -> Any:
        return rng.integers(low, high, shape).astype(np.float32)

    constants = {
        "table": numbers(-3000, 3000, 8, 24),
        "sides": np.array([0, -1, 4, 6], np.int64),
        "3/8": np.full(1, 0.375, np.float32),
        "2^-4": np.float32(2.0**-4),
        "2^-5": np.float32(2.0**-5),
        "2^-13": np.float32(2.0**-13),
        "low": np.float32(-200),
        "high": np.float32(256),
        "matrix": numbers(-256, 257, 8, 10),
        "kernel": numbers(-256, 257, 6, 3, 2, 3),
        "bias": numbers(-90000, 90000, 6),
        "one": np.ones((1, 1, 1, 1, 1), np.float32),
        "axes": np.array([-1, 1], np.int64),
    }
    spread: dict[str, Any] = {
        "group": 2,
        "dilations": [3, 2],
        "strides": [2, 1],
        "pads": [1, 2, 2, 3],
        "kernel_shape": [2, 3],
    }
    nodes = [
        helper.make_node("Gather", ["table", "s0g0.band"], ["rows"]),  # [1, 13, 24]
        helper.make_node("Reshape", ["rows", "sides"], ["four"]),  # [1, 13, 4, 6]
        helper.make_node("Transpose", ["four"], ["turned"]),  # [6, 4, 13, 1]
        helper.make_node("Transpose", ["turned"], ["back"], perm=[3, 0, 2, 1]),  # [1, 6, 13, 4]
        helper.make_node("Mul", ["back", "2^-4"], ["scaled"]),
        helper.make_node("Add", ["3/8", "scaled"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "2^-5"], ["again"]),
        helper.make_node("Concat", ["again", "scaled"], ["joined"], axis=-1),  # [1, 6, 13, 8], two t
        helper.make_node("Floor", ["joined"], ["whole"]),
        helper.make_node("Clip", ["whole", "low", "high"], ["clipped"]),
        helper.make_node("MatMul", ["clipped", "matrix"], ["product"]),  # [1, 6, 13, 10]
        helper.make_node("Mul", ["product", "2^-13"], ["product scaled"]),
        helper.make_node("Floor", ["product scaled"], ["product whole"]),
        helper.make_node("Clip", ["product whole", "low", "high"], ["operand"]),
        helper.make_node("Conv", ["operand", "kernel", "bias"], ["sums"], **spread),
        helper.make_node("Mul", ["sums", "one"], ["five"]),
        helper.make_node("Unsqueeze", ["five", "axes"], ["seven"]),
        helper.make_node("Transpose", ["seven"], ["s0g0.sums"], perm=[0, 5, 2, 6, 4, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "operations",
        [helper.make_tensor_value_info("s0g0.band", TensorProto.INT32, [1, 13])],
        [helper.make_tensor_value_info("s0g0.sums", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data = model.SerializeToString()
    network = Network(data, {"s0g0": {"s0g0.band": 8}})
    bands = rng.integers(0, 8, (1, 13))
    got = network.run("s0g0.sums", {"s0g0.band": bands})["s0g0.sums"]
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"s0g0.band": bands.astype(np.int32)})[0]
    assert got.t == 0
    assert len(np.unique(expected)) > 300
    np.testing.assert_array_equal(got.steps, expected.astype(np.int64))
