"""The proof that a graph of float32 operations computes integers exactly, in any order of summation.

A float32 holds every multiple of 2**-s whose magnitude is below 2**24 · 2**-s. Where that holds for every partial
sum, no operation rounds, and it does not matter in which order a machine adds, whether it fuses operations, or
which instructions it has. The proof walks the graph and bounds every value: it refuses any operation that it
does not know and any bound that is not kept (DESIGN: operands of products of at most 2**8, every sum below
2**24). It runs where a graph is exported and again in every process that loads one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.errors import BundleError, printable
from ndsc.codec.onnx_graph import Graph, Node

LARGEST_SUM: Final = 1 << 24
"""No value, counted in its own steps, may reach this."""
MOST_FRACTION_BITS: Final = 24
"""Below these a float32 of a proved magnitude could be subnormal, which some machines flush to zero."""
LARGEST_OPERAND: Final = 1 << 8
"""Of each factor of a product: exact in TF32 and in bfloat16 too."""


@dataclass(frozen=True)
class Bound:
    """Values are multiples of 2**-`fraction_bits` and of magnitude at most `largest` · 2**-`fraction_bits`."""

    largest: int
    fraction_bits: int = 0


@dataclass(frozen=True)
class _Rows:
    """An integer input that picks rows of a table: 0 to `count` - 1."""

    count: int


class _RefusedError(Exception):
    """What is wrong with a node; `prove` adds which."""


def prove(graph: Graph, rows: Mapping[str, int], name: str) -> dict[str, Bound]:
    """Bounds of the graph's outputs, when every value on the way is exact.

    Args:
        graph: the graph.
        rows: for each input how many values it can have, 0 to this minus 1; inputs only pick table rows.
        name: of the file, for messages.

    Raises:
        BundleError: the inputs are others, or the graph cannot be proved exact; the message names the operation.
    """
    if set(graph.inputs) != set(rows):
        raise BundleError(
            f"{name} has inputs {printable(str(sorted(graph.inputs)))} where {sorted(rows)} belong"
        )
    for i, declared in graph.inputs.items():
        if not declared.integers:
            raise BundleError(f"{name}: input {i} is not declared as int32")
    known: dict[str, Bound | _Rows] = {i: _Rows(count) for i, count in rows.items()}
    constants = _Constants(graph.constants)
    for node in graph.nodes:
        try:
            rule = _RULES.get(node.operation)
            if rule is None:
                raise _RefusedError("is not an operation that can be proved exact")
            if len(node.outputs) != 1 or not node.inputs:
                raise _RefusedError("must have inputs and one output")
            bound = rule(_Inputs(node, known, constants))
            if bound.largest >= LARGEST_SUM:
                raise _RefusedError(f"can reach {bound.largest} steps; exact is below {LARGEST_SUM}")
            if bound.fraction_bits > MOST_FRACTION_BITS:
                raise _RefusedError(f"has more than {MOST_FRACTION_BITS} fractional bits")
        except _RefusedError as error:
            raise BundleError(f"{name}: {node.operation} ({', '.join(node.outputs)}) {error}") from error
        known[node.outputs[0]] = bound
    bounds = {}
    for output in graph.outputs:
        found = known.get(output)
        if not isinstance(found, Bound) or found.fraction_bits:
            raise BundleError(f"{name}: output {output} is not made of integers")
        bounds[output] = found
    return bounds


class _Constants:
    """What the rules ask of constants, each computed once however often a graph uses it."""

    def __init__(self, values: Mapping[str, NDArray[Any]]) -> None:
        self._values = values
        self._bounds: dict[str, Bound] = {}
        self._integers: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[tuple[str, int], NDArray[np.int64]] = {}

    def values(self, name: str) -> NDArray[Any]:
        if name not in self._values:
            raise _RefusedError("lacks a finite constant")
        return self._values[name]

    def bound(self, name: str) -> Bound:
        if name not in self._bounds:
            values, bits = self.values(name).astype(np.float64), 0
            if not np.isfinite(values).all():
                raise _RefusedError("lacks a finite constant")
            while not np.array_equal(values, np.floor(values)):
                values, bits = values * 2, bits + 1
                if bits > MOST_FRACTION_BITS:
                    raise _RefusedError("has a constant of too many fractional bits")
            self._bounds[name] = Bound(math.ceil(float(np.abs(values).max(initial=0))), bits)
        return self._bounds[name]

    def integers(self, name: str) -> NDArray[np.int64]:
        """A constant of integers in float32."""
        if name not in self._integers:
            values, bound = self.values(name), self.bound(name)
            if values.dtype != np.float32 or bound.fraction_bits:
                raise _RefusedError("has a constant that is not of integers")
            if bound.largest >= LARGEST_SUM:
                raise _RefusedError(f"has a constant beyond {LARGEST_SUM}")
            self._integers[name] = values.astype(np.int64)
        return self._integers[name]

    def sums(self, name: str, axis: int) -> NDArray[np.int64]:
        """Sums of a constant's magnitudes over all axes but one."""
        if (name, axis) not in self._sums:
            magnitudes = np.abs(self.integers(name))
            others = tuple(i for i in range(magnitudes.ndim) if i != axis)
            self._sums[name, axis] = magnitudes.sum(axis=others)
        return self._sums[name, axis]


@dataclass(frozen=True)
class _Inputs:
    """What a rule needs to know of a node's inputs."""

    node: Node
    known: Mapping[str, Bound | _Rows]
    constants: _Constants

    def bound(self, position: int) -> Bound:
        """Of a value, or of a constant."""
        found = self.known.get(self.name(position))
        if isinstance(found, Bound):
            return found
        if found is None:
            return self.constants.bound(self.name(position))
        raise _RefusedError("works on what is no number")

    def integers(self, position: int) -> NDArray[np.int64]:
        """A constant of integers in float32."""
        return self.constants.integers(self.name(position))

    def factors(self, position: int, axis: int) -> NDArray[np.int64]:
        """A constant of integers, each an allowed operand: the sums of magnitudes over all axes but one."""
        self.integers(position)
        if self.constants.bound(self.name(position)).largest > LARGEST_OPERAND:
            raise _RefusedError(f"has a factor beyond {LARGEST_OPERAND}")
        return self.constants.sums(self.name(position), axis)

    def constant(self, position: int) -> NDArray[Any]:
        """A finite constant."""
        self.constants.bound(self.name(position))
        return self.constants.values(self.name(position))

    def operand(self) -> int:
        """Largest magnitude of the first input, an allowed operand."""
        found = self.bound(0)
        if found.fraction_bits or found.largest > LARGEST_OPERAND:
            raise _RefusedError(f"multiplies what is not an integer of magnitude up to {LARGEST_OPERAND}")
        return found.largest

    def name(self, position: int) -> str:
        """Of an input."""
        if position >= len(self.node.inputs) or not self.node.inputs[position]:
            raise _RefusedError("lacks an input")
        return self.node.inputs[position]


def _gather(inputs: _Inputs) -> Bound:
    table = inputs.integers(0)
    rows = inputs.known.get(inputs.name(1))
    if inputs.node.attributes.get("axis", (0,)) != (0,) or not isinstance(rows, _Rows) or table.ndim != 2:
        raise _RefusedError("must pick rows of a table by an input")
    if len(table) < rows.count:
        raise _RefusedError(f"has a table of {len(table)} rows for {rows.count} values")
    return inputs.constants.bound(inputs.name(0))


def _convolution(inputs: _Inputs) -> Bound:
    if inputs.integers(1).ndim < 3:
        raise _RefusedError("must have weights [O, I, …]")
    most = inputs.factors(1, axis=0) * inputs.operand()
    if len(inputs.node.inputs) > 2:
        if inputs.integers(2).shape != most.shape:
            raise _RefusedError("must have one bias for each output")
        most = most + inputs.constants.sums(inputs.name(2), axis=0)
    return Bound(int(most.max(initial=0)))


def _matrix_product(inputs: _Inputs) -> Bound:
    if inputs.integers(1).ndim != 2:
        raise _RefusedError("must multiply by a matrix")
    return Bound(int((inputs.factors(1, axis=1) * inputs.operand()).max(initial=0)))


def _add(inputs: _Inputs) -> Bound:
    first, second = inputs.bound(0), inputs.bound(1)
    bits = max(first.fraction_bits, second.fraction_bits)
    most = sum(b.largest << (bits - b.fraction_bits) for b in (first, second))
    return Bound(most, bits)


def _scale(inputs: _Inputs) -> Bound:
    factor = inputs.constant(1)
    mantissa, exponent = math.frexp(float(factor.reshape(-1)[0])) if factor.size == 1 else (0.0, 0)
    if mantissa != 0.5 or not -23 <= exponent <= 1:
        raise _RefusedError("must scale by one power of two from 2**-24 to 1")
    found = inputs.bound(0)
    return Bound(found.largest, found.fraction_bits + 1 - exponent)


def _floor(inputs: _Inputs) -> Bound:
    found = inputs.bound(0)
    return Bound(-(-found.largest >> found.fraction_bits))


def _clip(inputs: _Inputs) -> Bound:
    found = inputs.bound(0)
    limits = [inputs.constant(i) for i in (1, 2)]
    if any(limit.size != 1 for limit in limits):
        raise _RefusedError("must clip to two numbers")
    low, high = (float(limit.reshape(-1)[0]) for limit in limits)
    if found.fraction_bits or not (low.is_integer() and high.is_integer() and low <= high):
        raise _RefusedError("must clip integers to integers")
    # A range without zero can lift a magnitude, so the limits count whatever comes in.
    return Bound(int(max(abs(low), abs(high))))


def _moved(inputs: _Inputs) -> Bound:
    return inputs.bound(0)


def _joined(inputs: _Inputs) -> Bound:
    bounds = [inputs.bound(i) for i in range(len(inputs.node.inputs))]
    bits = max(b.fraction_bits for b in bounds)
    return Bound(max(b.largest << (bits - b.fraction_bits) for b in bounds), bits)


_RULES: Final[Mapping[str, Callable[[_Inputs], Bound]]] = {
    "Gather": _gather,
    "Conv": _convolution,
    "MatMul": _matrix_product,
    "Add": _add,
    "Mul": _scale,
    "Floor": _floor,
    "Clip": _clip,
    "Concat": _joined,
    "Transpose": _moved,
    "Reshape": _moved,
    "Unsqueeze": _moved,
}
