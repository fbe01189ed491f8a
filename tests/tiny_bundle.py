"""A bundle small enough to make in every test run, whose graphs are written down here node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ndsc.codec.frames import Geometry
from ndsc.codec.prior import StaticPrior

OPSET, IR_VERSION = 18, 9
STRIDE = 8
# Three stages of different size, so that a test sees it when stages are mixed up.
CODEBOOK_SIZES = (16, 8, 4)
RATE_LEVELS = (1, 2, 3)


def _constant(name: str, values: Any, dtype: type) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _encoder_onnx() -> bytes:
    """Stage s codes the mean of colour channel s over 8x8 pixels, in as many steps as its codebook has."""
    pooling = np.zeros((3, 3 * STRIDE**2, 1, 1))
    for stage, size in enumerate(CODEBOOK_SIZES):
        # SpaceToDepth puts the channel last: position k of 192 is colour k mod 3.
        pooling[stage, stage::3] = size / STRIDE**2
    highest = np.reshape(CODEBOOK_SIZES, (1, 3, 1, 1)) - 1
    return _model(
        [
            helper.make_node("SpaceToDepth", ["frame"], ["blocks"], blocksize=STRIDE),
            helper.make_node("Conv", ["blocks", "pooling", "nudge"], ["means"]),
            helper.make_node("Floor", ["means"], ["steps"]),
            helper.make_node("Min", ["steps", "highest"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["indices"], to=TensorProto.INT32),
        ],
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["B", 3, "H", "W"])],
        [helper.make_tensor_value_info("indices", TensorProto.INT32, ["B", 3, "h", "w"])],
        [
            _constant("pooling", pooling, np.float32),
            # Means of 8-bit pixels are 2e-4 of a step apart or more: floats now round down as integers do.
            _constant("nudge", np.full(3, 1e-4), np.float32),
            _constant("highest", highest, np.float32),
        ],
    )


def _decoder_onnx(layers: int) -> bytes:
    """Colour s is (index + 0.5) / size where stage s was sent, else 0; plus (y - 0.5) / 4 if y is there."""
    ballast, weights = _ballast(layers)
    painting = np.zeros((3 * STRIDE**2, 3, 1, 1))
    for stage in range(3):
        painting[stage::3, stage] = 1  # DepthToSpace undoes SpaceToDepth
    return _model(
        [
            helper.make_node("Gather", ["rate_levels", "rate_level"], ["sent"]),
            helper.make_node("Reshape", ["sent", "per_sample"], ["sent_4d"]),
            helper.make_node("Less", ["stage_numbers", "sent_4d"], ["is_sent"]),
            helper.make_node("Cast", ["is_sent"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["indices"], ["steps"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["steps", "half"], ["centres"]),
            helper.make_node("Div", ["centres", "sizes"], ["values"]),
            helper.make_node("Mul", ["values", "mask"], ["known"]),
            helper.make_node("Conv", ["known", "painting"], ["blocks"]),
            helper.make_node("DepthToSpace", ["blocks"], ["picture"], blocksize=STRIDE),
            helper.make_node("Reshape", ["side_present", "per_sample"], ["present_4d"]),
            helper.make_node("Sub", ["side_information", "half"], ["centred"]),
            helper.make_node("Mul", ["centred", "present_4d"], ["gated"]),
            helper.make_node("Mul", ["gated", "quarter"], ["correction"]),
            helper.make_node("Add", ["picture", "correction"], ["plain_frame"]),
            *ballast,
        ],
        [
            helper.make_tensor_value_info("indices", TensorProto.INT32, ["B", 3, "h", "w"]),
            helper.make_tensor_value_info("rate_level", TensorProto.INT64, ["B"]),
            helper.make_tensor_value_info("side_information", TensorProto.FLOAT, ["B", 3, "H", "W"]),
            helper.make_tensor_value_info("side_present", TensorProto.FLOAT, ["B"]),
        ],
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["B", 3, "H", "W"])],
        [
            _constant("rate_levels", RATE_LEVELS, np.int64),
            _constant("per_sample", [-1, 1, 1, 1], np.int64),
            _constant("stage_numbers", np.arange(3).reshape(1, 3, 1, 1), np.int64),
            _constant("half", 0.5, np.float32),
            _constant("quarter", 0.25, np.float32),
            _constant("sizes", np.reshape(CODEBOOK_SIZES, (1, 3, 1, 1)), np.float32),
            _constant("painting", painting, np.float32),
            *weights,
        ],
    )


def _ballast(layers: int) -> tuple[list[Any], list[Any]]:
    """(nodes, constants) that add nothing to the frame, which takes them long."""
    if not layers:
        return [helper.make_node("Identity", ["plain_frame"], ["frame"])], []
    channels = (3, *[64] * layers, 3)
    names = ["plain_frame", *(f"ballast_{layer}" for layer in range(layers)), "nothing"]
    nodes, weights = [], []
    for layer in range(layers + 1):
        weight = f"{names[layer + 1]}_weight"
        nodes.append(helper.make_node("Conv", [names[layer], weight], [names[layer + 1]], pads=[1, 1, 1, 1]))
        weights.append(_constant(weight, np.zeros((channels[layer + 1], channels[layer], 3, 3)), np.float32))
    nodes.append(helper.make_node("Add", ["plain_frame", "nothing"], ["frame"]))
    return nodes, weights


def parts(*, decoder_layers: int = 0) -> dict[str, Any]:
    """Keyword arguments of `write_bundle` for the tiny bundle; change a copy to make another.

    `decoder_layers` of 3x3 convolutions, 64 channels at full size, make the decoder slow and change nothing else.
    """
    return {
        "name": "tiny",
        "encoder_onnx": _encoder_onnx(),
        "decoder_onnx": _decoder_onnx(decoder_layers),
        "prior": StaticPrior.from_counts([np.arange(1, size + 1) for size in CODEBOOK_SIZES]),
        "geometry": Geometry(stride=STRIDE, max_side=2048, max_pixels=1 << 20),
        "rate_levels": RATE_LEVELS,
        "training": {"data": "none: the graphs are fixed maps"},
        "licence": "Apache-2.0",
        "opset": OPSET,
        "ir_version": IR_VERSION,
    }
