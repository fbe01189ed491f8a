"""Networks that differ in one point from the codec's: refused, allowed, or of shapes that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.unit.context_prior import tiny_prior


def constant(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: Any, operation: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == operation)


def set_number(which: int, number: float, operation: str = "Conv") -> Callable[[Any], None]:
    """One number of a constant input of the first such node."""

    def change(model: Any) -> None:
        tensor = constant(model, node(model, operation).input[which])
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[0] = number
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def a_bias_of_all_but_1(model: Any) -> None:
    head = next(node for node in model.graph.node if node.output[0] == "s2g0.sums")
    bias = constant(model, head.input[2])
    array = numpy_helper.to_array(bias).copy()
    array[0] = 2**24 - 1
    bias.CopyFrom(numpy_helper.from_array(array, bias.name))


def steps_too_small(model: Any) -> None:
    """2^-5 and 2^-20, one after the other."""
    first = next(n for n, node in enumerate(model.graph.node) if node.op_type == "Mul")
    before = helper.make_node("Mul", [model.graph.node[first].input[0], "2^-20"], ["smaller"])
    model.graph.node[first].input[0] = "smaller"
    model.graph.node.insert(first, before)
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 2.0**-20, np.float32), "2^-20"))


def as_type(which: int, operation: str, dtype: type) -> Callable[[Any], None]:
    """Another type for a constant input of the first such node."""
    return reshaped(which, operation, lambda array: array.astype(dtype))


def reshaped(which: int, operation: str, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Another array made of a constant input of the first such node."""

    def change(model: Any) -> None:
        tensor = constant(model, node(model, operation).input[which])
        array = np.asarray(make(numpy_helper.to_array(tensor)))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def attribute(operation: str, name: str, value: Any) -> Callable[[Any], None]:
    """Another value of an attribute of the first such node."""

    def change(model: Any) -> None:
        which = node(model, operation)
        others = [kept for kept in which.attribute if kept.name != name]
        del which.attribute[:]
        which.attribute.extend([*others, helper.make_attribute(name, value)])

    return change


def an_attribute_twice(model: Any) -> None:
    twice = node(model, "Conv").attribute
    twice.append(twice[0])


def a_term_in_int32(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int32), "term"))
    node(model, "Add").input[1] = "term"


def an_empty_constant(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 2), np.float32), "empty"))


def a_constant_of_int32(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.int32), "unused"))


def a_bias_of_two_dimensions(model: Any) -> None:
    biased = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3)
    tensor = constant(model, biased.input[2])
    tensor.dims.append(1)


def an_empty_name_for_a_bias(model: Any) -> None:
    without = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 2)
    without.input.append("")


def a_constant_output(model: Any) -> None:
    head = next(node for node in model.graph.node if node.output[0] == "s2g0.sums")
    head.output[0] = "old sums"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 3, 1, 1), np.float32), "zeros"))
    model.graph.node.append(helper.make_node("Floor", ["zeros"], ["s2g0.sums"]))


def declared(kind: str, number: int) -> Callable[[Any], None]:
    """Another type of the first graph input or output."""
    return lambda model: setattr(getattr(model.graph, kind)[0].type.tensor_type, "elem_type", number)


def rename(operation: str, other: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node(model, operation).op_type = other

    return change


def one_row_less(model: Any) -> None:
    tensor = constant(model, node(model, "Gather").input[0])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-1], tensor.name))


def no_floor(model: Any) -> None:
    scaled = node(model, "Floor").input[0]
    node(model, "Clip").input[0] = scaled


def double_constants(model: Any) -> None:
    tensor = constant(model, node(model, "Conv").input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def no_raw_data(model: Any) -> None:
    tensor = constant(model, node(model, "Conv").input[1])
    numbers = numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(numbers)


def external_data(model: Any) -> None:
    tensor = constant(model, node(model, "Conv").input[1])
    tensor.external_data.add(key="location", value="weights")
    tensor.data_location = TensorProto.EXTERNAL


def a_name_twice(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def the_last_node_first(model: Any) -> None:
    last = onnx.NodeProto()
    last.CopyFrom(model.graph.node[-1])
    del model.graph.node[-1]
    model.graph.node.insert(0, last)


def an_input_more(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.INT32, ["B"]))


def an_output_more(model: Any) -> None:
    name = node(model, "Clip").output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def the_input_of_another_group(model: Any) -> None:
    bands = [node for node in model.graph.node if node.op_type == "Gather" and node.input[1].endswith("band")]
    bands[-1].input[1] = bands[0].input[1]


def a_graph_input_as_a_shape(model: Any) -> None:
    bands = [value.name for value in model.graph.input if value.name.endswith("band")]
    node(model, "Reshape").input[1] = bands[0]


def another_opset(model: Any) -> None:
    model.opset_import[0].version = 21


def two_opsets(model: Any) -> None:
    model.opset_import.add(domain="more", version=1)


REFUSED: Final[dict[str, Callable[[Any], Any]]] = {
    "a factor beyond 2^8": set_number(1, 257.0),
    "a fraction as a factor": set_number(1, 0.5),
    "no number": set_number(2, np.nan, "Clip"),
    "a table entry of 2^24": set_number(0, 2.0**24, "Gather"),
    "a row beyond 2^8 as an operand": set_number(0, 257.0, "Gather"),
    "a sum that can reach 2^24": a_bias_of_all_but_1,
    "an operand beyond 2^8": set_number(2, 257.0, "Clip"),
    "limits in the wrong order": set_number(1, 256.0, "Clip"),
    "a limit that is not whole": set_number(1, 0.25, "Clip"),
    "a scale that is no power of two": set_number(1, 0.375, "Mul"),
    "a scale above 1": set_number(1, 2.0, "Mul"),
    "a scale below 0": set_number(1, -0.5, "Mul"),
    "a scale of 2^-25": set_number(1, 2.0**-25, "Mul"),
    "steps below 2^-24": steps_too_small,
    "an operation that is not listed": rename("Floor", "Round"),
    "a product of two values": rename("Add", "Mul"),
    "steps that are not floored": no_floor,
    "a table of too few rows": one_row_less,
    "columns picked": lambda m: node(m, "Gather").attribute.append(helper.make_attribute("axis", 1)),
    "text in an attribute": lambda m: node(m, "Conv").attribute.append(
        helper.make_attribute("auto_pad", "VALID")
    ),
    "another domain": lambda m: setattr(node(m, "Conv"), "domain", "com.microsoft"),
    "constants in float64": double_constants,
    "constants outside raw_data": no_raw_data,
    "constants outside the file": external_data,
    "half a constant": lambda m: setattr(
        constant(m, node(m, "Conv").input[1]), "raw_data", constant(m, node(m, "Conv").input[1]).raw_data[4:]
    ),
    "a name twice": a_name_twice,
    "nodes out of order": the_last_node_first,
    "an input more": an_input_more,
    "an output more": an_output_more,
    "an output less": lambda m: m.graph.output.pop(),
    "the input of another group": the_input_of_another_group,
    "a graph input as a shape": a_graph_input_as_a_shape,
    "functions": lambda m: m.functions.add(name="f", domain="d"),
    "sparse constants": lambda m: m.graph.sparse_initializer.add(),
    "a later opset": another_opset,
    "a second opset": two_opsets,
    "an empty constant": an_empty_constant,
    "a scale in int32": reshaped(1, "Mul", lambda array: np.ones_like(array, np.int32)),
    "a limit in int32": as_type(1, "Clip", np.int32),
    "a limit in int64": as_type(2, "Clip", np.int64),
    "a term in int32": a_term_in_int32,
    "a shape in int32": as_type(1, "Reshape", np.int32),
    "axes in float32": as_type(1, "Unsqueeze", np.float32),
    "weights in int32": as_type(1, "Conv", np.int32),
    "a bias of two dimensions": a_bias_of_two_dimensions,
    "an empty name for a bias": an_empty_name_for_a_bias,
    "two inputs where one belongs": lambda m: node(m, "Floor").input.append("zero"),
    "an attribute that the operation lacks": attribute("Floor", "axis", 1),
    "an attribute twice": an_attribute_twice,
    "a list for an integer": attribute("Conv", "group", [1]),
    "no axis": lambda m: node(m, "Concat").ClearField("attribute"),
    "an input of floats": declared("input", TensorProto.FLOAT),
    "an input of no type": lambda m: m.graph.input[0].ClearField("type"),
    "an output of int32": declared("output", TensorProto.INT32),
    "an output that depends on no input": a_constant_output,
}
ALLOWED: Final[dict[str, Callable[[Any], Any]]] = {
    "a scale of four dimensions": reshaped(1, "Mul", lambda array: array.reshape(1, 1, 1, 1)),
    "a limit of one dimension": reshaped(1, "Clip", lambda array: array.reshape(1)),
    "an earlier IR version": lambda m: setattr(m, "ir_version", 9),
    "a constant of int32 that nothing takes": a_constant_of_int32,
    "an output of no declared type": lambda m: m.graph.output[0].ClearField("type"),
    "an input of no declared shape": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
}


# Shapes, which show in a run


def one_row_more(model: Any) -> None:
    """Of the first convolution's input, by its padding."""
    pads = next(kept for kept in node(model, "Conv").attribute if kept.name == "pads")
    pads.ints[0] += 1


def a_dimension_more(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)


def a_length(number: int) -> Callable[[Any], None]:
    """Of the band's rows."""

    def change(model: Any) -> None:
        band = next(value for value in model.graph.input if value.name.endswith("band"))
        band.type.tensor_type.shape.dim[1].dim_value = number

    return change


SHAPES: Final[dict[str, Callable[[Any], Any]]] = {
    "strides of 0": attribute("Conv", "strides", [0, 0]),
    "strides below 0": attribute("Conv", "strides", [-1, -1]),
    "dilations of 0": attribute("Conv", "dilations", [0, 0]),
    "strides of one side": attribute("Conv", "strides", [1]),
    "strides of 2^31": attribute("Conv", "strides", [1 << 31, 1 << 31]),
    "pads of 2^31": attribute("Conv", "pads", [1 << 31] * 4),
    "pads below 0": attribute("Conv", "pads", [-1, -1, -1, -1]),
    "a side counted from the end": attribute("Transpose", "perm", [-1, 0, 1, 2]),
    "a side twice": attribute("Transpose", "perm", [0, 0, 0, 0]),
    "an axis that is not there": attribute("Concat", "axis", 9),
    "a row more": one_row_more,
    "zeros that neither stay nor copy": attribute("Reshape", "allowzero", 2),
    "a side of -2": set_number(1, -2, "Reshape"),
    "no group": attribute("Conv", "group", 0),
    "groups that do not split": attribute("Conv", "group", 2),
    "another kernel shape": attribute("Conv", "kernel_shape", [7, 7]),
    "a channel less": reshaped(1, "Conv", lambda array: array[:, :-1].copy()),
    "a column less": reshaped(0, "Gather", lambda array: array[:, :-1].copy()),
    "a side that does not divide": set_number(1, 5, "Reshape"),
    "a shape of two dimensions": reshaped(1, "Reshape", lambda array: array[None]),
    "an axis of no dimension": reshaped(1, "Unsqueeze", lambda array: array.reshape(())),
    "axes of two dimensions": reshaped(1, "Unsqueeze", lambda array: array[None]),
    "limits of two dimensions": reshaped(1, "Clip", lambda array: array.reshape(1, 1)),
    "an input of int64": declared("input", TensorProto.INT64),
    "an input of another rank": a_dimension_more,
    "an input of another length": a_length(77),
    "an input of a length of 0": a_length(0),
}


def changed(change: Callable[[Any], Any]) -> bytes:
    model = onnx.load_from_string(tiny_prior().network)
    change(model)
    data: bytes = model.SerializeToString()
    return data
