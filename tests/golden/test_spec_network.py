"""Section 8 of proto/SPEC.md: its proof refuses what the codec's does, its integers are onnxruntime's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

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


def constant(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: Any, operation: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == operation)


def set_number(which: int, number: float, operation: str = "Conv") -> Callable[[Any], None]:
    """One number of a constant input of the first such node."""

    def change(model: Any) -> None:
        tensor = constant(model, node(model, operation).input[which])
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[0] = number
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def a_bias_of_all_but_1(model: Any) -> None:
    head = next(node for node in model.graph.node if node.output[0] == "s2g0.sums")
    bias = constant(model, head.input[2])
    array = numpy_helper.to_array(bias).copy()
    array[0] = 2**24 - 1
    bias.CopyFrom(numpy_helper.from_array(array, bias.name))


def steps_too_small(model: Any) -> None:
    """2^-5 and 2^-20, one after the other."""
    first = next(n for n, node in enumerate(model.graph.node) if node.op_type == "Mul")
    before = helper.make_node("Mul", [model.graph.node[first].input[0], "2^-20"], ["smaller"])
    model.graph.node[first].input[0] = "smaller"
    model.graph.node.insert(first, before)
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 2.0**-20, np.float32), "2^-20"))


def rename(operation: str, other: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node(model, operation).op_type = other

    return change


def one_row_less(model: Any) -> None:
    tensor = constant(model, node(model, "Gather").input[0])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-1], tensor.name))


def no_floor(model: Any) -> None:
    scaled = node(model, "Floor").input[0]
    node(model, "Clip").input[0] = scaled


def double_constants(model: Any) -> None:
    tensor = constant(model, node(model, "Conv").input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def no_raw_data(model: Any) -> None:
    tensor = constant(model, node(model, "Conv").input[1])
    numbers = numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(numbers)


def external_data(model: Any) -> None:
    tensor = constant(model, node(model, "Conv").input[1])
    tensor.external_data.add(key="location", value="weights")
    tensor.data_location = TensorProto.EXTERNAL


def a_name_twice(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def the_last_node_first(model: Any) -> None:
    last = onnx.NodeProto()
    last.CopyFrom(model.graph.node[-1])
    del model.graph.node[-1]
    model.graph.node.insert(0, last)


def an_input_more(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.INT32, ["B"]))


def an_output_more(model: Any) -> None:
    name = node(model, "Clip").output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def the_input_of_another_group(model: Any) -> None:
    bands = [node for node in model.graph.node if node.op_type == "Gather" and node.input[1].endswith("band")]
    bands[-1].input[1] = bands[0].input[1]


def a_graph_input_as_a_shape(model: Any) -> None:
    bands = [value.name for value in model.graph.input if value.name.endswith("band")]
    node(model, "Reshape").input[1] = bands[0]


def another_opset(model: Any) -> None:
    model.opset_import[0].version = 21


def two_opsets(model: Any) -> None:
    model.opset_import.add(domain="more", version=1)


CHANGES: Final[dict[str, Callable[[Any], Any]]] = {
    "a factor beyond 2^8": set_number(1, 257.0),
    "a fraction as a factor": set_number(1, 0.5),
    "no number": set_number(2, np.nan, "Clip"),
    "a table entry of 2^24": set_number(0, 2.0**24, "Gather"),
    "a row beyond 2^8 as an operand": set_number(0, 257.0, "Gather"),
    "a sum that can reach 2^24": a_bias_of_all_but_1,
    "an operand beyond 2^8": set_number(2, 257.0, "Clip"),
    "limits in the wrong order": set_number(1, 256.0, "Clip"),
    "a limit that is not whole": set_number(1, 0.25, "Clip"),
    "a scale that is no power of two": set_number(1, 0.375, "Mul"),
    "a scale above 1": set_number(1, 2.0, "Mul"),
    "a scale below 0": set_number(1, -0.5, "Mul"),
    "a scale of 2^-25": set_number(1, 2.0**-25, "Mul"),
    "steps below 2^-24": steps_too_small,
    "an operation that is not listed": rename("Floor", "Round"),
    "a product of two values": rename("Add", "Mul"),
    "steps that are not floored": no_floor,
    "a table of too few rows": one_row_less,
    "columns picked": lambda m: node(m, "Gather").attribute.append(helper.make_attribute("axis", 1)),
    "text in an attribute": lambda m: node(m, "Conv").attribute.append(
        helper.make_attribute("auto_pad", "VALID")
    ),
    "another domain": lambda m: setattr(node(m, "Conv"), "domain", "com.microsoft"),
    "constants in float64": double_constants,
    "constants outside raw_data": no_raw_data,
    "constants outside the file": external_data,
    "half a constant": lambda m: setattr(
        constant(m, node(m, "Conv").input[1]), "raw_data", constant(m, node(m, "Conv").input[1]).raw_data[4:]
    ),
    "a name twice": a_name_twice,
    "nodes out of order": the_last_node_first,
    "an input more": an_input_more,
    "an output more": an_output_more,
    "an output less": lambda m: m.graph.output.pop(),
    "the input of another group": the_input_of_another_group,
    "a graph input as a shape": a_graph_input_as_a_shape,
    "functions": lambda m: m.functions.add(name="f", domain="d"),
    "sparse constants": lambda m: m.graph.sparse_initializer.add(),
    "a later opset": another_opset,
    "a second opset": two_opsets,
}


def _codec_uses(data: bytes) -> None:
    ContextPrior(stages(), softmax_weights(1 / 16), SHIFT, data).encode(np.zeros((3, 4, 4), np.int32))


def _spec_uses(data: bytes, rows: dict[str, int]) -> None:
    groups: dict[str, dict[str, int]] = {}
    for name, count in rows.items():
        groups.setdefault(name.split(".")[0], {})[name] = count
    Network(data, groups)


@pytest.mark.parametrize("what", CHANGES)
def test_both_refuse_the_same_networks(what: str, bundles: Bundles) -> None:
    model = onnx.load_from_string(tiny_prior().network)
    _spec_uses(model.SerializeToString(), network_of(bundles["context"]).rows)
    CHANGES[what](model)
    data = model.SerializeToString()
    assert refusal(_spec_uses, data, network_of(bundles["context"]).rows) == "BundleError"
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
        helper.make_node("Unsqueeze", ["sums", "axes"], ["six"]),
        helper.make_node("Transpose", ["six"], ["s0g0.sums"], perm=[0, 5, 2, 4, 3, 1]),
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
