"""Section 8.3 of proto/SPEC.md: both readers come to the same size, and refuse what is beyond it unseen."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ndsc.codec import context, errors, onnx_graph, shapes
from ndsc.codec.bundle import Bundle
from ndsc.codec.context import ContextPrior
from ndsc.codec.scalar_prior import ScalarPrior
from tests.golden import spec_bundle, spec_errors, spec_size
from tests.golden.agreement import NETWORKED, codec_uses, network_of, sums_of
from tests.golden.spec_network import Network
from tests.unit.context_prior import tiny_prior

Bundles = dict[str, spec_bundle.Bundle]
GROUP: Final = "s2g0"
FAR: Final = [1 << 30, 1 << 30]
"""Strides that reach one position only."""


def floats(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def grown(nodes: Sequence[Any], **constants: Any) -> bytes:
    """The tiny prior with more nodes in one group, whose zeros are added to the sums and change nothing.

    Values that the nodes may take: `zeros`, as large as the sums, and `spot`, [4, 1, 1, 1]. The last one's output
    has four dimensions and one channel.
    """
    model = onnx.load_from_string(tiny_prior().network)
    head = next(node for node in model.graph.node if node.output[0] == f"{GROUP}.sums")
    head.output[0] = "old"
    model.graph.node.extend(
        [
            helper.make_node("Clip", ["old", "nought", "nought"], ["zeros"]),
            helper.make_node("Conv", ["zeros", "to spot"], ["spot"], strides=FAR),
            *nodes,
            helper.make_node("Conv", [nodes[-1].output[0], "to end"], ["end"], strides=FAR),
            helper.make_node("Add", ["old", "end"], [f"{GROUP}.sums"]),
        ]
    )
    constants |= {"nought": floats(), "to spot": floats(1, 3, 1, 1), "to end": floats(1, 1, 1, 1)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    data: bytes = model.SerializeToString()
    return data


def chain(count: int, first: str, link: Callable[[str, str], Any]) -> list[Any]:
    return [link(before, after) for before, after in pairwise([first, *(f"v{i}" for i in range(count))])]


def joined(times: int) -> bytes:
    return grown(chain(times, "spot", lambda v, more: helper.make_node("Concat", [v, v], [more], axis=3)))


def crossed(side: int) -> bytes:
    nodes = [
        helper.make_node("Add", ["spot", "row"], ["wide"]),
        helper.make_node("Add", ["wide", "column"], ["large"]),
    ]
    return grown(nodes, row=floats(1, 1, 1, side), column=floats(1, 1, side, 1))


def padded(pads: int) -> bytes:
    """A kernel of 255 × 255, which pads of 127 make fit just once."""
    node = helper.make_node("Conv", ["spot", "kernel"], ["large"], pads=[pads] * 4)
    return grown([node], kernel=floats(1, 1, 255, 255))


def multiplied(times: int) -> bytes:
    """2^16 multiplications each time."""
    nodes = chain(times, "wide", lambda v, more: helper.make_node("MatMul", [v, "matrix"], [more]))
    nodes = [helper.make_node("Add", ["spot", "row"], ["wide"]), *nodes]
    return grown(nodes, row=floats(1, 1, 1, 128), matrix=floats(128, 128))


def dimensions(count: int) -> bytes:
    nodes = [
        helper.make_node("Unsqueeze", ["spot", "axes"], ["long"]),
        helper.make_node("Reshape", ["long", "sides"], ["short"]),
    ]
    axes, sides = np.arange(4, count, dtype=np.int64), np.array([4, 1, 1, 1], np.int64)
    return grown(nodes, axes=axes, sides=sides)


def filled(elements: int, multiplications: int) -> bytes:
    """With one more of either there is one more: of constants alone, which a runtime multiplies while it loads."""
    links, rest = divmod(multiplications, 1 << 14)
    links, rest = (links - 1, rest + (1 << 14)) if links and not rest else (links, rest)
    nodes = chain(links, "square", lambda v, more: helper.make_node("MatMul", [v, "matrix"], [more]))
    last = nodes[-1].output[0] if nodes else "square"
    nodes += [
        helper.make_node("Conv", ["rest", "factors"], ["one"]),
        helper.make_node("Concat", [last, "one", "many"], ["all"], axis=3),
    ]
    constants = {"square": floats(1, 1, 1, 128), "matrix": floats(128, 128)}
    constants |= {"rest": floats(1, 1, 1, rest), "factors": floats(1, 1, 1, rest)}
    return grown(nodes, many=floats(1, 1, 1, elements - 128 * links), **constants)


def long(length: int) -> bytes:
    """The tiny prior as a file of so many bytes, by a constant that nothing takes."""
    model = onnx.load_from_string(tiny_prior().network)
    numbers = (length - len(model.SerializeToString())) // 4 - 32
    model.graph.initializer.append(numpy_helper.from_array(floats(numbers), "p"))
    padding = model.graph.initializer[-1]
    padding.name += "p" * (length - len(model.SerializeToString()))
    data: bytes = model.SerializeToString()
    assert len(data) == length
    return data


def read_by_spec(data: bytes, bundles: Bundles) -> Network:
    return Network(data, network_of(bundles["context"]).groups)


def accepted(data: bytes, bundles: Bundles) -> None:
    """By both, and what is added changes nothing."""
    before = tiny_prior().network
    assert sums_of(data, bundles["context"]) == sums_of(before, bundles["context"])
    assert codec_uses(data) == codec_uses(before)


def refused(read: Callable[[], object], error: type[Exception], reason: str) -> None:
    """At once, and with next to nothing taken for it."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(error, match=reason):
            read()
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 1
    assert peak < 8 << 20


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec must not even load such a file into onnxruntime, whose memory nobody counts here."""

    def loaded(*_: object) -> None:
        raise AssertionError("onnxruntime gets the file")

    monkeypatch.setattr(context, "PriorSession", loaded)


def crowded(count: int) -> bytes:
    """So many initializers in all."""
    model = onnx.load_from_string(tiny_prior().network)
    more = range(count - len(model.graph.initializer))
    model.graph.initializer.extend(numpy_helper.from_array(floats(1), f"more{i}") for i in more)
    data: bytes = model.SerializeToString()
    return data


def an_attribute_twice() -> bytes:
    model = onnx.load_from_string(tiny_prior().network)
    node = next(n for n in model.graph.node if any(a.name == "strides" for a in n.attribute))
    node.attribute.append(next(a for a in node.attribute if a.name == "strides"))
    data: bytes = model.SerializeToString()
    return data


ACCEPTED: Final[dict[str, Callable[[], bytes]]] = {
    "a value joined with itself 11 times": lambda: joined(11),
    "two broadcasts of 64 × 64": lambda: crossed(64),
    "a kernel that fits once": lambda: padded(127),
    "31 products": lambda: multiplied(31),
    "8 dimensions": lambda: dimensions(8),
    "2^23 bytes": lambda: long(1 << 23),
    "2^12 initializers": lambda: crowded(1 << 12),
}
REFUSED: Final[dict[str, tuple[Callable[[], bytes], str, str]]] = {
    # what the codec says, and what the specification's reader says
    "a value joined with itself 12 times": (
        lambda: joined(12),
        r"Concat \(v11\) .* beyond 32768 elements",
        "v11 is beyond .* elements",
    ),
    "a value joined with itself 25 times": (
        lambda: joined(25),
        r"Concat \(v11\) .* beyond 32768 elements",
        "v11 is beyond .* elements",
    ),
    "two broadcasts of 2^15 × 2^15": (
        lambda: crossed(1 << 15),
        r"Add \(wide\) .* beyond 32768 elements",
        "wide is beyond .* elements",
    ),
    "two broadcasts of 2^12 × 2^12": (
        lambda: crossed(1 << 12),
        r"Add \(large\) .* beyond 32768 elements",
        "large is beyond .* elements",
    ),
    "a kernel that fits nine times": (
        lambda: padded(128),
        r"Conv \(large\) .* beyond 2097152 multiplications",
        "large is beyond .* multiplications",
    ),
    "pads of 2^30": (
        lambda: padded(1 << 30),
        r"Conv \(large\) .* beyond 32768 elements",
        "large is beyond .* elements",
    ),
    "32 products": (
        lambda: multiplied(32),
        r"MatMul \(v31\) .* beyond 2097152 multiplications",
        "v31 is beyond .* multiplications",
    ),
    "9 dimensions": (lambda: dimensions(9), r"Unsqueeze \(long\) has 9 axes", "long has 9 dimensions"),
    "2^23 bytes and one more": (lambda: long((1 << 23) + 1), "larger than 8388608 bytes", "8388609 bytes"),
    "2^12 initializers and one more": (
        lambda: crowded((1 << 12) + 1),
        "more than 4096 nodes",
        "too many nodes",
    ),
    "an attribute twice": (an_attribute_twice, "attribute strides twice", "strides"),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_both_take_what_keeps_the_limits(what: str, bundles: Bundles) -> None:
    accepted(ACCEPTED[what](), bundles)


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("no_runtime")
def test_both_refuse_what_is_beyond_them(what: str, bundles: Bundles) -> None:
    make, by_codec, by_spec = REFUSED[what]
    data = make()
    refused(lambda: codec_uses(data), errors.BundleError, by_codec)
    refused(lambda: read_by_spec(data, bundles), spec_errors.BundleError, by_spec)


def test_both_count_to_the_last_element_and_multiplication(bundles: Bundles) -> None:
    start = read_by_spec(filled(1, 1), bundles).size(GROUP, 1, 1)
    elements = spec_size.ELEMENTS - start.elements + 1
    products = spec_size.MULTIPLICATIONS - start.multiplications + 1
    full = read_by_spec(filled(elements, products), bundles).size(GROUP, 1, 1)
    assert (full.elements, full.multiplications) == (1 << 15, 1 << 21)
    accepted(filled(elements, products), bundles)
    for more, reason in (((1, 0), "beyond 32768 elements"), ((0, 1), "beyond 2097152 multiplications")):
        data = filled(elements + more[0], products + more[1])
        with pytest.raises(errors.BundleError, match=reason):
            codec_uses(data)
        with pytest.raises(spec_errors.BundleError, match=reason.split()[-1]):
            read_by_spec(data, bundles)


def test_what_is_too_much_on_a_large_grid_only(bundles: Bundles) -> None:
    """256 elements for each pair of cells."""
    nodes = [
        helper.make_node("Conv", ["zeros", "thin"], ["plane"]),  # [4, 1, R, C]
        helper.make_node("Reshape", ["plane", "line sides"], ["line"]),  # [4, 1, 1, 1, R · C]
        helper.make_node("Unsqueeze", ["plane", "fifth"], ["five"]),
        helper.make_node("Add", ["five", "channels"], ["many"]),  # [4, 64, R, C, 1]
        helper.make_node("Add", ["many", "line"], ["pairs"]),  # [4, 64, R, C, R · C]
        helper.make_node("Conv", ["pairs", "few"], ["less"], strides=[*FAR, 1 << 30]),
        helper.make_node("Reshape", ["less", "sides"], ["more"]),
    ]
    data = grown(
        nodes,
        thin=floats(1, 3, 1, 1),
        fifth=np.array([4], np.int64),
        channels=floats(1, 64, 1, 1, 1),
        few=floats(1, 64, 1, 1, 1),
        sides=np.array([4, 1, 1, 1], np.int64),
        **{"line sides": np.array([4, 1, 1, 1, -1], np.int64)},
    )
    accepted(data, bundles)
    codec_uses(data, 16)
    network = read_by_spec(data, bundles)
    assert network.size(GROUP, 8, 8).shapes["pairs"] == (4, 64, 8, 8, 64)
    with pytest.raises(errors.BundleError, match=r"Add \(pairs\) .* beyond 8388608 elements"):
        codec_uses(data, 32)
    refused(lambda: network.size(GROUP, 16, 16), spec_errors.BundleError, "pairs is beyond .* elements")


@pytest.mark.parametrize("name", NETWORKED)
def test_both_come_to_the_same_size(
    name: str, written: dict[str, Bundle], bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codec does not say what it counts, so it is asked for the least that it allows."""
    prior = written[name].prior
    assert isinstance(prior, ContextPrior | ScalarPrior)
    graph = onnx_graph.read(prior.network, "prior.onnx")
    network = network_of(bundles[name])
    for group, needs in network.groups.items():
        for cells in ((1, 1), (3, 5), (47, 156)):
            given = dict(needs.shapes(*cells))
            outputs = {f"{group}.sums": given.pop(f"{group}.sums")}
            size = network.size(group, *cells)
            assert size.multiplications > size.elements
            for products, least in ((1 << 40, size.elements), (1, size.multiplications)):
                monkeypatch.setattr(shapes, "PRODUCTS_PER_ELEMENT", products)
                assert shapes.check(graph, given, outputs, least, "prior.onnx") == size.shapes
                with pytest.raises(errors.BundleError, match=f"beyond {least - 1}"):
                    shapes.check(graph, given, outputs, least - 1, "prior.onnx")
