"""Section 8 of proto/SPEC.md: its proof refuses what the codec's does, its integers are onnxruntime's."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ndsc.codec import exact, onnx_graph
from ndsc.codec.bundle import Bundle
from ndsc.codec.context import ContextPrior
from ndsc.codec.scalar_prior import ScalarPrior
from tests.golden import spec_bundle, spec_decoder
from tests.golden.agreement import NETWORKED, codec_uses, network_of, refusal, sums_of
from tests.golden.networks import ALLOWED, REFUSED, SHAPES, changed
from tests.golden.spec_errors import BundleError
from tests.golden.spec_network import Needs, Network
from tests.unit.context_prior import tiny_prior

Bundles = dict[str, spec_bundle.Bundle]


@pytest.mark.parametrize("name", NETWORKED)
def test_both_proofs_come_to_the_same_bounds(name: str, written: dict[str, Bundle], bundles: Bundles) -> None:
    """Of every value that is whole; the codec gives bounds of outputs, so each is made one."""
    network, prior = network_of(bundles[name]), written[name].prior
    assert isinstance(prior, ContextPrior | ScalarPrior)
    ours = {value: bound.B for value, bound in network.bounds.items() if bound.t == 0}
    graph = dataclasses.replace(onnx_graph.read(prior.network, "prior.onnx"), outputs=tuple(ours))
    theirs = exact.prove(graph, network.rows, "prior.onnx")
    assert ours == {value: bound.largest for value, bound in theirs.items()}
    assert {f"{name}.sums" for name in prior.passes(len(prior.codebook_sizes))} <= ours.keys()


@pytest.mark.parametrize("name", NETWORKED)
def test_no_value_leaves_its_bound(name: str, bundles: Bundles) -> None:
    """On labels of chance, each of them and the edge of the grid among them."""
    network = network_of(bundles[name])
    seen = set()
    for group, feeds, cells in any_feeds(bundles[name], np.random.default_rng(0)):
        for value_name, value in network.run(group, feeds, *cells).items():
            if value_name not in feeds:
                seen.add(value_name)
                bound = network.bounds[value_name]
                assert np.abs(value.steps).max() <= bound.B
                assert value.t == bound.t
    assert seen == set(network.bounds)


def any_feeds(
    bundle: spec_bundle.Bundle, rng: np.random.Generator
) -> Iterator[tuple[str, dict[str, Any], tuple[int, int]]]:
    """Each pass, what it may read, and its cells, of a grid of 19 × 22."""
    prior = bundle.prior
    if isinstance(prior, spec_bundle.ContextPrior):
        labels = spec_decoder.Labels(prior.codebook_sizes, 19, 22)
        for s, size in enumerate(prior.codebook_sizes):
            for y, x in itertools.product(range(19), range(22)):
                labels.known[s, y, x] = int(rng.integers(size))
        for s, stage in enumerate(prior.stages):
            for g, group in enumerate(stage.groups):
                if group.table is None:
                    feeds = spec_decoder.network_inputs(prior, s, g, labels)
                    yield f"s{s}g{g}", feeds, labels.cells(group.scale)
    elif isinstance(prior, spec_bundle.ScalarPrior):
        for name, needs in prior.network.groups.items():
            side = 4 if name == "coarse" else 2
            cells = -(-19 // side), -(-22 // side)
            for level in range(len(prior.first)):
                feeds = {
                    value: np.array([level]) if value.endswith(".level") else rng.integers(rows, size=shape)
                    for value, rows in needs.rows.items()
                    for shape in [needs.shapes(*cells)[value]]
                }
                yield name, feeds, cells


# What both refuse


@pytest.mark.parametrize("what", REFUSED)
def test_both_refuse_the_same_networks(what: str, bundles: Bundles) -> None:
    model = onnx.load_from_string(tiny_prior().network)
    groups = network_of(bundles["context"]).groups
    Network(model.SerializeToString(), groups)
    data = changed(REFUSED[what])
    assert refusal(Network, data, groups) == "BundleError"
    assert refusal(codec_uses, data) == "BundleError"


# Shapes, which show in a run


@pytest.mark.parametrize("what", ALLOWED)
def test_both_take_the_same_networks(what: str, bundles: Bundles) -> None:
    model = onnx.load_from_string(tiny_prior().network)
    expected = sums_of(model.SerializeToString(), bundles["context"])
    ALLOWED[what](model)
    assert sums_of(model.SerializeToString(), bundles["context"]) == expected
    assert refusal(codec_uses, model.SerializeToString()) == ""


@pytest.mark.parametrize("what", SHAPES)
def test_shapes_that_do_not_fit(what: str, bundles: Bundles) -> None:
    data = changed(SHAPES[what])
    assert refusal(sums_of, data, bundles["context"]) == "BundleError"
    assert refusal(codec_uses, data) == "BundleError"


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"no network"])
def test_files_that_are_no_network(data: bytes) -> None:
    with pytest.raises(BundleError):
        Network(data, {})
    assert refusal(codec_uses, data) == "BundleError"


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
        [helper.make_tensor_value_info("s0g0.band", TensorProto.INT32, [1, "R"])],
        [helper.make_tensor_value_info("s0g0.sums", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = {rows: {"s0g0.band": rng.integers(0, 8, (1, rows))} for rows in (1, 13)}
    expected = {
        rows: session.run(None, {name: bands.astype(np.int32) for name, bands in feed.items()})[0]
        for rows, feed in feeds.items()
    }
    needs = Needs(
        {"s0g0.band": 8}, lambda rows, _: {"s0g0.band": (1, rows), "s0g0.sums": expected[rows].shape}
    )
    network = Network(data, {"s0g0": needs})
    for rows, feed in feeds.items():
        got = network.run("s0g0", feed, rows, 1)["s0g0.sums"]
        assert got.t == 0
        np.testing.assert_array_equal(got.steps, expected[rows].astype(np.int64))
    assert len(np.unique(expected[13])) > 300
