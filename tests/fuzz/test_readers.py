"""The readers of a bundle's files: any bytes give a valid object or BundleError, in bounded time and memory.

A bundle's files are hashed, but whoever makes a bundle makes the hashes too, and a node may fetch its bundle
from a server. So each reader is called as if the hashes fitted.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ndsc.codec import onnx_graph
from ndsc.codec.bitstream import encode_payload, payload_bounds
from ndsc.codec.bundle import Bundle
from ndsc.codec.context import ContextPrior
from ndsc.codec.errors import BundleError, NdscError, ProviderError
from ndsc.codec.frames import Grid
from ndsc.codec.golden import Golden
from ndsc.codec.prior import LatentPrior, StaticPrior
from ndsc.codec.scalar_prior import ScalarPrior
from tests.fuzz import tiny_prior
from tests.fuzz.memory import measured
from tests.unit import planes_prior

FIXED_BYTES: Final = 64 << 20
BYTES_TO_ONE_READ: Final = 512
"""Most of it pydantic's, which keeps a copy of its input for each complaint: nine missing keys take 350."""
TOO_LONG: Final = 16 << 20
"""No file of numbers and names is so long. It is refused before it is parsed, or the factor bounds nothing."""
SECONDS: Final = 5.0
"""Of this process's own time; a sound file of the default bundle takes a fiftieth."""

NETWORK: Final = tiny_prior.network()
CONTEXT_JSON: Final = tiny_prior.prior_json(NETWORK)
PLANES_JSON: Final = planes_prior.tiny_prior().files()["prior.json"]
PLANES_NETWORK: Final = planes_prior.tiny_prior().files()["prior.onnx"]
STATIC_JSON: Final = StaticPrior.from_counts([np.arange(1, 9), np.arange(1, 5)]).files()["prior.json"]

FEW: Final = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FIXTURE: Final = settings(FEW, suppress_health_check=[*HealthCheck])


@contextmanager
def bounded(size: int, factor: int = BYTES_TO_ONE_READ) -> Iterator[None]:
    """Fail where what happens inside takes more memory or time than the reader of so many bytes may."""
    start = time.process_time()
    with measured(traced=False) as peak:
        yield
    assert peak.resident <= FIXED_BYTES + factor * size
    assert time.process_time() - start <= SECONDS


def one_line(error: NdscError) -> None:
    assert len(str(error).splitlines()) == 1


def read_static(data: bytes) -> StaticPrior | None:
    """The prior, which must work; None where it was refused."""
    with bounded(len(data)):
        try:
            prior = StaticPrior.from_json(data)
        except BundleError as error:
            one_line(error)
            return None
    works(prior)
    return prior


def read_context(data: bytes, network: bytes) -> LatentPrior | None:
    return read_networked(ContextPrior.from_files, data, network)


def read_planes(data: bytes, network: bytes = PLANES_NETWORK) -> LatentPrior | None:
    return read_networked(ScalarPrior, data, network)


def read_networked(
    read: Callable[[bytes, bytes], LatentPrior], data: bytes, network: bytes
) -> LatentPrior | None:
    """The prior; it works or its session refuses the network. None where it was refused."""
    with bounded(len(data) + len(network)):
        try:
            prior = read(data, network)
        except BundleError as error:
            one_line(error)
            return None
    try:
        works(prior)
    except (BundleError, ProviderError) as error:
        one_line(error)
    return prior


def works(prior: LatentPrior) -> None:
    """What is drawn from it can be coded and read again."""
    stages = len(prior.codebook_sizes)
    indices = prior.sample(np.random.default_rng(0), stages, 3, 5)
    np.testing.assert_array_equal(prior.decode(prior.encode(indices), stages, 3, 5), indices)


def read_golden(data: bytes, bundle: Bundle) -> Golden | None:
    with bounded(len(data)):
        try:
            golden = Golden.from_json(data)
        except BundleError as error:
            one_line(error)
            return None
    assert Golden.from_json(golden.to_json()) == golden
    return golden


def read_manifest_or_raise(data: bytes, directory: Path) -> Bundle:
    (directory / "manifest.json").write_bytes(data)
    return Bundle.load(directory)


def read_manifest(data: bytes, directory: Path) -> Bundle | None:
    with bounded(len(data)):
        try:
            return read_manifest_or_raise(data, directory)
        except BundleError as error:
            one_line(error)
            return None


def resealed(network: bytes) -> bytes:
    """prior.json that names this network."""
    return tiny_prior.prior_json(network)


NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 3, 255, 1 << 12, 1 << 16, 1 << 31, 1 << 63, 1 << 64, 1 << 70, 0.5, 1e300]
)
VALUES = st.recursive(
    NUMBERS
    | st.none()
    | st.booleans()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", float("nan"), float("inf"), "0" * 64]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    keys: Iterable[Any] = (
        value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    )
    found = [(value, key) for key in keys]
    return found + [place for container, key in found for place in places_in(container[key])]


@st.composite
def edited_json(draw: st.DrawFn, sound: bytes) -> bytes:
    """1 to 3 values replaced, removed, doubled or added."""
    content = json.loads(sound)
    for _ in range(draw(st.integers(1, 3))):
        places = places_in(content)
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        how = draw(st.integers(0, 5))
        if how <= 2:
            container[key] = draw(VALUES)
        elif how == 3:
            del container[key]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[draw(st.text(max_size=4))] = copy.deepcopy(container[key])
    return json.dumps(content).encode()


@st.composite
def edited_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """1 to 4 places set, cut or grown."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        how = draw(st.integers(0, 2))
        if how == 0:
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == 1:
            del data[place : place + draw(st.integers(1, 40))]
        else:
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


def damaged_json(sound: bytes) -> st.SearchStrategy[bytes]:
    return edited_json(sound) | edited_bytes(sound) | st.binary(max_size=200)


BOMB_BYTES: Final = 1 << 19


def repeated(start: bytes, part: bytes, end: bytes) -> bytes:
    return start + part * (BOMB_BYTES // len(part)) + end


def many_keys() -> bytes:
    return ",".join(f'"{i:05x}":1' for i in range(BOMB_BYTES // 10)).encode()


BOMBS: Final[dict[str, bytes]] = {
    "open brackets": repeated(b"", b"[", b""),
    "open braces": repeated(b"", b'{"a":', b""),
    "empty lists": repeated(b"[", b"[],", b"1]"),
    "other keys": b"{" + many_keys() + b"}",
    "a long number": repeated(b'{"kind":', b"9", b"}"),
    "a long text": repeated(b'{"kind":"', b"a", b'"}'),
    "static, wrong frequencies": repeated(b'{"frequencies":[[', b"[],", b"1]]}"),
    "static, many tables": repeated(b'{"frequencies":[', b"[],", b"[1]]}"),
    "static, one long table": repeated(
        b'{"kind":"static-table","frequency_bits":16,"frequencies":[[', b"1,", b"1]]}"
    ),
    "context, wrong logits": repeated(b'{"stages":[{"groups":[{"table":[[', b"[],", b"1]]}]}]}"),
    "context, wrong weights": repeated(b'{"weights":[', b"[],", b"1]}"),
    "context, wrong order": repeated(b'{"stages":[{"order":[', b"[],", b"1]}]}"),
    "planes, wrong tables": repeated(b'{"tables":[[', b"[],", b"1]]}"),
    "planes, many tables": repeated(b'{"tables":[', b"[],", b"[1]]}"),
    "planes, many levels": repeated(b'{"first":[', b'{"mean":[],"scale":[]},', b"1]}"),
    "golden, wrong entries": repeated(b'{"entries":[', b"1,", b"1]}"),
    "golden, wrong grid": repeated(b'{"entries":[{"grid":[', b"[],", b"1]}]}"),
    "manifest, wrong files": b'{"files":{' + many_keys() + b"}}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_meant_to_hurt_is_refused(name: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    readers: dict[str, Callable[[bytes], object]] = {
        "static": read_static,
        "context": lambda data: read_context(data, NETWORK),
        "planes": read_planes,
        "golden": lambda data: read_golden(data, tiny_bundle),
        "manifest": lambda data: read_manifest(data, tmp_path),
    }
    meant = name.split(",")[0]
    for read in [readers[meant]] if meant in readers else readers.values():
        assert read(BOMBS[name]) is None


@pytest.mark.parametrize("key", ["two\nlines", "two\x85lines", "\x1b[31m", "k" * 10_000])
def test_a_message_is_one_line_whatever_a_key_is(
    key: str, tiny_bundle: Bundle, spoilt: Path, tiny_bundle_path: Path
) -> None:
    def messages() -> Iterator[str]:
        for read, sound in (
            (StaticPrior.from_json, STATIC_JSON),
            (lambda data: ContextPrior.from_files(data, NETWORK), CONTEXT_JSON),
            (lambda data: ScalarPrior(data, PLANES_NETWORK), PLANES_JSON),
            (Golden.from_json, tiny_bundle.golden.to_json()),
            (
                lambda data: read_manifest_or_raise(data, spoilt),
                (tiny_bundle_path / "manifest.json").read_bytes(),
            ),
        ):
            with pytest.raises(BundleError) as caught:
                read(json.dumps(json.loads(sound) | {key: 1}).encode())
            yield str(caught.value)

    for message in messages():
        assert message.isprintable()
        assert len(message) < 1000


@pytest.mark.parametrize(
    "read",
    [
        StaticPrior.from_json,
        lambda data: ContextPrior.from_files(data, NETWORK),
        lambda data: ScalarPrior(data, PLANES_NETWORK),
        Golden.from_json,
    ],
    ids=["static", "context", "planes", "golden"],
)
def test_a_file_too_long_to_be_sound_is_not_parsed(read: Callable[[bytes], object]) -> None:
    data = b"[" + b"[]," * (TOO_LONG // 3) + b"1]"
    with bounded(len(data), factor=4), pytest.raises(BundleError):
        read(data)


@FEW
@given(damaged_json(STATIC_JSON))
def test_static_prior(data: bytes) -> None:
    read_static(data)


@FEW
@given(damaged_json(CONTEXT_JSON))
def test_context_prior(data: bytes) -> None:
    read_context(data, NETWORK)


@FEW
@given(damaged_json(PLANES_JSON))
def test_prior_of_planes(data: bytes) -> None:
    read_planes(data)


def test_sound_files_are_read(tiny_bundle: Bundle) -> None:
    """So that the other tests do not pass because everything is refused."""
    assert read_static(STATIC_JSON)
    assert read_context(CONTEXT_JSON, NETWORK)
    assert read_planes(PLANES_JSON)
    assert read_golden((tiny_bundle.path / "golden.json").read_bytes(), tiny_bundle)


@FIXTURE
@given(data=st.data())
def test_golden_vectors(tiny_bundle: Bundle, data: st.DataObject) -> None:
    """A valid file's vectors come out or are refused."""
    short = json.loads((tiny_bundle.path / "golden.json").read_bytes())
    short = {"entries": short["entries"][:3], "damaged": short["damaged"][:12]}
    golden = read_golden(data.draw(damaged_json(json.dumps(short).encode())), tiny_bundle)
    if golden is not None:
        try:
            golden.check(tiny_bundle.bitstream)
        except BundleError as error:
            one_line(error)


@pytest.mark.parametrize(("part", "grid"), [("entries", Grid(1, 300)), ("damaged", Grid(1024, 1024))])
def test_golden_vectors_of_frames_that_the_bundle_cannot_code(
    tiny_bundle: Bundle, part: str, grid: Grid
) -> None:
    """Else a few hundred bytes ask for minutes and gigabytes, as soon as a bundle is loaded."""
    stream, level = tiny_bundle.bitstream, 0
    indices = np.zeros((1, grid.height, grid.width), np.int32)
    vector = {"rate_level": level, "grid": [grid.height, grid.width]}
    content = json.loads(tiny_bundle.golden.to_json())
    if part == "entries":
        text = base64.b64encode(indices.astype("<u2").tobytes()).decode()
        payload = encode_payload(indices, level, stream)
        content[part].append(vector | {"indices": text, "payload": payload.hex()})
    else:
        payload = bytes(payload_bounds(stream, level, grid)[0])
        content[part].append(
            vector | {"damage": "zeros", "payload": payload.hex(), "error": "PayloadCorruptError"}
        )
    golden = Golden.from_json(json.dumps(content).encode())
    with pytest.raises(BundleError):
        golden.check(stream)


@pytest.fixture(scope="module")
def spoilt(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny bundle whose manifest is written over."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path_factory.mktemp("spoilt") / "bundle"))


@FIXTURE
@given(data=st.data())
def test_manifest(tiny_bundle_path: Path, spoilt: Path, data: st.DataObject) -> None:
    sound = (tiny_bundle_path / "manifest.json").read_bytes()
    assert read_manifest(sound, spoilt) is not None
    bundle = read_manifest(data.draw(damaged_json(sound)), spoilt)
    if bundle is not None:
        assert len(bundle.bundle_id) == 64
        works(bundle.prior)


DIMENSIONS = st.lists(
    st.sampled_from([0, 1, 2, 3, 5, 8, 10, 1 << 16, 1 << 24, 1 << 31, 1 << 40, 1 << 62, -1]), max_size=5
)
NAME_LEFT_OPEN: Final = "left open"


@st.composite
def edited_network(draw: st.DrawFn, sound: bytes) -> bytes:
    """1 to 3 edits of a network's operations, constants, names and attributes."""
    model = onnx.ModelProto.FromString(sound)
    graph = model.graph
    for _ in range(draw(st.integers(1, 3))):
        draw(st.sampled_from([_edit_constant, _edit_node, _edit_attribute, _edit_names, _edit_order]))(
            draw, graph
        )
    not_utf8 = draw(st.sampled_from([b"\xff" * len(NAME_LEFT_OPEN), NAME_LEFT_OPEN.encode()]))
    data: bytes = model.SerializeToString()
    return data.replace(NAME_LEFT_OPEN.encode(), not_utf8)


def _edit_constant(draw: st.DrawFn, graph: Any) -> None:
    constant = draw(st.sampled_from(list(graph.initializer)))
    how = draw(st.integers(0, 4))
    if how == 0:
        del constant.dims[:]
        constant.dims.extend(draw(DIMENSIONS))
    elif how == 1:
        # Dimensions that fit their data, so that the proof has to do with them.
        del constant.dims[:]
        constant.dims.extend(draw(st.permutations([0, draw(st.sampled_from([0, 1, 3, 1 << 24, 1 << 40]))])))
        constant.raw_data = b""
    elif how == 2:
        constant.data_type = draw(st.integers(0, 20))
    elif how == 3:
        values = np.frombuffer(constant.raw_data[: len(constant.raw_data) // 4 * 4], "<f4").copy()
        if values.size:
            special = [np.nan, np.inf, -np.inf, 1e38, 1e-45, 0.3, 2.0**-23, 2.0**24, -300, 0]
            values[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(special))
        constant.raw_data = values.tobytes()
    else:
        constant.raw_data = draw(st.binary(max_size=40))


def _edit_node(draw: st.DrawFn, graph: Any) -> None:
    node = draw(st.sampled_from(list(graph.node)))
    operations = sorted({n.op_type for n in graph.node})
    how = draw(st.integers(0, 4))
    if how == 0:
        node.op_type = draw(st.sampled_from([*operations, "Cast", "", NAME_LEFT_OPEN]))
    elif how == 1 and node.input:
        del node.input[draw(st.integers(0, len(node.input) - 1)) :]
    elif how == 2 and node.output:
        del node.output[:]
    elif how == 3:
        node.domain = draw(st.sampled_from(["ai.onnx", "com.microsoft", NAME_LEFT_OPEN]))
    else:
        node.input.append(draw(st.sampled_from([name for n in graph.node for name in n.input] or [""])))


def _edit_attribute(draw: st.DrawFn, graph: Any) -> None:
    node = draw(st.sampled_from(list(graph.node)))
    if node.attribute and draw(st.booleans()):
        attribute = draw(st.sampled_from(list(node.attribute)))
        del attribute.ints[:]
        attribute.ints.extend(draw(st.lists(st.integers(-3, 3), max_size=5)))
    else:
        name = draw(st.sampled_from(["axis", "group", "pads", "perm", "transA", NAME_LEFT_OPEN]))
        value = draw(st.sampled_from([-1, 0, 1, 1 << 62, [1], [0, 0, 1, 1], 0.5, "text"]))
        node.attribute.append(helper.make_attribute(name, value))


def _edit_names(draw: st.DrawFn, graph: Any) -> None:
    names = [
        *(node.input for node in graph.node),
        *(node.output for node in graph.node),
    ]
    known = sorted({name for each in names for name in each})
    fresh = draw(st.sampled_from([*known, "", "nowhere", NAME_LEFT_OPEN]))
    if draw(st.booleans()):
        value = draw(st.sampled_from([*graph.input, *graph.output, *graph.initializer]))
        value.name = fresh
        return
    each = draw(st.sampled_from([each for each in names if each] or [["x"]]))
    each[draw(st.integers(0, len(each) - 1))] = fresh


def _edit_order(draw: st.DrawFn, graph: Any) -> None:
    part = draw(st.sampled_from([graph.node, graph.initializer, graph.input, graph.output]))
    if len(part) < 2:
        return
    place = draw(st.integers(0, len(part) - 1))
    if draw(st.booleans()):
        del part[place]
    else:
        part.append(part[place])


@settings(FEW, max_examples=500)
@given(edited_network(NETWORK) | edited_bytes(NETWORK) | st.binary(max_size=200))
def test_network(network: bytes) -> None:
    with bounded(len(network)):
        try:
            onnx_graph.read(network, "prior.onnx")
        except BundleError as error:
            one_line(error)
    read_context(resealed(network), network)


@settings(FEW, max_examples=300)
@given(edited_network(PLANES_NETWORK) | edited_bytes(PLANES_NETWORK))
def test_network_of_planes(network: bytes) -> None:
    named = json.loads(PLANES_JSON) | {"network_sha256": hashlib.sha256(network).hexdigest()}
    read_planes(json.dumps(named).encode(), network)


def network_of(nodes: list[Any], *constants: TensorProto) -> bytes:
    """A network with the inputs and the output that the tiny prior's schedule asks for."""
    model = onnx.ModelProto.FromString(NETWORK)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    data: bytes = model.SerializeToString()
    return data


def constant(name: str, dims: list[int], values: Any = ()) -> TensorProto:
    raw = np.asarray(values, np.float32).tobytes()
    return TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT, raw_data=raw)


GATHER: Final = helper.make_node("Gather", ["table", "s1g0.earlier0"], ["x"])


def after_gather(operation: str, *inputs: str) -> list[Any]:
    return [GATHER, helper.make_node(operation, ["x", *inputs], ["s1g0.sums"])]


NETWORKS: Final[dict[str, Callable[[], bytes]]] = {
    "Gather without an index": lambda: network_of([helper.make_node("Gather", ["table"], ["s1g0.sums"])]),
    "Conv by a scalar": lambda: network_of(after_gather("Conv", "w"), constant("w", [], 1)),
    "Conv by no weights": lambda: network_of(after_gather("Conv", "w"), constant("w", [0, 3])),
    "Conv by empty weights of 2**26 rows": lambda: network_of(
        after_gather("Conv", "w"), constant("w", [1 << 26, 0])
    ),
    "Conv by empty weights of 2**60 rows": lambda: network_of(
        after_gather("Conv", "w"), constant("w", [1 << 60, 0])
    ),
    "MatMul by empty weights of 2**26 columns": lambda: network_of(
        after_gather("MatMul", "w"), constant("w", [0, 1 << 26])
    ),
    "Conv with a bias of another length": lambda: network_of(
        after_gather("Conv", "w", "b"),
        constant("w", [3, 2], np.ones(6)),
        constant("b", [4], np.ones(4)),
    ),
    "Conv with a bias across its rows": lambda: network_of(
        after_gather("Conv", "w", "b"),
        constant("w", [6000, 1], np.ones(6000)),
        constant("b", [6000, 1], np.ones(6000)),
    ),
    "Clip to nothing": lambda: network_of(after_gather("Clip", "w", "w"), constant("w", [0])),
    "many small scales": lambda: network_of(
        [
            GATHER,
            *(
                helper.make_node("Mul", [f"x{i}" if i else "x", "w"], [f"x{i + 1}"])
                for i in range(2000)
            ),
            helper.make_node("Add", ["x2000", "table"], ["s1g0.sums"]),
        ],
        constant("w", [], 2.0**-24),
    ),
    "a refused output whose name is not UTF-8": lambda: network_of(
        [GATHER, helper.make_node("Cast", ["x"], ["left open"])]
    ).replace(b"left open", b"\xff" * 9),
    "an input whose name is not UTF-8": lambda: NETWORK.replace(b"s1g0.band", b"s1g0.b\xffnd"),
    "dimensions that overflow": lambda: network_of(
        after_gather("Conv", "w"), constant("w", [1 << 32, 1 << 32])
    ),
    "too many dimensions": lambda: network_of(after_gather("Conv", "w"), constant("w", [1] * 65, 1)),
    "a constant used 1000 times": lambda: network_of(
        [
            GATHER,
            *(
                helper.make_node("Add", ["w", "w"], [f"x{i}"])
                for i in range(1000)
            ),
            helper.make_node("Floor", ["nowhere"], ["s1g0.sums"]),
        ],
        constant("w", [100_000], np.full(100_000, 2.0**-24)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_network_meant_to_hurt_is_refused(make: Callable[[], bytes]) -> None:
    network = make()
    assert read_context(resealed(network), network) is None
