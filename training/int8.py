"""The encoder in 8-bit integers: a camera node's CPU multiplies them about twice as fast as floats.

Nothing on the wire depends on it: the indices that are sent are the ones the encoder made, whatever it computed
with. The prior, which both ends must compute alike, is exact by itself (`ndsc.codec.exact`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from ndsc.codec.frames import to_float
from training.data import Frame, jitter, render_drives

CALIBRATION_SEED = 2000
"""Drives from here on: neither the training drives nor the demo's."""
CALIBRATION_DRIVES = 24


def calibration_frames() -> list[Frame]:
    """Frames uint8 [128, 256, 3] that show which values activations take: synthetic drives in changing light.

    On validation frames an encoder calibrated on them lost no more than one calibrated on street frames
    (docs/LOG.md, 2026-11-27), and anyone can make them.
    """
    rng = np.random.default_rng(CALIBRATION_SEED)
    drives = render_drives(CALIBRATION_DRIVES, seed=CALIBRATION_SEED, width=256, height=128)
    return [jitter(pair.left, rng, 0.25) for pair in drives]


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    """Feeds frames one by one; levels do not matter, since they only scale what comes out."""

    def __init__(self, frames: Sequence[Frame], inputs: Sequence[str]) -> None:
        self._feeds = iter([self._feed(frame, inputs) for frame in frames])

    @staticmethod
    def _feed(frame: Frame, inputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        feed: Mapping[str, NDArray[Any]] = {
            "frame": to_float(frame)[None],
            "rate_level": np.zeros(1, np.int64),
        }
        return {name: feed[name] for name in inputs}

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def in_int8(encoder_onnx: bytes, frames: Sequence[Frame]) -> bytes:
    """`encoder.onnx` with its convolutions in 8-bit integers, but the first and the last.

    Weights int8 by output channel, activations uint8 in the ranges that `frames` uint8 [H, W, 3] show. Weights
    take 7 bits: x86 without VNNI adds pairs of products in 16 bits, where 8 saturate.
    """
    levels = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the quantizer's advice to preprocess, which has been done
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, folded, quantized = (Path(folder, name) for name in ("plain", "folded", "quantized"))
            plain.write_bytes(encoder_onnx)
            # The weights of 1x1 convolutions are reshaped in the graph: unfolded they would count as activations.
            quant_pre_process(plain, folded, skip_symbolic_shape=True)
            model = onnx.load(folded)
            convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
            quantize_static(
                folded,
                quantized,
                _Frames(frames, [value.name for value in model.graph.input]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
                # Pixels and latents keep their floats: both convolutions are a few percent of the work.
                nodes_to_exclude=[convolutions[0], convolutions[-1]],
                calibrate_method=CalibrationMethod.MinMax,
            )
            model = onnx.load(quantized)
    finally:
        logging.root.setLevel(levels)
    original = onnx.load_model_from_string(encoder_onnx)
    model.ir_version = original.ir_version
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    del model.metadata_props[:]
    del model.opset_import[:]
    model.opset_import.extend(original.opset_import)
    onnx.checker.check_model(model)
    quantized_onnx: bytes = model.SerializeToString()
    return quantized_onnx
