"""Section 8.2 of proto/SPEC.md: the operations as ONNX defines them, on whole numbers of steps.

Nothing here is of the codec: numpy's int64 computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]
Shape = tuple[int, ...]
Attributes = Mapping[str, tuple[int, ...]]

LARGEST_STEP: Final = 1 << 31
"""Of pads, strides and dilations, which are below it (section 8.3)."""


@dataclass(frozen=True)
class Value:
    """Numbers that are multiples of 2^−t."""

    steps: Array
    """The numbers times 2^t."""
    t: int

    def at(self, t: int) -> Array:
        """The numbers times 2^t, for a t at least as large."""
        return self.steps << (t - self.t)


@dataclass(frozen=True)
class Node:
    """One operation, of one output."""

    operation: str
    inputs: tuple[str, ...]
    output: str
    attributes: Attributes


def computed(operation: str, given: Sequence[Value], attributes: Attributes) -> Value:
    """The output of a node. Raises ValueError or IndexError where its inputs do not fit."""
    x, others = given[0], [value.steps for value in given[1:]]
    if operation == "Gather":
        return Value(x.steps[others[0]], 0)
    if operation == "Conv":
        return Value(_convolution(x.steps, others[0], others[1] if others[1:] else None, attributes), 0)
    if operation == "MatMul":
        return Value(x.steps @ others[0], 0)
    if operation == "Add":
        t = max(x.t, given[1].t)
        return Value(x.at(t) + given[1].at(t), t)
    if operation == "Mul":
        return Value(x.steps * others[0], x.t + given[1].t)  # others[0] is 1, and may add dimensions
    if operation == "Floor":
        return Value(x.steps >> x.t, 0)
    if operation == "Clip":
        return Value(np.clip(x.steps, others[0].item(), others[1].item()), 0)
    if operation == "Concat":
        t = max(value.t for value in given)
        return Value(np.concatenate([value.at(t) for value in given], attributes["axis"][0]), t)
    numbers = others[0].tolist() if others else []
    return Value(rearranged(operation, x.steps, numbers, attributes), x.t)


def rearranged(
    operation: str, x: NDArray[Any], numbers: Sequence[int], attributes: Attributes
) -> NDArray[Any]:
    """Transpose, Reshape or Unsqueeze of any array; `numbers` are the second input.

    Raises ValueError or IndexError where they do not fit.
    """
    if operation == "Transpose":
        perm = attributes.get("perm", tuple(range(x.ndim))[::-1])
        if min(perm, default=0) < 0:
            raise ValueError("perm counts from the end")
        return x.transpose(perm)
    if operation == "Reshape":
        (allowzero,) = attributes.get("allowzero", (0,))
        if allowzero not in (0, 1):
            raise ValueError("allowzero is a truth value")
        sides = [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(numbers)]
        if min(sides, default=0) < -1:
            raise ValueError("a side below −1")
        # numpy would see products beyond 2^63 as something else.
        if prod(side for side in sides if side != -1) > x.size:
            raise ValueError(f"{x.size} numbers are too few for {sides}")
        return x.reshape(sides)
    assert operation == "Unsqueeze"
    return np.expand_dims(x, tuple(numbers))


@dataclass(frozen=True)
class Sweep:
    """How the kernel of a Conv goes over its input."""

    groups: int
    strides: Shape
    dilations: Shape
    before: Shape
    """Zeros in front of each side."""
    sides: Shape
    """Of the output, behind batch and channels."""


def sweep(x: Shape, weights: Shape, attributes: Attributes) -> Sweep:
    """For x [N, C, …] and weights [O, C / groups, …]. Raises ValueError where they do not fit."""
    kernel = weights[2:]
    if len(x) != len(weights) or not 1 <= len(kernel) <= 3:
        raise ValueError(f"weights {weights} for {x}")
    if attributes.get("kernel_shape", kernel) != kernel:
        raise ValueError("kernel_shape is not that of the weights")
    strides = attributes.get("strides", (1,) * len(kernel))
    dilations = attributes.get("dilations", (1,) * len(kernel))
    pads = attributes.get("pads", (0,) * (2 * len(kernel)))
    (groups,) = attributes.get("group", (1,))
    if min(*strides, *dilations, groups) < 1 or min(pads) < 0:
        raise ValueError("strides, dilations or group below 1, or pads below 0")
    if max(*strides, *dilations, *pads) >= LARGEST_STEP:
        raise ValueError("strides, dilations or pads of 2^31 or more")
    if x[1] != groups * weights[1] or weights[0] % groups:
        raise ValueError(f"{groups} groups do not make {weights} fit {x}")
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    sides = tuple(
        (n + a + b - (k - 1) * d - 1) // s + 1
        for n, a, b, k, d, s in zip(x[2:], before, after, kernel, dilations, strides, strict=True)
    )
    if min(sides) < 1:
        raise ValueError("the kernel is larger than what it runs over")
    return Sweep(groups, strides, dilations, before, sides)


def _convolution(x: Array, weights: Array, bias: Array | None, attributes: Attributes) -> Array:
    """x [N, C, …], weights [O, C / groups, …] → [N, O, …]. Zeros around x are left out, not multiplied."""
    over = sweep(x.shape, weights.shape, attributes)
    total = np.zeros((len(x), len(weights), *over.sides), np.int64)
    every = (slice(None), slice(None))
    axes = [list(_taps(over, i, x.shape[i + 2], k)) for i, k in enumerate(weights.shape[2:])]
    for taps in product(*axes):
        k, to, source = zip(*taps, strict=True)
        factors = weights[(..., *k)].reshape(over.groups, -1, weights.shape[1])
        seen = x[(*every, *source)]
        part = factors @ seen.reshape(len(x), over.groups, weights.shape[1], -1)
        total[(*every, *to)] += part.reshape(len(x), len(weights), *seen.shape[2:])
    return total if bias is None else total + bias.reshape(-1, *(1,) * len(over.sides))


def _taps(over: Sweep, i: int, side: int, kernel: int) -> Iterator[tuple[int, slice, slice]]:
    """Along side i, of each tap that meets x: its number, the outputs that it adds to, and what of x it takes."""
    s = over.strides[i]
    for k in range(kernel):
        first = k * over.dilations[i] - over.before[i]  # where in x it is for output 0
        start, stop = max(0, -(first // s)), min(over.sides[i], (side - 1 - first) // s + 1)
        if start < stop:
            yield k, slice(start, stop), slice(first + start * s, first + (stop - 1) * s + 1, s)
