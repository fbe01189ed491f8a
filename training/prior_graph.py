"""Writing `prior.onnx`: integers held in float32, in operations that `ndsc.codec.exact` can prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 20
IR_VERSION: Final = 10
"""Read by every onnxruntime since 1.18."""
LARGEST_ACTIVATION: Final = 255

_Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """Integers of one convolution: `weight` [O, I, k, k], `bias` [O] at the scale of the sum."""

    weight: _Array
    bias: _Array


@dataclass(frozen=True)
class PassWeights:
    """Integers of one pass."""

    own: _Array | None
    """[K + 1, E] embeddings of this stage's indices; row K, outside the grid, is zero."""
    earlier: Sequence[_Array]
    """The same for each earlier stage."""
    first: Layer
    """3×3, of all planes."""
    band: _Array
    """[bands, C] added to the first layer's sums."""
    blocks: Sequence[tuple[Layer, Layer]]
    head: Layer
    weight_bits: int
    """Sums are scaled by 2**-weight_bits and rounded, halves up."""


class _Writer:
    """Collects nodes and constants; every method returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        if name not in {tensor.name for tensor in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def node(self, operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def input(self, name: str, shape: Sequence[Any]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, list(shape)))
        return name

    def convolution(self, x: str, layer: Layer, name: str) -> str:
        weight, bias = self.constant(f"{name}.weight", layer.weight), self.constant(f"{name}.bias", layer.bias)
        around = layer.weight.shape[-1] // 2
        return self.node("Conv", [x, weight, bias], f"{name}.sum", pads=[around] * 4)

    def to_steps(self, x: str, bits: int, name: str) -> str:
        """⌊x · 2**-bits + 1/2⌋."""
        scaled = self.node("Mul", [x, self.constant(f"scale{bits}", 2.0**-bits)], f"{name}.scaled")
        raised = self.node("Add", [scaled, self.constant("half", 0.5)], f"{name}.raised")
        return self.node("Floor", [raised], f"{name}.steps")

    def clip(self, x: str, name: str) -> str:
        limits = [self.constant("zero", 0.0), self.constant("most", float(LARGEST_ACTIVATION))]
        return self.node("Clip", [x, *limits], f"{name}.clipped")


def _add_pass(writer: _Writer, name: str, weights: PassWeights) -> None:
    def embedded(suffix: str, table: _Array, planes: Any) -> str:
        indices = writer.input(f"{name}.{suffix}", ["B", planes, f"{name}.h", f"{name}.w"])
        return writer.node(
            "Gather", [writer.constant(f"{name}.{suffix}.table", table), indices], f"{name}.{suffix}.embedded"
        )

    embedding = weights.band.shape[1]
    width = weights.first.weight.shape[1]
    parts = []
    if weights.own is not None:
        embedding = weights.own.shape[1]
        parts.append(embedded("known", weights.own, width // embedding - (4 if weights.earlier else 0)))
    together = ""
    for t, table in enumerate(weights.earlier):
        one = embedded(f"earlier{t}", table, 4)
        together = writer.node("Add", [together, one], f"{name}.together{t}") if together else one
    if together:
        parts.append(together)
    x = writer.node("Concat", parts, f"{name}.planes", axis=1) if len(parts) > 1 else parts[0]
    # [B, planes, h, w, E] → [B, planes · E, h, w]
    x = writer.node("Transpose", [x], f"{name}.planes_last", perm=[0, 2, 3, 1, 4])
    flat = writer.constant("flat", [0, 0, 0, -1], np.int64)
    x = writer.node("Reshape", [x, flat], f"{name}.features_last")
    x = writer.node("Transpose", [x], f"{name}.features", perm=[0, 3, 1, 2])
    bands = writer.input(f"{name}.band", ["B", f"{name}.h"])
    by_row = writer.node("Gather", [writer.constant(f"{name}.band.table", weights.band), bands], f"{name}.by_row")
    by_row = writer.node("Transpose", [by_row], f"{name}.by_channel", perm=[0, 2, 1])
    by_row = writer.node("Unsqueeze", [by_row, writer.constant("last", [3], np.int64)], f"{name}.by_position")
    x = writer.convolution(x, weights.first, f"{name}.first")
    x = writer.node("Add", [x, by_row], f"{name}.first.with_band")
    x = writer.clip(writer.to_steps(x, weights.weight_bits, f"{name}.first"), f"{name}.first")
    for i, (inner, outer) in enumerate(weights.blocks):
        label = f"{name}.block{i}"
        branch = writer.convolution(x, inner, f"{label}.inner")
        branch = writer.clip(writer.to_steps(branch, weights.weight_bits, f"{label}.inner"), f"{label}.inner")
        branch = writer.convolution(branch, outer, f"{label}.outer")
        branch = writer.to_steps(branch, weights.weight_bits, f"{label}.outer")
        x = writer.clip(writer.node("Add", [x, branch], f"{label}.joined"), label)
    # The head as a product over the last axis: the logits of a position then lie together.
    x = writer.node("Transpose", [x], f"{name}.positions", perm=[0, 2, 3, 1])
    matrix = writer.constant(f"{name}.head.weight", np.ascontiguousarray(weights.head.weight[:, :, 0, 0].T))
    x = writer.node("MatMul", [x, matrix], f"{name}.head.product")
    x = writer.node("Add", [x, writer.constant(f"{name}.head.bias", weights.head.bias)], f"{name}.head.sum")
    steps = writer.to_steps(x, weights.weight_bits, f"{name}.head")
    writer.nodes[-1].output[0] = f"{name}.logits"
    assert steps
    logits = weights.head.weight.shape[0]
    writer.outputs.append(
        helper.make_tensor_value_info(
            f"{name}.logits", TensorProto.FLOAT, ["B", f"{name}.h", f"{name}.w", logits]
        )
    )


def prior_onnx(passes: Mapping[str, PassWeights]) -> bytes:
    """All passes in one file, not connected with each other."""
    writer = _Writer()
    for name, weights in passes.items():
        _add_pass(writer, name, weights)
    graph = helper.make_graph(writer.nodes, "prior", writer.inputs, writer.outputs, writer.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data
