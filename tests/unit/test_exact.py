"""The proof of exactness: what it accepts is exact in onnxruntime, and each rule refuses what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ndsc.codec import exact, onnx_graph
from ndsc.codec.errors import BundleError
from tests.unit.context_prior import passes
from training.prior_graph import prior_onnx

ROWS = {"z": 5}


def graph(nodes: list[tuple[str, list[str], str, dict[str, Any]]], **constants: Any) -> bytes:
    """A graph from the integer input z [B, w] to `out`."""
    made = [helper.make_node(op, inputs, [output], **attributes) for op, inputs, output, attributes in nodes]
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()]
    value = helper.make_tensor_value_info
    proto = helper.make_graph(
        made,
        "g",
        [value("z", TensorProto.INT32, ["B", "w"])],
        [value("out", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def prove(data: bytes) -> dict[str, exact.Bound]:
    return exact.prove(onnx_graph.read(data, "prior.onnx"), ROWS, "prior.onnx")


PICK: Any = ("Gather", ["table", "z"], "x", {})
TABLE = np.arange(-10, 10, dtype=np.float32).reshape(5, 4)


def product(weights: Any, table: Any = TABLE, *more: Any, **constants: Any) -> bytes:
    last = "y" if more else "out"
    return graph([PICK, ("MatMul", ["x", "w"], last, {}), *more], table=table, w=weights, **constants)


def test_a_product_has_the_largest_sum_of_any_column() -> None:
    weights = np.array([[1, -2], [3, 0], [-1, 4], [2, 2]], np.float32)
    assert prove(product(weights)) == {"out": exact.Bound(10 * 8)}


def test_scaling_and_rounding_down() -> None:
    weights = np.ones((4, 1), np.float32)
    more: Any = (("Mul", ["y", "s"], "m", {}), ("Floor", ["m"], "out", {}))
    assert prove(product(weights, TABLE, *more, s=2.0**-3)) == {"out": exact.Bound(5)}
    clipped: Any = (*more[:1], ("Floor", ["m"], "f", {}), ("Clip", ["f", "lo", "hi"], "out", {}))
    assert prove(product(weights, TABLE, *clipped, s=0.125, lo=0, hi=3)) == {"out": exact.Bound(3)}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (product(np.full((4, 1), 257)), "factor beyond 256"),
        (product(np.full((4, 1), 0.5)), "not of integers"),
        (product(np.full((4, 1), np.nan)), "finite"),
        (product(np.ones((4, 1)), TABLE * 26), "magnitude up to 256"),
        (product(np.ones((4, 1)), TABLE[:4]), "table of 4 rows for 5 values"),
        (product(np.ones((4, 1)), TABLE + 0.5), "not of integers"),
        (product(np.ones((4, 1)), TABLE, ("Relu", ["y"], "out", {})), "not an operation that can be proved"),
        (product(np.ones((4, 1)), TABLE, ("Mul", ["y", "s"], "out", {}), s=3.0), "power of two"),
        (product(np.ones((4, 1)), TABLE, ("Mul", ["y", "s"], "out", {}), s=2.0), "power of two"),
        (product(np.ones((4, 1)), TABLE, ("Mul", ["y", "s"], "out", {}), s=0.5), "not made of integers"),
        (product(np.ones((4, 1)), TABLE, ("Mul", ["y", "y"], "out", {})), "finite constant"),
        (product(np.ones((4, 1)), TABLE, ("Add", ["y", "a"], "out", {}), a=2.0**24 - 40), "exact is below"),
        (
            product(
                np.ones((4, 1)),
                TABLE,
                ("Mul", ["y", "s"], "m", {}),
                ("Add", ["m", "a"], "out", {}),
                s=2.0**-20,
                a=16,
            ),
            "exact is below",
        ),
        (product(np.ones((4, 1)), TABLE, ("Clip", ["y", "a", "b"], "out", {}), a=0.0, b=1.5), "to integers"),
        (graph([("Gather", ["table", "z"], "out", {"axis": 1})], table=TABLE), "rows of a table"),
        (graph([("Floor", ["z"], "out", {})]), "no number"),
    ],
)
def test_what_cannot_be_proved(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        prove(data)
    assert str(caught.value).startswith("prior.onnx")


def test_a_convolution_at_the_bound_is_exact_and_one_above_is_refused() -> None:
    """Largest sum 2**24 - 1, reached in onnxruntime; with one more in the bias it is refused."""
    channels = 257
    table = np.full((5, channels), 255, np.float32)
    weights = np.full((1, channels, 1, 1), 255, np.float32)
    rest = 2**24 - 1 - channels * 255 * 255

    def made(bias: int) -> bytes:
        nodes: list[Any] = [
            ("Gather", ["table", "z"], "x", {}),
            ("Transpose", ["x"], "t", {"perm": [0, 2, 1]}),
            ("Conv", ["t", "w", "b"], "out", {}),
        ]
        return graph(nodes, table=table, w=weights[..., 0], b=[bias])

    assert prove(made(rest)) == {"out": exact.Bound(2**24 - 1)}
    session = onnxruntime.InferenceSession(made(rest), providers=["CPUExecutionProvider"])
    assert session.run(None, {"z": np.zeros((1, 3), np.int32)})[0].ravel().tolist() == [2**24 - 1] * 3
    with pytest.raises(BundleError, match="exact is below"):
        prove(made(rest + 1))


def test_inputs_must_be_the_expected_ones() -> None:
    data = product(np.ones((4, 1)))
    with pytest.raises(BundleError, match="has inputs"):
        exact.prove(onnx_graph.read(data, "prior.onnx"), {"other": 5}, "prior.onnx")


@pytest.mark.parametrize("data", [b"\xff", b"not an onnx file", b"\x3a\x05abc"])
def test_what_is_no_onnx_file(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"prior.onnx"):
        prove(data)


def test_a_constant_that_is_not_whole_is_refused() -> None:
    model = onnx.load_from_string(product(np.ones((4, 1))))
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]
    with pytest.raises(BundleError, match="not stored whole"):
        prove(model.SerializeToString())
    model.graph.initializer[0].data_type = TensorProto.DOUBLE
    with pytest.raises(BundleError, match="not float32"):
        prove(model.SerializeToString())


def test_a_cut_computes_the_same() -> None:
    """One pass alone gives what the whole file gives."""
    data = prior_onnx(passes())
    whole = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    shapes = {"h": 3, "w": 4, "2h": 6, "2w": 8, "B": 1}
    feeds = {
        i.name: rng.integers(
            0, 3, [d if isinstance(d, int) else shapes[d.rsplit(".", 1)[-1]] for d in i.shape], dtype=np.int32
        )
        for i in whole.get_inputs()
    }
    for output in ("s0g3.sums", "s1g1.sums", "s2g0.sums"):
        part = onnxruntime.InferenceSession(
            onnx_graph.cut(data, output, "prior.onnx"), providers=["CPUExecutionProvider"]
        )
        needed = {i.name: feeds[i.name] for i in part.get_inputs()}
        assert len(needed) < len(feeds)
        np.testing.assert_array_equal(part.run(None, needed)[0], whole.run([output], feeds)[0])
    with pytest.raises(BundleError, match="does not compute"):
        onnx_graph.cut(data, "s9g9.sums", "prior.onnx")


def test_values_too_small_for_a_float_are_refused() -> None:
    """Seven times 2**-24 leaves nothing of a -1, whose floor would be 0."""
    more: Any = [("Mul", [f"y{i}" if i else "y", "s"], f"y{i + 1}", {}) for i in range(2)]
    data = product(np.ones((4, 1)), TABLE, *more, ("Floor", ["y2"], "out", {}), s=2.0**-24)
    with pytest.raises(BundleError, match="fractional bits"):
        prove(data)


def test_what_else_a_file_may_not_hold() -> None:
    sound = product(np.ones((4, 1)))

    def refused(reason: str, change: Any) -> None:
        model = onnx.load_from_string(sound)
        change(model)
        with pytest.raises(BundleError, match=reason):
            prove(model.SerializeToString())

    refused("opset", lambda m: setattr(m.opset_import[0], "version", 13))
    refused("opset", lambda m: m.opset_import.add(domain="com.microsoft", version=1))
    refused("functions", lambda m: m.functions.add(name="Floor"))
    refused("sparse", lambda m: m.graph.sparse_initializer.add())
    refused("twice", lambda m: m.graph.initializer.append(m.graph.initializer[0]))
    refused("another file", lambda m: setattr(m.graph.initializer[0], "data_location", 1))
    refused("domain", lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"))
    refused("lacks an input", lambda m: m.graph.node[0].input.pop())
    refused("one output", lambda m: m.graph.node[0].output.append("more"))
    refused("not of integers", lambda m: m.graph.node[1].attribute.append(helper.make_attribute("x", 0.5)))
    refused("two numbers", lambda m: _clip(m, np.zeros(2, np.float32)))
    refused("is empty", lambda m: _clip(m, np.zeros(0, np.float32)))


def _clip(model: onnx.ModelProto, limit: Any) -> None:
    model.graph.node[-1].output[0] = "unclipped"
    model.graph.initializer.append(numpy_helper.from_array(limit, "limit"))
    model.graph.node.append(helper.make_node("Clip", ["unclipped", "limit", "limit"], ["out"]))
