"""What a graph takes to run: the exact shape of every value, and bounds on all of them together.

The proof of exactness bounds what values hold and not how many there are: a file of a kilobyte can join a value
with itself until no memory is left. So the shapes are inferred here, in whole numbers, as ONNX defines them,
before anything runs. Every output of a needed node counts, whether or not a runtime could free it in time or would
compute it while it loads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.errors import BundleError
from ndsc.codec.onnx_graph import Graph, Node

ELEMENTS_PER_CELL: Final = 1 << 15
"""Of all values of a pass together, for each cell of its grid."""
MOST_ELEMENTS: Final = 1 << 28
"""However many cells: a gigabyte of float32."""
PRODUCTS_PER_ELEMENT: Final = 1 << 6
"""Multiplications that it may take for each of those elements: 2**21 for each cell."""
MOST_AXES: Final = 8
"""Of a value. Without a bound a file could make shapes long, and so the check itself slow."""
CHANNEL_BLOCK: Final = 16
"""Runtimes may lay out a convolution's output in whole blocks of channels; so it counts."""
_LARGEST_STEP: Final = (1 << 31) - 1
"""Of pads, strides and dilations: far beyond it a runtime's own 64-bit sums overflow."""
_MOST_SPATIAL_AXES: Final = 3
"""Beyond these onnxruntime spreads out the input once for each weight of the kernel."""

Shape = tuple[int, ...]


def most_elements(cells: int) -> int:
    """How many elements all values of a pass may have together for a grid of so many cells."""
    return min(ELEMENTS_PER_CELL * cells, MOST_ELEMENTS)


class _RefusedError(Exception):
    """What is wrong with a node; `check` adds which."""


def check(
    graph: Graph, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], most: int, name: str
) -> dict[str, Shape]:
    """Infer the shape of every value that some outputs depend on, and refuse what does not fit or takes too much.

    Takes time and memory in proportion to the size of the graph, whatever the shapes.

    Args:
        graph: the graph; what the outputs do not depend on is not looked at.
        inputs: shape of each graph input that the outputs need, sides of at least 1; others may be there.
        outputs: the shape that each wanted output must have.
        most: how many elements the outputs of all these nodes may have together. A Conv counts with its channels
            rounded up to whole blocks of 16; Add, Mul, Floor and Clip count no less than any of their inputs.
            Conv and MatMul together may take 64 times as many multiplications.
        name: of the file, for messages.

    Returns:
        The shape of each of these nodes' outputs.

    Raises:
        BundleError: an output is missing or has another shape, shapes do not fit, or there are too many elements.
            The message names the operation and its output.
    """
    given = {i: tuple(inputs[i]) for i in graph.inputs if i in inputs}
    for i, shape in given.items():
        declared = graph.inputs[i].shape
        if declared is not None and not _fits(shape, declared):
            raise BundleError(f"{name}: input {i} is not declared as {list(shape)}")
    shapes: dict[str, Shape] = {}
    taken: dict[str, int] = {}
    elements = products = 0
    for node in _needed(graph, outputs):
        try:
            operation = _OPERATIONS.get(node.operation)
            if operation is None:
                raise _RefusedError("is not an operation whose shape is known")
            if len(node.inputs) not in operation.inputs or len(node.outputs) != 1:
                raise _RefusedError(f"has {len(node.inputs)} inputs and {len(node.outputs)} outputs")
            if not node.attributes.keys() <= operation.attributes:
                raise _RefusedError("has an attribute that is not known")
            known = _Inputs(node, given, shapes, graph.constants)
            shape = operation.rule(known)
            if len(shape) > MOST_AXES:
                raise _RefusedError(f"has {len(shape)} axes; at most {MOST_AXES} are allowed")
            taken[node.outputs[0]] = _taken(node, shape, taken)
            elements += taken[node.outputs[0]]
            if elements > most:
                raise _RefusedError(f"of {list(shape)} takes {name} beyond {most} elements")
            products += prod(shape) * (operation.products(known) if operation.products else 0)
            if products > PRODUCTS_PER_ELEMENT * most:
                raise _RefusedError(f"takes {name} beyond {PRODUCTS_PER_ELEMENT * most} multiplications")
            expected = outputs.get(node.outputs[0], shape)
            if shape != expected:
                raise _RefusedError(f"is {list(shape)}, not {list(expected)}")
        except _RefusedError as error:
            raise BundleError(f"{name}: {node.operation} ({', '.join(node.outputs)}) {error}") from error
        shapes[node.outputs[0]] = shape
    for output in outputs:
        if output not in shapes:
            raise BundleError(f"{name} does not compute {output}")
    return shapes


def _fits(shape: Shape, declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        d in (None, side) for side, d in zip(shape, declared, strict=True)
    )


def _needed(graph: Graph, outputs: Mapping[str, Shape]) -> list[Node]:
    """The nodes that outputs depend on, in the order of the graph."""
    wanted, needed = set(outputs), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            needed.append(node)
    return needed[::-1]


@dataclass(frozen=True)
class _Inputs:
    """What a rule needs to know of a node's inputs and attributes."""

    node: Node
    given: Mapping[str, Shape]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, NDArray[Any]]

    def has(self, position: int) -> bool:
        """Whether an optional input is there."""
        return position < len(self.node.inputs) and self.node.inputs[position] != ""

    def shape(self, position: int) -> Shape:
        """Of a value, a graph input or a constant."""
        name = self.node.inputs[position]
        for known in (self.shapes, self.given):
            if name in known:
                return known[name]
        if name not in self.constants:
            raise _RefusedError(f"works on {name or 'an input left out'}, which nothing gives")
        return self.constants[name].shape

    def integers(self, position: int) -> list[int]:
        """A constant list of int64, no longer than a shape can be."""
        values = self.constants.get(self.node.inputs[position])
        if values is None or values.dtype != np.int64 or values.ndim != 1 or len(values) > MOST_AXES:
            raise _RefusedError(
                f"must have a constant list of up to {MOST_AXES} int64 as input {position + 1}"
            )
        return [int(value) for value in values]

    def attribute(self, name: str, default: Shape) -> Shape:
        """An attribute, of as many integers as the default."""
        values = self.node.attributes.get(name, default)
        if len(values) != len(default):
            raise _RefusedError(f"has {name} of {len(values)} integers where {len(default)} belong")
        return values

    def number(self, name: str, default: int) -> int:
        """An attribute of one integer."""
        return self.attribute(name, (default,))[0]


def _gather(inputs: _Inputs) -> Shape:
    table = inputs.shape(0)
    if inputs.number("axis", 0) or not table:
        raise _RefusedError("must pick along the first axis of a table")
    return inputs.shape(1) + table[1:]


def _convolution(inputs: _Inputs) -> Shape:
    x, weights = inputs.shape(0), inputs.shape(1)
    spatial = len(x) - 2
    if not 1 <= spatial <= _MOST_SPATIAL_AXES or len(weights) != len(x):
        raise _RefusedError(
            f"of {list(x)} with weights {list(weights)} is not one of one to three dimensions"
        )
    channels, kernel = weights[0], weights[2:]
    group = inputs.number("group", 1)
    if group < 1 or x[1] != weights[1] * group or channels % group:
        raise _RefusedError(f"cannot apply weights {list(weights)} in {group} groups to {list(x)}")
    if inputs.has(2) and inputs.shape(2) != (channels,):
        raise _RefusedError("must have one bias for each output channel")
    if inputs.attribute("kernel_shape", kernel) != kernel:
        raise _RefusedError("has another kernel_shape than its weights")
    pads = inputs.attribute("pads", (0,) * (2 * spatial))
    strides, dilations = (
        inputs.attribute(attribute, (1,) * spatial) for attribute in ("strides", "dilations")
    )
    if min(pads) < 0 or min(*strides, *dilations) < 1:
        raise _RefusedError("has negative pads, or strides or dilations below 1")
    if max(*pads, *strides, *dilations) > _LARGEST_STEP:
        raise _RefusedError(f"has pads, strides or dilations above {_LARGEST_STEP}")
    sides = []
    for i, side in enumerate(x[2:]):
        room = side + pads[i] + pads[i + spatial] - (kernel[i] - 1) * dilations[i] - 1
        if room < 0:
            raise _RefusedError(f"has a kernel that is larger than its input {list(x)} with pads")
        sides.append(room // strides[i] + 1)
    return x[0], channels, *sides


def _matrix_product(inputs: _Inputs) -> Shape:
    first, second = inputs.shape(0), inputs.shape(1)
    # A list of numbers is one row on the left and one column on the right, which the result has not.
    left = first if len(first) > 1 else (1, *first)
    right = second if len(second) > 1 else (*second, 1)
    if not first or not second or left[-1] != right[-2]:
        raise _RefusedError(f"cannot multiply {list(first)} by {list(second)}")
    return _broadcast(left[:-2], right[:-2]) + first[-2:-1] + second[1:][-1:]


def _elementwise(inputs: _Inputs) -> Shape:
    return _broadcast(inputs.shape(0), inputs.shape(1))


def _broadcast(first: Shape, second: Shape) -> Shape:
    axes = max(len(first), len(second))
    pairs = list(zip(*((1,) * (axes - len(shape)) + shape for shape in (first, second)), strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        raise _RefusedError(f"cannot bring {list(first)} and {list(second)} together")
    return tuple(max(pair) for pair in pairs)


def _same(inputs: _Inputs) -> Shape:
    return inputs.shape(0)


def _clip(inputs: _Inputs) -> Shape:
    for limit in (1, 2):
        if inputs.has(limit) and inputs.shape(limit) not in ((), (1,)):
            raise _RefusedError(f"cannot clip to {list(inputs.shape(limit))} limits")
    return inputs.shape(0)


def _joined(inputs: _Inputs) -> Shape:
    shapes = [inputs.shape(i) for i in range(len(inputs.node.inputs))]
    first = shapes[0]
    if "axis" not in inputs.node.attributes:
        raise _RefusedError("lacks an axis")
    axis = _axis(inputs.number("axis", 0), len(first))
    others = first[:axis], first[axis + 1 :]
    for shape in shapes:
        if len(shape) != len(first) or (shape[:axis], shape[axis + 1 :]) != others:
            raise _RefusedError(f"cannot join {list(first)} and {list(shape)} along axis {axis}")
    return *others[0], sum(shape[axis] for shape in shapes), *others[1]


def _transposed(inputs: _Inputs) -> Shape:
    x = inputs.shape(0)
    axes = tuple(range(len(x)))
    order = inputs.attribute("perm", axes[::-1])
    if tuple(sorted(order)) != axes:
        raise _RefusedError(f"has a perm that is no order of {len(x)} axes")
    return tuple(x[axis] for axis in order)


def _reshaped(inputs: _Inputs) -> Shape:
    x, target = inputs.shape(0), inputs.integers(1)
    zero_stays = inputs.number("allowzero", 0)
    if zero_stays not in (0, 1):
        raise _RefusedError("has allowzero other than 0 or 1")
    sides = [x[i] if side == 0 and not zero_stays and i < len(x) else side for i, side in enumerate(target)]
    count, known, unknown = prod(x), prod(side for side in sides if side != -1), sides.count(-1)
    # Nothing is ever empty, so a 0 that stays fits nothing.
    if unknown > 1 or any(side < 1 and side != -1 for side in sides) or count % known:
        raise _RefusedError(f"cannot make {target} of {list(x)}")
    if not unknown and known != count:
        raise _RefusedError(f"cannot make {target} of {list(x)}")
    return tuple(count // known if side == -1 else side for side in sides)


def _unsqueezed(inputs: _Inputs) -> Shape:
    x, wanted = inputs.shape(0), inputs.integers(1)
    count = len(x) + len(wanted)
    axes = {_axis(axis, count) for axis in wanted}
    if len(axes) != len(wanted):
        raise _RefusedError("adds an axis twice")
    sides = iter(x)
    return tuple(1 if axis in axes else next(sides) for axis in range(count))


def _axis(axis: int, count: int) -> int:
    """From the front; negative ones count from the back."""
    if not -count <= axis < count:
        raise _RefusedError(f"has axis {axis} where there are {count}")
    return axis % count


def _taken(node: Node, shape: Shape, taken: Mapping[str, int]) -> int:
    """How many elements a node's output counts as; `taken` has those of the nodes before."""
    if node.operation == "Conv":
        return prod(shape) // shape[1] * -(-shape[1] // CHANNEL_BLOCK) * CHANNEL_BLOCK
    if node.operation in _ELEMENTWISE:
        # A runtime may leave such a value in blocks of channels, as a convolution made it.
        return max(prod(shape), *(taken.get(i, 0) for i in node.inputs))
    return prod(shape)


@dataclass(frozen=True)
class _Operation:
    rule: Callable[[_Inputs], Shape]
    inputs: range
    """How many there may be."""
    attributes: frozenset[str] = frozenset()
    products: Callable[[_Inputs], int] | None = None
    """Multiplications for each element of the output."""


_OPERATIONS: Final[Mapping[str, _Operation]] = {
    "Gather": _Operation(_gather, range(2, 3), frozenset({"axis"})),
    "Conv": _Operation(
        _convolution,
        range(2, 4),
        frozenset({"dilations", "group", "kernel_shape", "pads", "strides"}),
        lambda inputs: prod(inputs.shape(1)[1:]),
    ),
    "MatMul": _Operation(_matrix_product, range(2, 3), products=lambda inputs: inputs.shape(0)[-1]),
    "Add": _Operation(_elementwise, range(2, 3)),
    "Mul": _Operation(_elementwise, range(2, 3)),
    "Floor": _Operation(_same, range(1, 2)),
    "Clip": _Operation(_clip, range(1, 4)),
    "Concat": _Operation(_joined, range(1, 1 << 31), frozenset({"axis"})),
    "Transpose": _Operation(_transposed, range(1, 2), frozenset({"perm"})),
    "Reshape": _Operation(_reshaped, range(2, 3), frozenset({"allowzero"})),
    "Unsqueeze": _Operation(_unsqueezed, range(2, 3)),
}
_ELEMENTWISE: Final = frozenset({"Add", "Mul", "Floor", "Clip"})
