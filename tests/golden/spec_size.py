"""Section 8.3 of proto/SPEC.md: what a network takes, known before any of it is computed.

The shapes come out of numpy itself: each value is played by one byte that is seen along all sides, so none takes
memory, however large it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.golden.spec_errors import BundleError
from tests.golden.spec_operations import Node, Shape, rearranged, sweep

MOST_BYTES: Final = 1 << 23
"""Of prior.onnx."""
ELEMENTS: Final = 1 << 15
MULTIPLICATIONS: Final = 1 << 21
"""For each cell of the grid."""
ELEMENTS_IN_ALL: Final = 1 << 28
MULTIPLICATIONS_IN_ALL: Final = 1 << 34
MOST_PARTS: Final = 1 << 12
"""Of nodes, initializers, inputs and outputs, each."""
MOST_DIMENSIONS: Final = 8
CHANNELS: Final = 16
"""A Conv counts with whole multiples of them."""


@dataclass(frozen=True)
class Size:
    """What the nodes of one network come to."""

    shapes: Mapping[str, Shape]
    """Of each node's output."""
    elements: int
    multiplications: int


def measured(
    nodes: Sequence[Node], constants: Mapping[str, NDArray[Any]], inputs: Mapping[str, Shape], cells: int
) -> Size:
    """The size of all these nodes, for graph inputs of these shapes, on a grid of R · C cells.

    Raises BundleError where shapes do not fit, or for more than section 8.3 allows.
    """
    known: dict[str, NDArray[Any]] = dict(constants) | {
        name: _played(shape) for name, shape in inputs.items()
    }
    shapes: dict[str, Shape] = {}
    counts: dict[str, int] = {}
    elements = multiplications = 0
    for node in nodes:
        try:
            given = [known[name] for name in node.inputs]
            shape = _shape(node, given)
        except (ValueError, IndexError, KeyError) as error:
            raise BundleError(f"{node.output}: shapes that do not fit: {error}") from error
        counts[node.output] = _count(node, shape, counts)
        elements += counts[node.output]
        if node.operation == "Conv":
            multiplications += prod(shape) * prod(given[1].shape[1:])
        if node.operation == "MatMul":
            multiplications += prod(shape) * len(given[1])
        if len(shape) > MOST_DIMENSIONS:
            raise BundleError(f"{node.output} has {len(shape)} dimensions")
        if elements > min(ELEMENTS * cells, ELEMENTS_IN_ALL):
            raise BundleError(f"{node.output} is beyond the elements of {cells} cells")
        if multiplications > min(MULTIPLICATIONS * cells, MULTIPLICATIONS_IN_ALL):
            raise BundleError(f"{node.output} is beyond the multiplications of {cells} cells")
        shapes[node.output], known[node.output] = shape, _played(shape)
    return Size(shapes, elements, multiplications)


def _played(shape: Shape) -> NDArray[Any]:
    return np.broadcast_to(np.int8(0), shape)


def _shape(node: Node, given: Sequence[NDArray[Any]]) -> Shape:
    x, others = given[0], given[1:]
    if node.operation == "Gather":
        return *others[0].shape, *x.shape[1:]
    if node.operation == "Conv":
        return len(x), len(others[0]), *sweep(x.shape, others[0].shape, node.attributes).sides
    if node.operation == "MatMul":
        if x.shape[-1] != len(others[0]):
            raise ValueError(f"a matrix of {len(others[0])} rows for {x.shape}")
        return *x.shape[:-1], others[0].shape[1]
    if node.operation in ("Add", "Mul"):
        return np.broadcast_shapes(x.shape, others[0].shape)
    if node.operation in ("Floor", "Clip"):
        return x.shape
    if node.operation == "Concat":
        axis = range(x.ndim)[node.attributes["axis"][0]]
        if len({(value.shape[:axis], value.shape[axis + 1 :]) for value in given}) != 1:
            raise ValueError("values that differ along another axis")
        return *x.shape[:axis], sum(value.shape[axis] for value in given), *x.shape[axis + 1 :]
    numbers = others[0].tolist() if others else []
    if len(numbers) > MOST_DIMENSIONS:  # the output would have more still
        raise ValueError(f"{len(numbers)} dimensions")
    return rearranged(node.operation, x, numbers, node.attributes).shape


def _count(node: Node, shape: Shape, counts: Mapping[str, int]) -> int:
    """What the elements of an output count as, after those before it."""
    if node.operation == "Conv":
        batch, channels, *sides = shape
        return prod((batch, -(-channels // CHANNELS) * CHANNELS, *sides))
    if node.operation in ("Add", "Mul", "Floor", "Clip"):
        return max(prod(shape), *(counts.get(name, 0) for name in node.inputs))
    return prod(shape)
