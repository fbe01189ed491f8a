"""The prior of a scalar quantizer as a bundle holds it: `prior.onnx` in integers, and the frequency tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ndsc.codec.scalar_prior import GROUPS, ScalarPrior, logistic_tables
from training.prior_graph import Layer, PriorWriter


@dataclass(frozen=True)
class BlockLayers:
    """Integers of a residual block."""

    depthwise: Layer
    inner: Layer
    outer: Layer


@dataclass(frozen=True)
class GroupLayers:
    """Integers of the network of one group."""

    stem: Layer
    level: npt.NDArray[np.float32]
    """[rate levels, hidden] added to the stem's sums."""
    blocks: Sequence[BlockLayers]
    head: Layer
    """Means of all phases and planes, then their scales."""


@dataclass(frozen=True)
class Steps:
    """How numbers are counted, in bits behind the point."""

    activation_bits: int = 4
    weight_bits: int = 7
    mean_bits: int = 2
    """Two: whole quarters."""
    scale_bits: int = 3
    """A sum of 1 is 2**scale_bits scales."""


def scalar_prior(
    groups: Mapping[str, GroupLayers],
    first: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    bound: int,
    scales: Sequence[float],
    steps: Steps,
) -> ScalarPrior:
    """The prior of these networks.

    Args:
        groups: by name, all of `GROUPS` but the first.
        first: for each rate level the first group's means, in quarters, and scales, of each plane.
        bound: indices stand for -bound to bound.
        scales: of the logistic densities.
        steps: of the networks' numbers.
    """
    writer = PriorWriter()
    planes = len(first[0][0])
    for group in GROUPS[1:]:
        _add_group(writer, group.name, groups[group.name], len(group.known) * planes, bound, steps)
    network = writer.model()
    sum_bits = steps.weight_bits + steps.activation_bits
    content = {
        "kind": "scalar",
        "frequency_bits": 16,
        "network_sha256": hashlib.sha256(network).hexdigest(),
        "planes": planes,
        "bound": bound,
        "mean_shift": sum_bits - steps.mean_bits,
        "scale_shift": sum_bits - steps.scale_bits,
        "tables": logistic_tables(scales, bound),
        "first": [{"mean": list(mean), "scale": list(scale)} for mean, scale in first],
    }
    return ScalarPrior(json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), network)


def _add_group(
    writer: PriorWriter, name: str, layers: GroupLayers, planes: int, bound: int, steps: Steps
) -> None:
    bits = steps.weight_bits
    half = np.float32(1 << bits >> 1)
    indices = writer.input(f"{name}.known", ["B", planes, f"{name}.h", f"{name}.w"])
    # An index stands for the index less the bound, in an activation's steps; outside the grid there is nothing.
    values = np.append(np.arange(-bound, bound + 1) * (1 << steps.activation_bits), 0).astype(np.float32)
    x = writer.node("Gather", [writer.constant(f"{name}.values", values[:, None]), indices], f"{name}.picked")
    flat = writer.constant("flat", [0, 0, 0, -1], np.int64)
    x = writer.node("Reshape", [x, flat], f"{name}.numbers")
    x = writer.convolution(x, layers.stem, f"{name}.stem", half)
    level = writer.input(f"{name}.level", ["B"])
    row = writer.node("Gather", [writer.constant(f"{name}.levels", layers.level), level], f"{name}.by_level")
    axes = writer.constant("rows_and_columns", [2, 3], np.int64)
    row = writer.node("Unsqueeze", [row, axes], f"{name}.by_channel")
    x = writer.node("Add", [x, row], f"{name}.with_level")
    x = writer.clip(writer.to_steps(x, bits, f"{name}.stem"), f"{name}.stem")
    for i, block in enumerate(layers.blocks):
        label = f"{name}.block{i}"
        branch = writer.convolution(
            x, block.depthwise, f"{label}.depthwise", half, group=len(block.depthwise.weight)
        )
        branch = writer.clip(
            writer.to_steps(branch, bits, f"{label}.depthwise"), f"{label}.depthwise", signed=True
        )
        branch = writer.convolution(branch, block.inner, f"{label}.inner", half)
        branch = writer.clip(writer.to_steps(branch, bits, f"{label}.inner"), f"{label}.inner")
        branch = writer.convolution(branch, block.outer, f"{label}.outer", half)
        branch = writer.to_steps(branch, bits, f"{label}.outer")
        x = writer.clip(writer.node("Add", [x, branch], f"{label}.joined"), label)
    writer.convolution(x, layers.head, f"{name}.head", np.float32(0), output=f"{name}.sums")
    writer.output(f"{name}.sums", ["B", layers.head.weight.shape[0], f"{name}.h", f"{name}.w"])
