"""A trained rate model as the prior of a bundle: `prior.onnx` in integers, and the frequency tables."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import torch

from ndsc.codec.scalar_prior import GROUPS, MEAN_STEPS, ScalarPrior, logistic_tables
from training.integer import integers
from training.prior_graph import PriorWriter
from training.scalar import (
    LOWEST_SCALE,
    MEAN_BITS,
    SCALE_BITS,
    SCALE_STEP,
    SCALES,
    GroupNetwork,
    RateBlock,
    RateModel,
    quantized_parameters,
)


def scalar_prior(model: RateModel, channels: int) -> ScalarPrior:
    """The prior whose sums are bit for bit what `model` computes."""
    writer = PriorWriter()
    rounding = model.coarse.rounding
    for group in GROUPS[1:]:
        network = model.get_submodule(group.name)
        assert isinstance(network, GroupNetwork)
        _add_group(writer, group.name, network, len(group.known) * channels, model.bound)
    network_bytes = writer.model()
    with torch.no_grad():
        mean, scale = quantized_parameters(model.first_mean, model.first_scale, model.bound)
    sums_bits = rounding.weight_bits + rounding.activation_bits
    scales = [LOWEST_SCALE * math.exp(SCALE_STEP * i) for i in range(SCALES)]
    content = {
        "kind": "scalar",
        "frequency_bits": 16,
        "network_sha256": hashlib.sha256(network_bytes).hexdigest(),
        "planes": channels,
        "bound": model.bound,
        "mean_shift": sums_bits - MEAN_BITS,
        "scale_shift": sums_bits - SCALE_BITS,
        "tables": logistic_tables(scales, model.bound),
        "first": [
            {"mean": (MEAN_STEPS * m).int().tolist(), "scale": s.int().tolist()}
            for m, s in zip(mean, scale, strict=True)
        ],
    }
    return ScalarPrior(json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), network_bytes)


def _add_group(writer: PriorWriter, name: str, network: GroupNetwork, planes: int, bound: int) -> None:
    rounding = network.rounding
    bits, step = rounding.weight_bits, 1 << rounding.activation_bits
    half = np.float32(1 << bits >> 1)
    indices = writer.input(f"{name}.known", ["B", planes, f"{name}.h", f"{name}.w"])
    # An index stands for the index less the bound, in an activation's steps; outside the grid there is nothing.
    values = np.append(np.arange(-bound, bound + 1) * step, 0).astype(np.float32)
    x = writer.node("Gather", [writer.constant(f"{name}.values", values[:, None]), indices], f"{name}.picked")
    flat = writer.constant("flat", [0, 0, 0, -1], np.int64)
    x = writer.node("Reshape", [x, flat], f"{name}.numbers")
    x = writer.convolution(x, network.stem.layer(), f"{name}.stem", half)
    by_level = integers(rounding.sums(network.level), bits + rounding.activation_bits)
    level = writer.input(f"{name}.level", ["B"])
    row = writer.node("Gather", [writer.constant(f"{name}.levels", by_level), level], f"{name}.by_level")
    axes = writer.constant("rows_and_columns", [2, 3], np.int64)
    row = writer.node("Unsqueeze", [row, axes], f"{name}.by_channel")
    x = writer.node("Add", [x, row], f"{name}.with_level")
    x = writer.clip(writer.to_steps(x, bits, f"{name}.stem"), f"{name}.stem")
    for i, block in enumerate(network.blocks):
        assert isinstance(block, RateBlock)
        label = f"{name}.block{i}"
        branch = writer.convolution(
            x, block.depthwise.layer(), f"{label}.depthwise", half, group=block.depthwise.groups
        )
        branch = writer.clip(
            writer.to_steps(branch, bits, f"{label}.depthwise"), f"{label}.depthwise", signed=True
        )
        branch = writer.convolution(branch, block.inner.layer(), f"{label}.inner", half)
        branch = writer.clip(writer.to_steps(branch, bits, f"{label}.inner"), f"{label}.inner")
        branch = writer.convolution(branch, block.outer.layer(), f"{label}.outer", half)
        branch = writer.to_steps(branch, bits, f"{label}.outer")
        x = writer.clip(writer.node("Add", [x, branch], f"{label}.joined"), label)
    head = network.head.layer()
    writer.convolution(x, head, f"{name}.head", np.float32(0), output=f"{name}.sums")
    writer.output(f"{name}.sums", ["B", head.weight.shape[0], f"{name}.h", f"{name}.w"])
