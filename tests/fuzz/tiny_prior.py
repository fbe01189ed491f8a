"""A context prior small enough to be read hundreds of times, with every operation that the proof knows."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ndsc.codec.context import softmax_weights
from ndsc.codec.schedule import BANDS, PHASES

OPSET, IR_VERSION = 18, 9
SIZES: Final = (4, 8)
"""The second stage has two bits of low digit."""
_LOGITS: Final = 2 * (1 + 4)
_EMBEDDING: Final = 2


def network() -> bytes:
    """prior.onnx: one pass, all positions of the second stage from those of the first."""
    rng = np.random.Generator(np.random.PCG64(0))

    def integers(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.integers(-9, 10, shape).astype(np.float32), name)

    def number(name: str, value: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, np.float32), name)

    def sizes(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    nodes = [
        helper.make_node("Gather", ["table", "s1g0.earlier0"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "mix"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["grids"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["grids", "around", "bias"], ["sums"], strides=[2, 2]),
        helper.make_node("Gather", ["bands", "s1g0.band"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["columns", "last"], ["by_row"]),
        helper.make_node("Add", ["sums", "by_row"], ["both"]),
        helper.make_node("Mul", ["both", "half"], ["halves"]),
        helper.make_node("Floor", ["halves"], ["steps"]),
        helper.make_node("Clip", ["steps", "least", "most"], ["clipped"]),
        helper.make_node("Reshape", ["clipped", "same"], ["features"]),
        helper.make_node("Conv", ["features", "head"], ["logits"]),
        helper.make_node("Concat", ["logits"] * len(PHASES), ["s1g0.sums"], axis=0),
    ]
    constants = [
        integers("table", SIZES[0] + 1, _EMBEDDING),
        integers("mix", _EMBEDDING, _EMBEDDING),
        integers("around", 3, _EMBEDDING, 2, 2),
        integers("bias", 3),
        integers("bands", BANDS, 3),
        sizes("last", 3),
        number("half", 0.5),
        number("least", 0),
        number("most", 255),
        sizes("same", 0, 0, 0, -1),
        integers("head", _LOGITS, 3, 1, 1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("s1g0.earlier0", TensorProto.INT32, ["B", "2h", "2w"]),
            helper.make_tensor_value_info("s1g0.band", TensorProto.INT32, ["B", "h"]),
        ],
        [helper.make_tensor_value_info("s1g0.sums", TensorProto.FLOAT, ["phases", _LOGITS, "h", "w"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def content(network_bytes: bytes) -> dict[str, Any]:
    """What prior.json says, for a network of these bytes."""
    phases = [list(phase) for phase in PHASES]
    table = [[band - index for index in range(SIZES[0])] for band in range(BANDS)]
    first = {"scale": 0, "phases": phases, "table": table}
    return {
        "kind": "context",
        "frequency_bits": 16,
        "network_sha256": hashlib.sha256(network_bytes).hexdigest(),
        "weights": softmax_weights(0.25),
        "logit_shift": 2,
        "stages": [
            {"codebook_size": 4, "low_bits": 0, "order": [2, 0, 3, 1], "groups": [first]},
            {
                "codebook_size": 8,
                "low_bits": 2,
                "order": [7, 6, 5, 4, 3, 2, 1, 0],
                "groups": [{"scale": 0, "phases": phases}],
            },
        ],
    }


def prior_json(network_bytes: bytes) -> bytes:
    """prior.json for a network of these bytes."""
    return json.dumps(content(network_bytes)).encode()
