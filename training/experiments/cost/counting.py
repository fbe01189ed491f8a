"""Parameters and multiply-accumulates (MAC) of torch modules and ONNX graphs.

What counts as MAC is the same for both: convolutions, transposed convolutions and matrix products, attention's
included. Elementwise work, look-ups, normalisation and softmax are left out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Count:
    """Of one network."""

    parameters: int
    mac: int
    """Multiply-accumulates of one run."""


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """Numbers that are learned, those that modules share counted once; running means and codebooks are buffers."""
    return sum(p.numel() for p in nn.ModuleList(modules).parameters())


def count_module(module: nn.Module, *inputs: Tensor) -> Count:
    """Of one call with these inputs. Nothing is computed: a copy runs on shapes alone."""
    copied = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copied(*(x.to("meta") for x in inputs))
    return Count(count_parameters([module]), counter.get_total_flops() // 2)


def count_onnx(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Count:
    """Of one run with these inputs; parameters are all numbers of float constants, codebooks included, and of
    integer ones that are dequantized. The scales and zero points of that are none.

    Shapes inside the graph are those of a run, with nothing optimised away.
    """
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    counted = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")]
    made = {name for node in model.graph.node for name in node.output}
    wanted = {name for node in counted for name in (*node.input[:2], node.output[0]) if name in made}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - known))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, ["CPUExecutionProvider"])
    values = dict(zip(sorted(wanted), session.run(sorted(wanted), dict(feeds)), strict=True))
    shapes = {name: value.shape for name, value in {**constants, **feeds, **values}.items()}
    quantizing = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in quantizing for name in node.input[1:]}
    integers = {node.input[0] for node in quantizing if node.op_type == "DequantizeLinear"}
    return Count(
        sum(
            c.size
            for name, c in constants.items()
            if name in integers or (np.issubdtype(c.dtype, np.floating) and name not in scales)
        ),
        sum(_node_mac(node, shapes) for node in counted),
    )


def _node_mac(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    left, right, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        # Each output sees a group's input channels at every tap; the weight is [O, I / groups, taps…].
        return math.prod(made) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        # Each input goes to a group's output channels at every tap; the weight is [I, O / groups, taps…].
        return math.prod(left) * math.prod(right[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(made) * (left[0] if transposed else left[-1])
