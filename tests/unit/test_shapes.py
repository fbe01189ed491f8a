"""Inferred shapes are those of onnxruntime, for the shipped prior and for each operation; bombs are refused."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ndsc.codec import exact, onnx_graph, shapes
from ndsc.codec.context import ContextPrior, pass_name
from ndsc.codec.errors import BundleError
from ndsc.codec.onnx_graph import Graph, Input, Node
from ndsc.codec.scalar_prior import GROUPS, CellGroup, ScalarPrior
from ndsc.codec.shapes import Shape
from tests.unit.context_prior import tiny_prior

SHIPPED = Path(__file__).parents[2] / "models" / "default"
GRIDS = [(1, 1), (3, 5), (16, 32), (47, 156)]
PLENTY = 1 << 40
HUGE = 2**63 - 1
STEP = 2**31 - 1
OPERATIONS = sorted(shapes._OPERATIONS)
ATTRIBUTES = sorted({a for operation in shapes._OPERATIONS.values() for a in operation.attributes})


def session(data: bytes) -> Any:
    """Runs a graph node by node, as it is written down."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


# Priors


Shapes = tuple[dict[str, Shape], dict[str, Shape]]
"""Of a pass's inputs and of its sums."""


@pytest.fixture(scope="module", params=["shipped", "context"])
def prior(request: pytest.FixtureRequest) -> ContextPrior | ScalarPrior:
    """The released prior of planes, and a small one of residual stages."""
    if request.param == "context":
        return tiny_prior()
    return ScalarPrior((SHIPPED / "prior.json").read_bytes(), (SHIPPED / "prior.onnx").read_bytes())


def pass_shapes(prior: ContextPrior | ScalarPrior, height: int, width: int) -> dict[str, Shapes]:
    """By the name of a pass, as sections 7.2 and 14 of the specification give them."""
    if isinstance(prior, ScalarPrior):
        return {group.name: planes_shapes(prior, group, height, width) for group in GROUPS[1:]}
    return {
        pass_name(s, g): group_shapes(prior, s, g, height, width)
        for s, stage in enumerate(prior.stages)
        for g, group in enumerate(stage.groups)
        if group.table is None
    }


def planes_shapes(prior: ScalarPrior, group: CellGroup, height: int, width: int) -> Shapes:
    rows, columns = -(-height // group.side), -(-width // group.side)
    known = 1, len(group.known) * prior.planes, rows, columns
    sums = 1, 2 * len(group.phases) * prior.planes, rows, columns
    return {f"{group.name}.known": known, f"{group.name}.level": (1,)}, {f"{group.name}.sums": sums}


def group_shapes(prior: ContextPrior, s: int, g: int, height: int, width: int) -> Shapes:
    stage = prior.stages[s]
    group, name = stage.groups[g], pass_name(s, g)
    step = 2 << group.scale
    rows, columns = -(-height // step), -(-width // step)
    inputs: dict[str, Shape] = {f"{name}.band": (1, rows)}
    if stage.known(g):
        inputs[f"{name}.known"] = (1, len(stage.known(g)), rows, columns)
    inputs |= {f"{name}.earlier{t}": (1, 2 * rows, 2 * columns) for t in range(s)}
    return inputs, {f"{name}.sums": (len(group.phases), stage.logits, rows, columns)}


def test_every_value_of_a_prior_has_the_inferred_shape(prior: ContextPrior | ScalarPrior) -> None:
    graph = onnx_graph.read(prior.network, "prior.onnx")
    seen = 0
    for name in pass_shapes(prior, 1, 1):
        model = onnx.load_from_string(onnx_graph.cut(prior.network, f"{name}.sums", "prior.onnx"))
        values = [output for node in model.graph.node for output in node.output]
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in values)
        runs = session(model.SerializeToString())
        for height, width in GRIDS:
            inputs, outputs = pass_shapes(prior, height, width)[name]
            found = shapes.check(graph, inputs, outputs, PLENTY, "prior.onnx")
            feeds = {name: np.zeros(shape, np.int32) for name, shape in inputs.items()}
            results = runs.run(values, feeds)
            assert found == {v: r.shape for v, r in zip(values, results, strict=True)}
            seen += len(found)
    assert seen == len(GRIDS) * len(graph.nodes)


def test_a_prior_keeps_the_bound_with_room_for_five(prior: ContextPrior | ScalarPrior) -> None:
    graph = onnx_graph.read(prior.network, "prior.onnx")
    for height, width in GRIDS:
        for inputs, outputs in pass_shapes(prior, height, width).values():
            rows, columns = next(iter(outputs.values()))[2:]
            most = shapes.ELEMENTS_PER_CELL * rows * columns // 5
            shapes.check(graph, inputs, outputs, most, "prior.onnx")


# Each operation against onnxruntime


def model(
    operation: str,
    first: Shape,
    others: Sequence[Any],
    attributes: Mapping[str, Any],
    dtype: Any = np.float32,
) -> bytes:
    """One node: its first input is a graph input, the others are constants."""
    names = ["x", *(f"c{i}" for i in range(len(others)))]
    node = helper.make_node(operation, names, ["y"])
    for name, value in attributes.items():
        kind = AttributeProto.INT if isinstance(value, int) else AttributeProto.INTS
        node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    constants = [
        numpy_helper.from_array(np.asarray(c), name) for name, c in zip(names[1:], others, strict=True)
    ]
    if operation == "Gather":  # picks rows of a constant by the input
        node.input[:] = names[::-1]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = helper.make_tensor_value_info("x", element, [None] * len(first))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def by_onnxruntime(data: bytes, first: Shape, dtype: Any = np.float32) -> Shape | None:
    """The shape that comes out; None where it refuses to load or to run."""
    try:
        shape: Shape = session(data).run(None, {"x": np.zeros(first, dtype)})[0].shape
    except Exception:  # onnxruntime's errors have no base of their own
        return None
    return shape


def inferred(graph: Graph, first: Shape, output: str = "y", most: int = PLENTY) -> Shape | None:
    """The same by `check`, which must find the output's shape by itself: no value has a side of -1."""
    with pytest.raises(BundleError) as caught:
        shapes.check(graph, {"x": first}, {output: (-1,)}, most, "prior.onnx")
    assert re.fullmatch(r"prior\.onnx: \w+ \(\w+\) .+", str(caught.value))
    found = re.search(r"\) is \[([\d, ]*)\], not \[-1\]$", str(caught.value))
    return tuple(int(side) for side in found[1].split(", ") if side) if found else None


side = st.integers(1, 4)
shape = st.lists(side, max_size=4).map(tuple)


def floats(of: Shape) -> Any:
    return np.ones(of, np.float32)


def int64(values: Any) -> Any:
    return np.array(values, np.int64)


@st.composite
def elementwise(draw: Any) -> Any:
    first = draw(shape)
    # Mostly shapes that fit: some sides are 1, some in front are missing or more.
    second = [draw(st.sampled_from([s, s, 1, 2])) for s in first]
    second = [*draw(st.lists(side, max_size=1)), *second][draw(st.integers(0, 2)) :]
    return draw(st.sampled_from(["Add", "Mul"])), first, [floats(tuple(second))], {}


@st.composite
def clips(draw: Any) -> Any:
    limits = st.sampled_from([(), (), (1,), (1, 1), (2,)])
    return "Clip", draw(shape), [floats(draw(limits)) for _ in range(draw(st.integers(0, 2)))], {}


@st.composite
def products(draw: Any) -> Any:
    small = st.integers(1, 2)
    inner = draw(side)
    first = (*draw(st.lists(small, max_size=3)), inner)
    second: Shape = (*draw(st.lists(small, max_size=2)), inner, draw(side))
    if draw(st.booleans()):
        second = second[:-1]
    wrong = draw(st.sampled_from([None] * 6 + ["first", "second"]))
    return "MatMul", () if wrong == "first" else first, [floats(() if wrong == "second" else second)], {}


@st.composite
def convolutions(draw: Any) -> Any:
    spatial, group, inside = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 4)) for _ in range(spatial)]
    outside = group * draw(side) + draw(st.sampled_from([0] * 9 + [1]))
    x = [draw(st.integers(1, 2)), group * inside, *(draw(st.integers(1, 8)) for _ in range(spatial))]
    wrong = draw(st.sampled_from([""] * 12 + ["channels", "rank", "kernel_shape", "bias"]))
    x[1] += wrong == "channels"
    if wrong == "rank":
        x.append(1)
    attributes: dict[str, Any] = {"group": group} if group > 1 or draw(st.booleans()) else {}
    for name, least, count in (("pads", 0, 2), ("strides", 1, 1), ("dilations", 1, 1)):
        if draw(st.booleans()):
            size = spatial * count + draw(st.sampled_from([0] * 19 + [1]))
            least -= draw(st.sampled_from([0] * 19 + [1]))
            attributes[name] = [draw(st.integers(least, 3)) for _ in range(size)]
    if wrong == "kernel_shape" or draw(st.booleans()):
        attributes["kernel_shape"] = [k + (wrong == "kernel_shape") for k in kernel]
    others = [floats((outside, inside, *kernel))]
    if wrong == "bias" or draw(st.booleans()):
        others.append(floats((outside + (wrong == "bias"),)))
    return "Conv", tuple(x), others, attributes


@st.composite
def concats(draw: Any) -> Any:
    first = draw(shape)
    others = []
    for _ in range(draw(st.integers(0, 2))):
        other = list(first)
        if other:
            other[draw(st.integers(0, len(other) - 1))] = draw(side)
        others.append(floats(tuple(other[draw(st.sampled_from([0] * 9 + [1])) :])))
    axis = {"axis": draw(st.integers(-len(first) - 1, len(first)))}
    return "Concat", first, others, draw(st.sampled_from([axis] * 9 + [{}]))


@st.composite
def transposes(draw: Any) -> Any:
    first = draw(shape)
    right = st.permutations(range(len(first)))
    perm = draw(st.one_of(st.none(), right, right, st.lists(st.integers(-1, 4), min_size=1, max_size=4)))
    # An empty perm is left to `test_empty_lists`.
    return "Transpose", first, [], {"perm": list(perm)} if perm else {}


@st.composite
def reshapes(draw: Any) -> Any:
    first = draw(shape)
    target = draw(st.permutations(first))
    for axis in range(len(target)):
        target[axis] = draw(st.sampled_from([target[axis]] * 4 + [0, -1]))
    target += draw(st.sampled_from([[]] * 4 + [[1], [-1], [0], [2], [-2], [HUGE]]))
    if not target or draw(st.integers(0, 9)) == 0:
        target = [prod(first)]
    allow = draw(st.sampled_from([{}, {"allowzero": 0}, {"allowzero": 1}]))
    return "Reshape", first, [int64(target)], allow


@st.composite
def unsqueezes(draw: Any) -> Any:
    first = draw(shape)
    axes = draw(st.lists(st.integers(-len(first) - 3, len(first) + 2), min_size=1, max_size=3))
    return "Unsqueeze", first, [int64(axes)], {}


@st.composite
def gathers(draw: Any) -> Any:
    return "Gather", draw(shape), [floats(draw(shape))], draw(st.sampled_from([{}, {"axis": 0}]))


def refused_and_accepted(cases: Any, examples: int) -> None:
    """Run generated nodes in both; the strategy must reach both outcomes, or it shows nothing."""
    outcomes = set()

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(cases)
    def agree(case: Any) -> None:
        operation, first, others, attributes = case
        dtype = np.int32 if operation == "Gather" else np.float32
        data = model(operation, first, others, attributes, dtype)
        expected = by_onnxruntime(data, first, dtype)
        found = inferred(onnx_graph.read(data, "prior.onnx"), first)
        assert found == expected, (operation, first, [c.shape for c in others], attributes)
        outcomes.add(expected is None)

    agree()
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("cases", "examples"),
    [
        pytest.param(elementwise(), 200, id="Add-Mul"),
        pytest.param(clips(), 60, id="Clip"),
        pytest.param(products(), 200, id="MatMul"),
        pytest.param(convolutions(), 400, id="Conv"),
        pytest.param(concats(), 200, id="Concat"),
        pytest.param(transposes(), 150, id="Transpose"),
        pytest.param(reshapes(), 200, id="Reshape"),
        pytest.param(unsqueezes(), 200, id="Unsqueeze"),
        pytest.param(gathers(), 80, id="Gather"),
    ],
)
def test_shapes_are_those_of_onnxruntime(cases: Any, examples: int) -> None:
    refused_and_accepted(cases, examples)


@settings(max_examples=30, deadline=None)
@given(shape)
def test_floor_keeps_the_shape(first: Shape) -> None:
    data = model("Floor", first, [], {})
    assert inferred(onnx_graph.read(data, "prior.onnx"), first) == by_onnxruntime(data, first) == first


@pytest.mark.parametrize(
    ("data", "first", "accepted", "reason"),
    [
        # Beyond three dimensions onnxruntime spreads out the input: 625 times its size for a kernel of 5.
        (model("Conv", (1, 1, 2, 2, 2, 2), [floats((1,) * 6)], {}), (1, 1, 2, 2, 2, 2), True, "one to three"),
        (model("Add", (2,), [floats((1,) * 9)], {}), (2,), True, "9 axes"),
        (model("Reshape", (2,), [int64([1] * 8 + [2])], {}), (2,), True, "up to 8 int64"),
        # ONNX wants a list of axes.
        (model("Unsqueeze", (2,), [np.int64(0)], {}), (2,), True, "list of up to 8 int64"),
        # ONNX knows 0 and 1.
        (model("Reshape", (2,), [int64([0])], {"allowzero": -1}), (2,), True, "allowzero"),
        # The proof of exactness refuses other axes too.
        (model("Gather", (2,), [floats((3, 3))], {"axis": 1}, np.int32), (2,), True, "first axis"),
    ],
)
def test_where_more_is_refused_than_by_onnxruntime(
    data: bytes, first: Shape, accepted: bool, reason: str
) -> None:
    dtype = np.int32 if b"Gather" in data else np.float32
    assert (by_onnxruntime(data, first, dtype) is not None) is accepted
    with pytest.raises(BundleError, match=reason):
        shapes.check(onnx_graph.read(data, "prior.onnx"), {"x": first}, {"y": (1,)}, PLENTY, "prior.onnx")


# Hostile graphs


def graph_of(nodes: Sequence[Node], **constants: Any) -> Graph:
    return Graph(tuple(nodes), constants, {"x": Input(integers=False)}, (nodes[-1].outputs[0],))


def node(operation: str, inputs: str, output: str, **attributes: tuple[int, ...]) -> Node:
    return Node(operation, tuple(inputs.split()), (output,), attributes)


def refused(graph: Graph, x: Shape, reason: str, most: int = 1 << 20) -> None:
    """`check` says so at once, and takes next to nothing for it."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(BundleError, match=reason):
            shapes.check(graph, {"x": x}, {graph.outputs[0]: (1,)}, most, "prior.onnx")
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Tracing slows a thousandfold node down too; without it each of these takes milliseconds.
    assert seconds < 0.5
    assert peak < 4 << 20


def chained(count: int, link: Callable[[str, str], Node]) -> list[Node]:
    names = ["x", *(f"v{i}" for i in range(count))]
    return [link(before, after) for before, after in pairwise(names)]


def test_joining_with_itself_again_and_again() -> None:
    for count in (25, 2000):
        nodes = chained(count, lambda x, y: node("Concat", f"{x} {x}", y, axis=(0,)))
        refused(
            graph_of(nodes), (1, 4), r"Concat \(v17\) of \[262144, 4\] takes prior.onnx beyond 1048576 elem"
        )


def test_a_row_and_a_column() -> None:
    """Both constants: onnxruntime would add them while it loads the file."""
    row, column = floats((1, 1 << 15)), floats((1 << 15, 1))
    for operation in ("Add", "Mul"):
        refused(graph_of([node(operation, "a b", "y")], a=row, b=column), (1,), "beyond 1048576 elements")
    refused(graph_of([node("MatMul", "a b", "y")], a=column, b=row), (1,), "beyond 1048576 elements")


def test_orthogonal_axes() -> None:
    """Eight small values, each along an axis of its own."""
    values = {f"c{i}": floats(tuple(64 if axis == i else 1 for axis in range(8))) for i in range(8)}
    nodes = [node("Add", "x c0", "v0"), *(node("Add", f"v{i - 1} c{i}", f"v{i}") for i in range(1, 8))]
    refused(graph_of(nodes, **values), (1,), r"Add \(v3\)")


def test_many_values_that_are_each_small() -> None:
    """Each must wait for the last one, so all are in memory at once."""
    nodes = chained(300, lambda x, y: node("Floor", x, y))
    nodes += [node("Add", f"{'v299' if i == 0 else f'a{i - 1}'} v{i}", f"a{i}") for i in range(299)]
    refused(graph_of(nodes), (1, 4000), "beyond 1048576 elements")


def test_many_axes() -> None:
    nodes = chained(2000, lambda x, y: node("Unsqueeze", f"{x} axes", y))
    refused(graph_of(nodes, axes=int64([0, 1, 2])), (1,), "has 10 axes")
    refused(graph_of(nodes, axes=int64(range(1 << 20))), (1,), "list of up to 8 int64")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"pads": (HUGE,) * 4}, "above 2147483647"),
        ({"pads": (0, 0, 1 << 20, 0)}, "beyond 1048576 elements"),
        ({"pads": (HUGE,) * 4, "strides": (HUGE,) * 2}, "above 2147483647"),
        ({"pads": (HUGE,) * 4, "dilations": (HUGE,) * 2}, "above 2147483647"),
        ({"dilations": (HUGE, 1)}, "above 2147483647"),
        ({"dilations": (STEP, 1)}, "kernel that is larger"),
        ({"pads": (STEP,) * 4}, "beyond 1048576 elements"),
        ({"pads": (STEP,) * 4, "strides": (STEP,) * 2}, r"is \[1, 1, 3, 3\], not \[1\]"),
        ({"pads": (STEP + 1,) * 4, "strides": (STEP,) * 2}, "above 2147483647"),
        ({"pads": (-HUGE - 1,) * 4}, "negative pads"),
        ({"pads": (0, 0, -1, 0)}, "negative pads"),
        ({"strides": (0, 1)}, "below 1"),
        ({"strides": (1, -1)}, "below 1"),
        ({"dilations": (0, 1)}, "below 1"),
        ({"dilations": (1, -HUGE)}, "below 1"),
        ({"pads": (1, 1)}, "pads of 2 integers where 4 belong"),
        ({"pads": (1,) * 100_000}, "pads of 100000 integers where 4 belong"),
        ({"strides": ()}, "strides of 0 integers where 2 belong"),
        ({"dilations": (1,)}, "dilations of 1 integers"),
        ({"kernel_shape": (3, 2)}, "another kernel_shape"),
        ({"kernel_shape": (3,)}, "kernel_shape of 1 integers"),
        ({"group": (0,)}, "in 0 groups"),
        ({"group": (-1,)}, "in -1 groups"),
        ({"group": (HUGE,)}, "groups"),
        ({"group": ()}, "group of 0 integers"),
        ({"auto_pad": (1,)}, "attribute that is not known"),
    ],
)
def test_hostile_convolutions(attributes: Any, reason: str) -> None:
    graph = graph_of([node("Conv", "x w", "y", **attributes)], w=floats((1, 1, 3, 3)))
    refused(graph, (1, 1, 7, 7), reason)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (node("Transpose", "x", "y", perm=(0, 0)), "no order of 2 axes"),
        (node("Transpose", "x", "y", perm=(0, -1)), "no order of 2 axes"),
        (node("Transpose", "x", "y", perm=(0, HUGE)), "no order of 2 axes"),
        (node("Transpose", "x", "y", perm=tuple(range(100_000))), "perm of 100000 integers"),
        (node("Concat", "x x", "y", axis=(2,)), "axis 2 where there are 2"),
        (node("Concat", "x x", "y", axis=(-HUGE - 1,)), "where there are 2"),
        (node("Concat", "x x", "y", axis=()), "axis of 0 integers"),
        (node("Concat", "x x", "y", axis=(0, 1)), "axis of 2 integers"),
        (node("Concat", "x x", "y"), "lacks an axis"),
        (node("Reshape", "x two", "y"), r"cannot make \[-1, -1\] of \[2, 3\]"),
        (node("Reshape", "x far", "y"), "cannot make"),
        (node("Reshape", "x low", "y"), "cannot make"),
        (node("Reshape", "x zeros", "y"), "cannot make"),
        (node("Reshape", "x zeros", "y", allowzero=(1,)), "cannot make"),
        (node("Reshape", "x zeros", "y", allowzero=(HUGE,)), "allowzero"),
        (node("Reshape", "x x", "y"), "constant list"),
        (node("Reshape", "x floats", "y"), "constant list"),
        (node("Reshape", "x table", "y"), "constant list"),
        (node("Unsqueeze", "x two", "y"), "an axis twice"),
        (node("Unsqueeze", "x far", "y"), "has axis"),
        (node("Gather", "table x", "y", axis=(-2,)), "first axis"),
        (node("Gather", "number x", "y"), "first axis"),
        (node("MatMul", "x number", "y"), r"cannot multiply \[2, 3\] by \[\]"),
        (node("Clip", "x table", "y"), "limits"),
        (node("Clip", "x number number number", "y"), "has 4 inputs"),
        (node("Floor", "", "y"), "has 0 inputs"),
        (node("Floor", "x", "y", axis=(0,)), "attribute that is not known"),
        (node("Relu", "x", "y"), "not an operation"),
        (node("Floor", "z", "y"), "works on z, which nothing gives"),
        (node("Floor", "y", "y"), "works on y, which nothing gives"),
        (Node("Floor", ("x",), ("y", "z"), {}), "1 inputs and 2 outputs"),
        (Node("Add", ("x", ""), ("y",), {}), "works on an input left out"),
        (Node("Clip", ("x", "", "number"), ("y",), {}), r"is \[2, 3\], not \[1\]"),
    ],
)
def test_hostile_nodes(made: Node, reason: str) -> None:
    constants = {
        "two": int64([-1, -1]),
        "far": int64([HUGE, HUGE]),
        "low": int64([-HUGE - 1, 3]),
        "zeros": int64([0, 0, 0]),
        "floats": floats((2,)),
        "table": int64([[1, 2], [3, 4]]),
        "number": np.float32(1),
    }
    refused(
        graph_of([made], **{name: np.asarray(value) for name, value in constants.items()}), (2, 3), reason
    )


def test_empty_lists_are_no_defaults() -> None:
    refused(graph_of([node("Transpose", "x", "y", perm=())]), (2, 3), "perm of 0 integers where 2 belong")


def test_whatever_can_be_proved_exact_has_a_shape() -> None:
    assert set(exact._RULES) == set(shapes._OPERATIONS)


# What counts, and what is looked at


def test_elements_are_counted_to_the_last() -> None:
    nodes = [node("Concat", "x x", "a", axis=(1,)), node("Floor", "a", "b"), node("Transpose", "b", "y")]
    found = shapes.check(graph_of(nodes), {"x": (2, 3)}, {"y": (6, 2)}, 36, "prior.onnx")
    assert found == {"a": (2, 6), "b": (2, 6), "y": (6, 2)}
    with pytest.raises(BundleError, match=r"Transpose \(y\) of \[6, 2\] takes prior.onnx beyond 35 elements"):
        shapes.check(graph_of(nodes), {"x": (2, 3)}, {"y": (6, 2)}, 35, "prior.onnx")


@pytest.mark.parametrize(("channels", "blocks"), [(1, 1), (16, 1), (17, 2)])
def test_convolutions_count_in_blocks_of_channels(channels: int, blocks: int) -> None:
    """And so does what is then done to each of their elements; what is moved counts as it is."""
    nodes = [node("Conv", "x w", "a"), node("Add", "a a", "b"), node("Transpose", "b", "y")]
    graph = graph_of(nodes, w=floats((channels, 1, 1, 1)))
    most = 2 * 16 * blocks * 20 + channels * 20
    outputs = {"y": (5, 4, channels, 1)}
    shapes.check(graph, {"x": (1, 1, 4, 5)}, outputs, most, "prior.onnx")
    with pytest.raises(BundleError, match=f"beyond {most - 1} elements"):
        shapes.check(graph, {"x": (1, 1, 4, 5)}, outputs, most - 1, "prior.onnx")


def test_only_what_the_outputs_depend_on_is_looked_at() -> None:
    nodes = [node("Floor", "x", "y"), node("Relu", "x", "other"), node("Floor", "nothing", "more")]
    graph = Graph(
        tuple(nodes),
        {},
        {"x": Input(integers=False), "unused": Input(integers=False)},
        ("y", "other", "more"),
    )
    assert shapes.check(graph, {"x": (2,), "unused": (3,)}, {"y": (2,)}, 2, "prior.onnx") == {"y": (2,)}
    with pytest.raises(BundleError, match=r"Relu \(other\)"):
        shapes.check(graph, {"x": (2,)}, {"y": (2,), "other": (2,)}, 9, "prior.onnx")
    for absent in ("x", "absent"):
        with pytest.raises(BundleError, match=f"prior.onnx does not compute {absent}"):
            shapes.check(graph, {"x": (2,)}, {"y": (2,), absent: (2,)}, 9, "prior.onnx")


def test_a_shape_is_taken_only_for_an_input_of_the_graph() -> None:
    graph = Graph((node("Floor", "z", "y"),), {}, {"x": Input(integers=False)}, ("y",))
    with pytest.raises(BundleError, match="works on z, which nothing gives"):
        shapes.check(graph, {"x": (1,), "z": (2,)}, {"y": (2,)}, 9, "prior.onnx")


integers = st.one_of(st.integers(-2, 9), st.integers(-HUGE - 1, HUGE))
constant = st.one_of(st.lists(integers, min_size=1, max_size=4).map(int64), shape.map(floats))
attributes = st.dictionaries(
    st.sampled_from(ATTRIBUTES), st.lists(integers, max_size=4).map(tuple), max_size=2
)


@settings(max_examples=250, deadline=None)
@given(shape, st.lists(constant, min_size=2, max_size=2), st.data())
def test_whatever_is_asked_of_it(first: Shape, values: list[Any], data: st.DataObject) -> None:
    """Any operations with any integers: a shape within the bound, or BundleError in one line."""
    names, nodes = ["x", "", "c0", "c1"], []
    for i in range(3):
        inputs = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        operation = data.draw(st.sampled_from(OPERATIONS))
        nodes.append(Node(operation, tuple(inputs), (f"v{i}",), data.draw(attributes)))
        names.append(f"v{i}")
    graph = graph_of(nodes, c0=values[0], c1=values[1])
    # One after the other, so that a node that is refused does not hide the others.
    for made in nodes:
        found = inferred(graph, first, made.outputs[0], 1000)
        if found is not None:
            again = shapes.check(graph, {"x": first}, {made.outputs[0]: found}, 1000, "prior.onnx")
            assert again[made.outputs[0]] == found
            assert all(s >= 1 for s in found)
            assert prod(found) <= 1000


# Multiplications


def test_products_of_a_matrix_are_counted_to_the_last() -> None:
    """For each element of the output as many as the matrix has rows, however many columns it has."""
    for rows, columns in ((64, 7), (320, 1), (65, 7), (321, 1)):
        graph = graph_of([node("MatMul", "x w", "y")], w=floats((rows, columns)))
        x, outputs, most = (2, 3, rows), {"y": (2, 3, columns)}, 6 * columns * (rows // 64)
        if rows % 64:
            refused(graph, x, rf"MatMul \(y\) takes prior.onnx beyond {64 * most} multiplications", most)
        else:
            shapes.check(graph, {"x": x}, outputs, most, "prior.onnx")


@pytest.mark.parametrize("group", [1, 2, 4])
def test_products_of_a_convolution_are_those_of_one_output_channel(group: int) -> None:
    """Its weights, which groups make fewer; whole blocks of channels are a matter of elements alone."""
    inside, outside, kernel, positions = 8 // group, 12, 130, 4
    graph = graph_of(
        [node("Conv", "x w", "a", group=(group,)), node("Clip", "a", "y")],
        w=floats((outside, inside, kernel)),
    )
    x, outputs = (1, 8, kernel + positions - 1), {"y": (1, outside, positions)}
    products = outside * positions * inside * kernel
    assert products % 64 == 0
    shapes.check(graph, {"x": x}, outputs, products // 64, "prior.onnx")
    refused(graph, x, rf"Conv \(a\) takes prior.onnx beyond {products - 64} mult", products // 64 - 1)


def test_products_of_all_nodes_are_counted_together() -> None:
    """2500 and 60 are all that 40 elements may take; what the output does not depend on takes none."""
    nodes = [
        node("Conv", "x kernel", "a"),
        node("MatMul", "row column", "b"),
        node("Add", "a b", "c"),
        node("MatMul", "c one", "y"),
    ]
    constants = {"kernel": floats((1, 1, 2500)), "row": floats((1, 60)), "column": floats((60, 1))}
    graph = graph_of(nodes, one=floats((1, 1)), **constants)
    shapes.check(graph, {"x": (1, 1, 2500)}, {"c": (1, 1, 1)}, 40, "prior.onnx")
    refused(graph, (1, 1, 2500), r"MatMul \(y\) takes prior.onnx beyond 2560 multiplications", 40)


def test_a_large_kernel_over_large_pads() -> None:
    """Few elements, all in memory at once, and an hour of work."""
    graph = graph_of([node("Conv", "x w", "y", pads=(500,) * 4)], w=floats((1, 1, 750, 750)))
    refused(graph, (1, 1, 1, 1), r"Conv \(y\) takes prior.onnx beyond 67108864 multiplications")


# Declared shapes of inputs


@pytest.mark.parametrize(
    ("declared", "accepted"),
    [
        (None, True),
        ((None, None), True),
        ((2, None), True),
        ((None, 3), True),
        ((2, 3), True),
        ((3, 3), False),
        ((2, 1), False),
        ((None, 4), False),
        ((2, 0), False),
        ((None, -1), False),
        ((), False),
        ((None,), False),
        ((2,), False),
        ((None, None, None), False),
        ((2, 3, None), False),
        ((1, 2, 3), False),
    ],
)
def test_declared_shapes_of_inputs(declared: Any, accepted: bool) -> None:
    """Numbers must be those of the shape; a side that is not declared can have any length, but must be there."""
    element = TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", element, declared)
    y = helper.make_tensor_value_info("y", element, None)
    made = helper.make_graph([helper.make_node("Floor", ["x"], ["y"])], "g", [x], [y])
    data = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    graph = onnx_graph.read(data, "prior.onnx")
    assert graph.inputs["x"].shape == declared
    if accepted:
        assert shapes.check(graph, {"x": (2, 3)}, {"y": (2, 3)}, 6, "prior.onnx") == {"y": (2, 3)}
    else:
        refused(graph, (2, 3), r"input x is not declared as \[2, 3\]")


def test_declared_shapes_of_inputs_in_use() -> None:
    """The inputs of other groups have no shape here, and so none to differ from."""
    inputs = {"x": Input(integers=True, shape=(None, 2)), "other": Input(integers=True, shape=(7,))}
    graph = Graph((node("Floor", "x", "y"),), {}, inputs, ("y",))
    shapes.check(graph, {"x": (5, 2)}, {"y": (5, 2)}, 10, "prior.onnx")
    with pytest.raises(BundleError, match=r"input other is not declared as \[8\]"):
        shapes.check(graph, {"x": (5, 2), "other": (8,)}, {"y": (5, 2)}, 10, "prior.onnx")
