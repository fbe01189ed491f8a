"""Section 8 of proto/SPEC.md: `prior.onnx`, proved exact, then measured, then computed.

Nothing here is of the codec: the onnx package parses.
"""

# ruff: noqa: N803, N806 -- the names are those of the specification.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper

from tests.golden.spec_errors import BundleError
from tests.golden.spec_operations import Array, Node, Shape, Value, computed
from tests.golden.spec_size import MOST_BYTES, MOST_PARTS, Size, measured

OPSET: Final = 20
LARGEST: Final = 1 << 24
"""Every B is below it."""
OPERAND: Final = 1 << 8
MOST_T: Final = 24

OPERATIONS: Final[Mapping[str, tuple[range, set[str]]]] = {
    # how many inputs ONNX gives them, and their attributes
    "Gather": (range(2, 3), {"axis"}),
    "Conv": (range(2, 4), {"dilations", "group", "kernel_shape", "pads", "strides"}),
    "MatMul": (range(2, 3), set()),
    "Add": (range(2, 3), set()),
    "Mul": (range(2, 3), set()),
    "Floor": (range(1, 2), set()),
    "Clip": (range(3, 4), set()),
    "Concat": (range(1, 1 << 31), {"axis"}),
    "Transpose": (range(1, 2), {"perm"}),
    "Reshape": (range(2, 3), {"allowzero"}),
    "Unsqueeze": (range(2, 3), set()),
}

SINGLE: Final = {"allowzero", "axis", "group"}
"""The attributes of one integer; all others are lists."""


@dataclass(frozen=True)
class Needs:
    """Sections 7.2 and 7.3: what the network of a group takes and gives."""

    rows: Mapping[str, int]
    """How many values each graph input can have."""
    shapes: Callable[[int, int], Mapping[str, Shape]]
    """For R and C: of each graph input, and of the sums."""


@dataclass(frozen=True)
class Bound:
    """What section 8.1 knows of a value: a multiple of 2^−t, of magnitude at most B · 2^−t."""

    B: int
    t: int
    inputs: frozenset[str] = frozenset()
    """The graph inputs it depends on."""

    def at(self, t: int) -> int:
        """B counted in steps of 2^−t, for a t at least as large."""
        return self.B << (t - self.t)


class Network:
    """All networks of one prior.

    Args:
        data: the bytes of prior.onnx.
        groups: what each group without a table needs, by the name `s{s}g{g}`.

    Raises BundleError unless the file is what section 8 demands, on a grid of one cell too.
    """

    def __init__(self, data: bytes, groups: Mapping[str, Needs]) -> None:
        if len(data) > MOST_BYTES:
            raise BundleError(f"prior.onnx has {len(data)} bytes")
        self.groups = groups
        graph = _graph(data)
        if max(map(len, (graph.node, graph.initializer, graph.input, graph.output))) > MOST_PARTS:
            raise BundleError("prior.onnx has too many nodes, initializers, inputs or outputs")
        self._constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
        self._values: dict[str, Value] = {}
        self._nodes = [_node(node) for node in graph.node]
        inputs = [value.name for value in graph.input]
        names = [*self._constants, *inputs, *(node.output for node in self._nodes)]
        if len(names) != len(set(names)) or len(graph.initializer) != len(self._constants):
            raise BundleError("prior.onnx gives a name twice")
        self._declared: dict[str, list[int | None]] = {}
        """Of inputs that declare a shape: its sides, None for one that may have any length."""
        for value in graph.input:
            declared = value.type.tensor_type
            if declared.elem_type != TensorProto.INT32:
                raise BundleError(f"{value.name} is not declared int32")
            if declared.HasField("shape"):
                self._declared[value.name] = [
                    side.dim_value if side.HasField("dim_value") else None for side in declared.shape.dim
                ]
        for value in graph.output:
            if value.type.tensor_type.elem_type not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
                raise BundleError(f"{value.name} is not float32")
        self.rows = {name: count for needs in groups.values() for name, count in needs.rows.items()}
        """How many values each graph input can have."""
        if set(inputs) != set(self.rows):
            raise BundleError("prior.onnx has other inputs than its groups")
        if sorted(value.name for value in graph.output) != sorted(f"{name}.sums" for name in groups):
            raise BundleError("prior.onnx has other outputs than its groups")
        self.bounds: dict[str, Bound] = {}
        """Of each node's output."""
        for node in self._nodes:
            self.bounds[node.output] = self._proved(node)
        for name, needs in groups.items():
            found = self.bounds.get(f"{name}.sums")
            if found is None or found.t or found.inputs != set(needs.rows):
                raise BundleError(f"{name}.sums is not whole numbers made of the group's inputs")
        self._paths = {name: self._path(f"{name}.sums") for name in groups}
        for name in groups:
            self.size(name, 1, 1)

    def _path(self, output: str) -> list[Node]:
        """The nodes that an output depends on."""
        needed, path = {output}, []
        for node in reversed(self._nodes):
            if node.output in needed:
                needed.update(node.inputs)
                path.append(node)
        return path[::-1]

    def size(self, group: str, R: int, C: int) -> Size:
        """What the network of a group takes on a grid of R · C cells.

        Raises BundleError for more than section 8.3 allows, and where shapes do not fit those of section 7.
        """
        needs = self.groups[group]
        shapes = needs.shapes(R, C)
        for name in needs.rows:
            sides = self._declared.get(name, list(shapes[name]))
            if len(sides) != len(shapes[name]) or any(
                n not in (None, m) for n, m in zip(sides, shapes[name], strict=True)
            ):
                raise BundleError(f"{name} is declared with another shape than {shapes[name]}")
        inputs = {name: shapes[name] for name in needs.rows}
        size = measured(self._paths[group], self._constants, inputs, R * C)
        found, expected = size.shapes[f"{group}.sums"], shapes[f"{group}.sums"]
        if found != expected:
            raise BundleError(f"{group}.sums is {found}, not {expected}")
        return size

    def run(self, group: str, feeds: Mapping[str, Array], R: int, C: int) -> dict[str, Value]:
        """Every value that the sums of a group are made of, by its name; `feeds` are the group's inputs."""
        size = self.size(group, R, C)
        known = {name: Value(array, 0) for name, array in feeds.items()}
        for node in self._paths[group]:
            given = [known[n] if n in known else self._constant(n) for n in node.inputs]
            known[node.output] = computed(node.operation, given, node.attributes)
            assert known[node.output].steps.shape == size.shapes[node.output]
        return known

    # 8.1, the bounds

    def _proved(self, node: Node) -> Bound:
        try:
            bound = self._bound(node)
        except (IndexError, KeyError, ValueError) as error:
            raise BundleError(f"{node.output}: not a sound {node.operation}: {error}") from error
        if bound.B >= LARGEST:
            raise BundleError(f"{node.output} can reach {bound.B} steps")
        if bound.t > MOST_T:
            raise BundleError(f"{node.output} has steps below 2^−{MOST_T}")
        return bound

    def _bound(self, node: Node) -> Bound:
        names = node.inputs
        counts, attributes = OPERATIONS.get(node.operation, (range(0), set()))
        if len(names) not in counts or not all(names) or not node.attributes.keys() <= attributes:
            raise BundleError(f"{node.output}: not {node.operation} as section 8.1 and ONNX allow it")
        if node.operation == "Gather":
            table, rows = self._whole(names[0]), self.rows.get(names[1])
            if (
                rows is None
                or table.ndim != 2
                or len(table) < rows
                or node.attributes.get("axis", (0,)) != (0,)
            ):
                raise BundleError(f"{node.output} does not pick rows of a table by a graph input")
            return Bound(_largest(table), 0, frozenset({names[1]}))
        x = self._of(names[0])
        if node.operation in ("Conv", "MatMul"):
            if x.t or x.B > OPERAND:
                raise BundleError(f"{node.output} multiplies what is no operand")
            weights = np.abs(self._whole(names[1]))
            matrix = node.operation == "MatMul"
            if _largest(weights) > OPERAND or weights.ndim not in ((2,) if matrix else (3, 4, 5)):
                raise BundleError(f"{node.output} multiplies by what is no operand")
            if matrix:
                return Bound(_largest(weights.sum(0) * x.B), 0, x.inputs)
            reach = weights.sum(tuple(range(1, weights.ndim))) * x.B
            bias = self._whole(names[2]) if len(names) > 2 else np.zeros(len(weights), np.int64)
            if bias.shape != reach.shape:
                raise BundleError(f"{node.output} lacks a bias of each output channel")
            reach = reach + np.abs(bias)
            return Bound(_largest(reach), 0, x.inputs)
        if node.operation in ("Add", "Concat"):
            if node.operation == "Concat" and "axis" not in node.attributes:
                raise BundleError(f"{node.output} lacks an axis")
            terms = [self._of(name) for name in names]
            t = max(term.t for term in terms)
            reaches = [term.at(t) for term in terms]
            B = sum(reaches) if node.operation == "Add" else max(reaches)
            return Bound(B, t, frozenset().union(*(term.inputs for term in terms)))
        if node.operation == "Mul":
            factor = self._number(names[1])
            if factor.steps.ravel().tolist() != [1]:  # the smallest t makes 1 of every power of two up to 1
                raise BundleError(f"{node.output} scales by what is not 2^−e")
            return Bound(x.B, x.t + factor.t, x.inputs)
        if node.operation == "Floor":
            return Bound(-(-x.B >> x.t), 0, x.inputs)
        if node.operation == "Clip":
            low, high = (self._number(name) for name in (names[1], names[2]))
            sound = low.steps.shape in ((), (1,)) and high.steps.shape in ((), (1,))
            sound = sound and not (x.t or low.t or high.t)
            if not sound or low.steps.item() > high.steps.item():
                raise BundleError(f"{node.output} does not clip whole numbers to whole numbers")
            return Bound(max(_largest(low.steps), _largest(high.steps)), 0, x.inputs)
        for name in names[1:]:  # the shape of Reshape, the axes of Unsqueeze
            constant = self._constants[name]
            if constant.dtype != np.int64 or constant.ndim != 1:
                raise BundleError(f"{node.output} takes {name}, which is not 1-D of int64")
        return x

    def _of(self, name: str) -> Bound:
        if name in self.bounds:
            return self.bounds[name]
        constant = self._number(name)
        return Bound(_largest(constant.steps), constant.t)

    def _number(self, name: str) -> Value:
        """A constant in float32."""
        constant = self._constant(name)
        if self._constants[name].dtype != np.float32:
            raise BundleError(f"{name} is not float32")
        return constant

    def _constant(self, name: str) -> Value:
        """A constant, at the smallest t at which it is whole."""
        if name not in self._values:
            if name not in self._constants:
                raise BundleError(f"{name!r} is not known where it is used")
            self._values[name] = _exact(self._constants[name], name)
        return self._values[name]

    def _whole(self, name: str) -> Array:
        """A constant of whole numbers in float32."""
        constant = self._number(name)
        if constant.t:
            raise BundleError(f"{name} is not of whole numbers")
        return constant.steps


def _exact(array: NDArray[Any], name: str) -> Value:
    if array.dtype != np.float32:
        return Value(array.astype(np.int64), 0)
    numbers = array.astype(np.float64)
    if not (np.abs(numbers) < LARGEST).all():
        raise BundleError(f"{name} is beyond every bound")
    for t in range(MOST_T + 1):
        steps = numbers * 2**t
        if (steps == np.floor(steps)).all():
            return Value(steps.astype(np.int64), t)
    raise BundleError(f"{name} is no multiple of 2^−{MOST_T}")


def _largest(array: Array) -> int:
    return int(np.abs(array).max(initial=0))


# Section 8, what a reader refuses of the file


def _graph(data: bytes) -> Any:
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise BundleError("prior.onnx is not an ONNX file") from error
    if [(o.domain or "ai.onnx", o.version) for o in model.opset_import] != [("ai.onnx", OPSET)]:
        raise BundleError(f"prior.onnx is not of opset {OPSET} alone")
    if model.functions or model.graph.sparse_initializer:
        raise BundleError("prior.onnx holds functions or sparse constants")
    return model.graph


def _node(node: Any) -> Node:
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1 or not node.input:
        raise BundleError(f"{node.op_type}: another domain, no input, or not one output")
    attributes: dict[str, tuple[int, ...]] = {}
    for attribute in node.attribute:
        if attribute.type not in (AttributeProto.INT, AttributeProto.INTS):
            raise BundleError(f"{node.op_type}: attribute {attribute.name} is not of integers")
        single = attribute.type == AttributeProto.INT
        if attribute.name in attributes or single != (attribute.name in SINGLE):
            raise BundleError(f"{node.op_type}: attribute {attribute.name} twice, or not of its type")
        attributes[attribute.name] = (attribute.i,) if single else tuple(attribute.ints)
    return Node(node.op_type, tuple(node.input), node.output[0], attributes)


def _array(tensor: Any) -> NDArray[Any]:
    kinds = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64)
    if tensor.data_type not in kinds or tensor.data_location or tensor.external_data:
        raise BundleError(f"constant {tensor.name} is of another type or not in the file")
    sides = tuple(tensor.dims)
    if min(sides, default=1) < 1 or len(tensor.raw_data) != int(np.prod(sides)) * (
        8 if tensor.data_type == TensorProto.INT64 else 4
    ):
        raise BundleError(f"constant {tensor.name} is empty or not whole in raw_data")
    try:
        array: NDArray[Any] = numpy_helper.to_array(tensor)
    except ValueError as error:
        raise BundleError(f"constant {tensor.name} has no shape that can be: {error}") from error
    return array
