"""Reading an ONNX file far enough to know what it computes, without the `onnx` package.

protobuf does the parsing, with a schema of just the fields used here; the others stay in the message as they
are. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from numpy.typing import NDArray

from ndsc.codec.errors import BundleError

_INT, _TEXT, _BYTES = "int", "text", "bytes"
_SCHEMA: Final[Mapping[str, Mapping[str, tuple[int, str, bool]]]] = {
    # message: field: (number, type, repeated)
    "Refused": {"name": (1, _TEXT, False)},
    "Model": {
        "ir_version": (1, _INT, False),
        "graph": (7, "Graph", False),
        "opset_import": (8, "Opset", True),
        "functions": (25, "Refused", True),
    },
    "Opset": {"domain": (1, _TEXT, False), "version": (2, _INT, False)},
    "Graph": {
        "node": (1, "Node", True),
        "initializer": (5, "Tensor", True),
        "input": (11, "Value", True),
        "output": (12, "Value", True),
        "value_info": (13, "Refused", True),
        "sparse_initializer": (15, "Refused", True),
    },
    "Node": {
        "input": (1, _TEXT, True),
        "output": (2, _TEXT, True),
        "op_type": (4, _TEXT, False),
        "attribute": (5, "Attribute", True),
        "domain": (7, _TEXT, False),
    },
    "Attribute": {
        "name": (1, _TEXT, False),
        "i": (3, _INT, False),
        "ints": (8, _INT, True),
        "type": (20, _INT, False),
    },
    "Value": {"name": (1, _TEXT, False), "type": (2, "Type", False)},
    "Type": {"tensor_type": (1, "TensorType", False)},
    "TensorType": {"elem_type": (1, _INT, False), "shape": (2, "Shape", False)},
    "Shape": {"dim": (1, "Side", True)},
    "Side": {"dim_value": (1, _INT, False)},
    "Tensor": {
        "dims": (1, _INT, True),
        "data_type": (2, _INT, False),
        "name": (8, _TEXT, False),
        "raw_data": (9, _BYTES, False),
        "external_data": (13, "Refused", True),
        "data_location": (14, _INT, False),
    },
}
_TYPES: Final = {_INT: 3, _TEXT: 9, _BYTES: 12}  # int64, string, bytes
_LONGEST_NAME: Final = 200
_PACKAGE: Final = "ndsc.onnx"
_OPSETS: Final = range(18, 21)
"""In which the operations of a prior mean the same."""
_UNDECLARED, _FLOAT32, _INT32, _INT64 = 0, 1, 6, 7
_DTYPES: Final = {_FLOAT32: "<f4", _INT32: "<i4", _INT64: "<i8"}
_ATTRIBUTE_INT, _ATTRIBUTE_INTS = 2, 7
MOST_PARTS: Final = 1 << 12
"""Nodes, constants, inputs and outputs of a graph, each: a file of empty ones would take 140 times its size."""


def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="ndsc_onnx.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _SCHEMA.items():
        declared = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            added = declared.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in _TYPES:
                added.type = _TYPES[kind]  # type: ignore[assignment]
            else:
                added.type, added.type_name = 11, f".{_PACKAGE}.{kind}"  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))


_Model = _model_class()


@dataclass(frozen=True)
class Node:
    """One operation."""

    operation: str
    inputs: tuple[str, ...]
    """Names; the empty name is an optional input left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, tuple[int, ...]]
    """Integers only."""


@dataclass(frozen=True)
class Input:
    """What a file says of an input of its graph."""

    integers: bool
    """Of int32."""
    shape: tuple[int | None, ...] | None = None
    """None for a side that is not declared, or for all of them."""


@dataclass(frozen=True)
class Graph:
    """What an ONNX file computes."""

    nodes: tuple[Node, ...]
    """In an order in which they can run."""
    constants: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]


def _parse(onnx_bytes: bytes, name: str) -> Any:
    model = _Model()
    try:
        model.ParseFromString(onnx_bytes)
    except (message.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{name} is not an ONNX file: {error}") from error
    return model


def read(onnx_bytes: bytes, name: str) -> Graph:
    """Read an ONNX file; `name` is for messages.

    Raises BundleError for what is no ONNX file of opset 18 to 20, and for operators of other domains, functions of
    the file's own, subgraphs, attributes other than integers, anything named twice, too many parts, constants that
    are not float32, int32 or int64 stored in the file itself, and outputs that are not float32.
    """
    model = _parse(onnx_bytes, name)
    graph = model.graph
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if len(opsets) != 1 or opsets[0][0] not in ("", "ai.onnx") or opsets[0][1] not in _OPSETS:
        raise BundleError(f"{name} must be of opset 18, 19 or 20 and of no other operator set")
    if model.functions or graph.sparse_initializer:
        raise BundleError(f"{name} holds functions or sparse constants, which no prior needs")
    if max(map(len, (graph.node, graph.initializer, graph.input, graph.output))) > MOST_PARTS:
        raise BundleError(f"{name} has more than {MOST_PARTS} nodes, constants, inputs or outputs")
    for text in _texts(graph):
        # protobuf hands out text that is no UTF-8 as bytes.
        if not isinstance(text, str) or not text.isprintable() or len(text) > _LONGEST_NAME:
            raise BundleError(
                f"{name} holds a name that is not {_LONGEST_NAME} printable characters or fewer"
            )
    given = [*(tensor.name for tensor in graph.initializer), *(o for node in graph.node for o in node.output)]
    given += [value.name for value in graph.input]
    if len(set(given)) != len(given):
        raise BundleError(f"{name} gives a name twice")
    constants = {tensor.name: _array(tensor, name) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise BundleError(f"{name}: operator {node.op_type} of domain {node.domain} is not known here")
        attributes = {}
        if len(node.output) != 1 or not node.input:
            raise BundleError(f"{name}: {node.op_type} must have inputs and one output")
        for attribute in node.attribute:
            if attribute.name in attributes:
                raise BundleError(f"{name}: {node.op_type} has the attribute {attribute.name} twice")
            if attribute.type not in (_ATTRIBUTE_INT, _ATTRIBUTE_INTS):
                raise BundleError(f"{name}: {node.op_type} has an attribute that is not of integers")
            single = attribute.type == _ATTRIBUTE_INT
            attributes[attribute.name] = (attribute.i,) if single else tuple(attribute.ints)
        nodes.append(Node(node.op_type, tuple(node.input), tuple(node.output), attributes))
    for output in graph.output:
        if output.type.tensor_type.elem_type not in (_UNDECLARED, _FLOAT32):
            raise BundleError(f"{name}: output {output.name} is not declared as float32")
    inputs = {value.name: _declared(value.type.tensor_type) for value in graph.input}
    return Graph(tuple(nodes), constants, inputs, tuple(value.name for value in graph.output))


def _declared(tensor: Any) -> Input:
    sides = None
    if tensor.HasField("shape"):
        sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return Input(tensor.elem_type == _INT32, sides)


def _texts(graph: Any) -> Iterator[object]:
    for values in (graph.initializer, graph.input, graph.output):
        yield from (value.name for value in values)
    for node in graph.node:
        yield from (node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _array(tensor: Any, name: str) -> NDArray[Any]:
    dtype = _DTYPES.get(tensor.data_type)
    shape = tuple(tensor.dims)
    if tensor.external_data or tensor.data_location:
        raise BundleError(f"{name}: constant {tensor.name} lies in another file")
    if dtype is None or any(side < 1 for side in shape):
        raise BundleError(f"{name}: constant {tensor.name} is not float32, int32 or int64, or is empty")
    try:
        return np.frombuffer(tensor.raw_data, dtype).reshape(shape)
    except ValueError as error:
        raise BundleError(f"{name}: constant {tensor.name} is not stored whole in the file") from error


def cut(onnx_bytes: bytes, output: str, name: str) -> bytes:
    """The part of an ONNX file that computes `output`, as an ONNX file. Raises BundleError without one."""
    model = _parse(onnx_bytes, name)
    graph = model.graph
    wanted = {output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    if not kept:
        raise BundleError(f"{name} does not compute {output}")
    nodes = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # shapes that nobody has checked
    for values in (graph.initializer, graph.input, graph.output):
        stays = [value for value in values if value.name in wanted]
        del values[:]
        values.extend(stays)
    data: bytes = model.SerializeToString()
    return data
