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
class Target:
    """Integers of one phase that a pass predicts."""

    phase: tuple[int, int]
    around: _Array | None
    """[C, planes · E, 3, 3] over the known phases; None when nothing of the stage is known."""
    band: _Array
    """[bands, C] added to the first sums."""


@dataclass(frozen=True)
class PassWeights:
    """Integers of one pass."""

    own: _Array | None
    """[K + 1, E] embeddings of this stage's labels; row K, outside the grid, is zero."""
    earlier: Sequence[_Array]
    """The same for each earlier stage."""
    before: _Array | None
    """[C, E, 5, 5] over the grids of the earlier stages, around the position to predict."""
    targets: Sequence[Target]
    blocks: Sequence[tuple[Layer, Layer]]
    head: Layer
    weight_bits: int
    """Sums are scaled by 2**-weight_bits and rounded, halves up."""


class PriorWriter:
    """Collects nodes and constants of a `prior.onnx`; methods return the name of what they made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """The name of a constant. Passes share most of theirs: equal ones are kept once, under the first name."""
        array = np.asarray(values, dtype=dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.names:
            self.names[key] = name
            self.constants.append(numpy_helper.from_array(array, name))
        return self.names[key]

    def node(self, operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """An operation with one output."""
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def input(self, name: str, shape: Sequence[Any]) -> str:
        """An int32 input."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[Any]) -> None:
        """Make a value an output."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def convolution(
        self,
        x: str,
        layer: Layer,
        name: str,
        offset: np.float32,
        output: str = "",
        **attributes: int,
    ) -> str:
        """A convolution with "same" padding, `offset` added to its bias."""
        weight = self.constant(f"{name}.weight", layer.weight)
        bias = self.constant(f"{name}.bias", layer.bias + offset)
        around = layer.weight.shape[-1] // 2
        return self.node("Conv", [x, weight, bias], output or f"{name}.sum", pads=[around] * 4, **attributes)

    def to_steps(self, x: str, bits: int, name: str) -> str:
        """⌊x · 2**-bits⌋; the half that rounds is in the bias before it, which saves an addition."""
        scaled = self.node("Mul", [x, self.constant(f"scale{bits}", 2.0**-bits)], f"{name}.scaled")
        return self.node("Floor", [scaled], f"{name}.steps")

    def clip(self, x: str, name: str, *, signed: bool = False) -> str:
        """To an activation's range."""
        most = float(LARGEST_ACTIVATION)
        low = self.constant("least", -most) if signed else self.constant("zero", 0.0)
        return self.node("Clip", [x, low, self.constant("most", most)], f"{name}.clipped")

    def model(self) -> bytes:
        """The file."""
        graph = helper.make_graph(self.nodes, "prior", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data


def _add_pass(writer: PriorWriter, name: str, weights: PassWeights) -> None:
    half = np.float32(1 << weights.weight_bits >> 1)
    planes = grids = ""
    if weights.own is not None:
        planes = _known_planes(writer, name, weights)
    for t, table in enumerate(weights.earlier):
        indices = writer.input(f"{name}.earlier{t}", ["B", f"{name}.2h", f"{name}.2w"])
        label = f"{name}.earlier{t}"
        one = writer.node("Gather", [writer.constant(f"{label}.table", table), indices], f"{label}.embedded")
        grids = writer.node("Add", [grids, one], f"{label}.together") if grids else one
    if grids:
        grids = writer.node("Transpose", [grids], f"{name}.grids", perm=[0, 3, 1, 2])
    bands = writer.input(f"{name}.band", ["B", f"{name}.h"])
    firsts = []
    for target in weights.targets:
        label = f"{name}.phase{target.phase[0]}{target.phase[1]}"
        by_band = writer.constant(f"{label}.band", target.band + half)
        x = writer.node("Gather", [by_band, bands], f"{label}.by_row")
        x = writer.node("Transpose", [x], f"{label}.by_channel", perm=[0, 2, 1])
        x = writer.node("Unsqueeze", [x, writer.constant("last", [3], np.int64)], f"{label}.by_position")
        if target.around is not None:
            kernel = writer.constant(f"{label}.around", target.around)
            around = writer.node("Conv", [planes, kernel], f"{label}.around.sum", pads=[1] * 4)
            x = writer.node("Add", [around, x], f"{label}.with_around")
        if weights.before is not None:
            # Centred on every second row and column from the phase on.
            top, left = 2 - target.phase[0], 2 - target.phase[1]
            kernel = writer.constant(f"{name}.before", weights.before)
            before = writer.node(
                "Conv",
                [grids, kernel],
                f"{label}.before.sum",
                pads=[top, left, 3 - top, 3 - left],
                strides=[2, 2],
            )
            x = writer.node("Add", [before, x], f"{label}.with_before")
        firsts.append(x)
    x = writer.node("Concat", firsts, f"{name}.first", axis=0) if len(firsts) > 1 else firsts[0]
    x = writer.clip(writer.to_steps(x, weights.weight_bits, f"{name}.first"), f"{name}.first")
    for i, (inner, outer) in enumerate(weights.blocks):
        label = f"{name}.block{i}"
        branch = writer.convolution(x, inner, f"{label}.inner", half)
        branch = writer.clip(writer.to_steps(branch, weights.weight_bits, f"{label}.inner"), f"{label}.inner")
        branch = writer.convolution(branch, outer, f"{label}.outer", half)
        branch = writer.to_steps(branch, weights.weight_bits, f"{label}.outer")
        x = writer.clip(writer.node("Add", [x, branch], f"{label}.joined"), label)
    writer.convolution(x, weights.head, f"{name}.head", np.float32(0), output=f"{name}.sums")
    shape = ["phases", weights.head.weight.shape[0], f"{name}.h", f"{name}.w"]
    writer.output(f"{name}.sums", shape)


def _known_planes(writer: PriorWriter, name: str, weights: PassWeights) -> str:
    """Indices [B, planes, h, w] → features [B, planes · E, h, w]."""
    assert weights.own is not None
    assert weights.targets[0].around is not None
    count = weights.targets[0].around.shape[1] // weights.own.shape[1]
    indices = writer.input(f"{name}.known", ["B", count, f"{name}.h", f"{name}.w"])
    x = writer.node(
        "Gather", [writer.constant(f"{name}.known.table", weights.own), indices], f"{name}.known.embedded"
    )
    x = writer.node("Transpose", [x], f"{name}.known.planes_last", perm=[0, 2, 3, 1, 4])
    x = writer.node("Reshape", [x, writer.constant("flat", [0, 0, 0, -1], np.int64)], f"{name}.known.flat")
    return writer.node("Transpose", [x], f"{name}.known.planes", perm=[0, 3, 1, 2])


def prior_onnx(passes: Mapping[str, PassWeights]) -> bytes:
    """All passes in one file, not connected with each other."""
    writer = PriorWriter()
    for name, weights in passes.items():
        _add_pass(writer, name, weights)
    return writer.model()
