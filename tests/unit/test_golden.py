"""Golden vectors: what they hold, and that a changed one is noticed."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import BundleError
from ndsc.codec.golden import Golden, make_golden

GRIDS = ((1, 1), (1, 7), (3, 5), (16, 32), (47, 156), (16, 32))


def test_vectors_cover_every_level_and_grid(tiny_bundle: Bundle) -> None:
    entries = tiny_bundle.golden.entries
    assert [(e.rate_level, *e.grid) for e in entries] == [
        (level, *grid) for level in range(3) for grid in GRIDS
    ]
    for entry in entries:
        stages = tiny_bundle.stages_sent(entry.rate_level)
        assert len(base64.b64decode(entry.indices)) == 2 * stages * entry.grid[0] * entry.grid[1]
    tiny_bundle.golden.check(tiny_bundle.bitstream)


def test_making_is_deterministic_and_survives_json(tiny_bundle: Bundle) -> None:
    again = make_golden(tiny_bundle.bitstream)
    assert again == tiny_bundle.golden
    assert Golden.from_json(again.to_json()) == again


def test_drawn_vectors_follow_the_prior_and_the_last_is_uniform(tiny_bundle: Bundle) -> None:
    drawn, uniform = (
        np.frombuffer(base64.b64decode(entry.indices), "<u2") for entry in tiny_bundle.golden.entries[4:6]
    )
    expected = np.arange(1, 17) / 136
    assert np.abs(np.bincount(drawn, minlength=16) / (47 * 156) - expected).max() < 0.02
    assert np.abs(np.bincount(uniform, minlength=16) / 512 - 1 / 16).max() < 0.04


def changed(golden: Golden, entry: int, **fields: Any) -> Golden:
    content = json.loads(golden.to_json())
    content["entries"][entry] |= fields
    return Golden.from_json(json.dumps(content).encode())


@pytest.mark.parametrize("entry", range(18))
def test_one_changed_bit_of_a_payload_is_noticed(tiny_bundle: Bundle, entry: int) -> None:
    payload = bytearray.fromhex(tiny_bundle.golden.entries[entry].payload)
    payload[entry % len(payload)] ^= 1
    with pytest.raises(BundleError, match=rf"golden vector {entry} .*does not come out"):
        changed(tiny_bundle.golden, entry, payload=payload.hex()).check(tiny_bundle.bitstream)


@pytest.mark.parametrize(
    "fields",
    [
        {"indices": "AAAA"},
        {"indices": "not base64!"},
        {"indices": "é"},
        {"payload": "xyz"},
        {"rate_level": 9},
        {"indices": base64.b64encode(b"\xff\xff").decode()},
    ],
)
def test_vectors_that_cannot_be_coded(tiny_bundle: Bundle, fields: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"golden vector 0 .*cannot be coded") as caught:
        changed(tiny_bundle.golden, 0, **fields).check(tiny_bundle.bitstream)
    assert "\n" not in str(caught.value)


def damaged(golden: Golden, number: int, **fields: Any) -> Golden:
    content = json.loads(golden.to_json())
    content["damaged"][number] |= fields
    return Golden.from_json(json.dumps(content).encode())


def test_every_kind_of_damage_at_every_level_has_its_error(tiny_bundle: Bundle) -> None:
    vectors = tiny_bundle.golden.damaged
    assert len(vectors) == 3 * 11
    assert {v.error for v in vectors} == {"PayloadSizeError", "PayloadCorruptError"}
    assert {v.rate_level for v in vectors} == {0, 1, 2}


def test_damage_that_is_not_refused_or_refused_otherwise_is_noticed(tiny_bundle: Bundle) -> None:
    sound = next(e for e in tiny_bundle.golden.entries if e.grid == [3, 5])
    with pytest.raises(BundleError, match=r"damaged golden vector 3 .* gives indices here"):
        damaged(tiny_bundle.golden, 3, payload=sound.payload).check(tiny_bundle.bitstream)
    with pytest.raises(BundleError, match=r"damaged golden vector 0 .* gives PayloadSizeError here"):
        damaged(tiny_bundle.golden, 0, error="PayloadCorruptError").check(tiny_bundle.bitstream)
    for fields in ({"payload": "xyz"}, {"rate_level": 9}):
        with pytest.raises(BundleError, match=r"damaged golden vector 1 .* cannot be read") as caught:
            damaged(tiny_bundle.golden, 1, **fields).check(tiny_bundle.bitstream)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"entries": []}', b'{"entries": [{}]}'])
def test_a_file_without_vectors_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden.json"):
        Golden.from_json(data)
