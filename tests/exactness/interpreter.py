"""prior.onnx run by torch, operation by operation: nothing of onnxruntime takes part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ndsc.codec import onnx_graph
from tests.exactness.sessions import Feeds

Attributes = Mapping[str, tuple[int, ...]]


class Interpreter:
    """One pass; a `Session`. Raises NotImplementedError for an operation or an attribute it does not know."""

    def __init__(self, onnx_bytes: bytes, name: str) -> None:
        self._graph = onnx_graph.read(onnx_bytes, f"prior.onnx ({name})")
        self._constants = {n: torch.tensor(array) for n, array in self._graph.constants.items()}
        for node in self._graph.nodes:
            if (
                node.operation not in _OPERATIONS
                or not set(node.attributes) <= _OPERATIONS[node.operation][1]
            ):
                raise NotImplementedError(f"{node.operation} with {sorted(node.attributes)}")

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        """See Session."""
        sums: NDArray[np.float32] = self.values(feeds)[self._graph.outputs[0]].numpy()
        return sums

    def values(self, feeds: Feeds) -> dict[str, Tensor]:
        """Every value of the graph by its name."""
        known = self._constants | {name: torch.tensor(array) for name, array in feeds.items()}
        with torch.inference_mode():
            for node in self._graph.nodes:
                operation = _OPERATIONS[node.operation][0]
                known[node.outputs[0]] = operation([known[name] for name in node.inputs], node.attributes)
        return known


def _convolution(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = F.pad(x[0], (left, right, top, bottom))
    strides, (groups,) = attributes.get("strides", (1, 1)), attributes.get("group", (1,))
    return F.conv2d(padded, x[1], x[2] if len(x) > 2 else None, strides, groups=groups)


def _reshape(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    sides = x[1].tolist()
    return x[0].reshape([x[0].shape[i] if side == 0 else side for i, side in enumerate(sides)])


def _unsqueeze(x: Sequence[Tensor], attributes: Attributes) -> Tensor:
    axes = sorted(x[1].tolist())
    if axes and axes[0] < 0:
        raise NotImplementedError("Unsqueeze with an axis counted from the end")
    made = x[0]
    for axis in axes:
        made = made.unsqueeze(axis)
    return made


_OPERATIONS: Final[Mapping[str, tuple[Callable[[Sequence[Tensor], Attributes], Tensor], set[str]]]] = {
    # operation: (what it does, the attributes it heeds)
    "Gather": (lambda x, a: x[0][x[1].long()], set()),
    "Conv": (_convolution, {"pads", "strides", "group"}),
    "Add": (lambda x, a: x[0] + x[1], set()),
    "Mul": (lambda x, a: x[0] * x[1], set()),
    "Floor": (lambda x, a: x[0].floor(), set()),
    "Clip": (lambda x, a: x[0].clamp(x[1], x[2]), set()),
    "Concat": (lambda x, a: torch.cat(list(x), a["axis"][0]), {"axis"}),
    "Transpose": (lambda x, a: x[0].permute(*a["perm"]), {"perm"}),
    "Reshape": (_reshape, set()),
    "Unsqueeze": (_unsqueeze, set()),
}
