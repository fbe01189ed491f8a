"""The static prior: normalisation, strict reading, and the bounds the coder keeps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndsc.codec import entropy
from ndsc.codec.errors import BundleError
from ndsc.codec.prior import FREQUENCY_TOTAL, StaticPrior

COUNTS = st.lists(st.integers(0, 10**12), min_size=2, max_size=300)


@given(COUNTS)
def test_frequencies_are_positive_and_total(counts: list[int]) -> None:
    (table,) = StaticPrior.from_counts([np.array(counts)]).frequencies
    assert table.min() >= 1
    assert int(table.sum(dtype=np.int64)) == FREQUENCY_TOTAL
    # More often seen is never rarer, and no share is off by more than the rounding of one part.
    shares = np.array(counts, dtype=float) if any(counts) else np.ones(len(counts))
    exact = 1 + shares / shares.sum() * (FREQUENCY_TOTAL - len(counts))
    assert np.abs(table - exact).max() < 1 + 1e-6


@pytest.mark.parametrize(
    ("counts", "frequencies"),
    [
        ([0, 0], [32768, 32768]),
        ([0, 5], [1, 65535]),
        # 65533 parts by thirds: 21844 + 1/3 each; the part left over goes to the lowest index.
        ([7, 7, 7], [21846, 21845, 21845]),
        # 65534 * 1/3 and 2/3: remainders 2/3 and 1/3.
        ([1, 2], [21846, 43690]),
    ],
)
def test_normalisation_rule(counts: list[int], frequencies: list[int]) -> None:
    assert StaticPrior.from_counts([np.array(counts)]).frequencies[0].tolist() == frequencies


@pytest.mark.parametrize("counts", [[1], [-1, 2], [0.5, 0.5], [[1, 2]], [1] * 65537])
def test_bad_counts(counts: list[Any]) -> None:
    with pytest.raises(ValueError, match="counts must"):
        StaticPrior.from_counts([np.array(counts)])


def test_the_largest_codebook_has_one_part_each() -> None:
    prior = StaticPrior.from_counts([np.arange(65536)])
    assert prior.frequencies[0].tolist() == [1] * 65536


def test_json_round_trip() -> None:
    prior = StaticPrior.from_counts([np.arange(16), np.ones(2, np.int64)])
    again = StaticPrior.from_json(prior.files()["prior.json"])
    assert again.codebook_sizes == (16, 2)
    for one, other in zip(prior.frequencies, again.frequencies, strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.files()["prior.json"] == prior.files()["prior.json"]
    with pytest.raises(ValueError, match="read-only"):
        again.frequencies[0][0] = 7


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "network"},
        {"frequency_bits": 15},
        {"frequency_bits": True},
        {"more": 1},
        {"frequencies": []},
        {"frequencies": [[65536]]},
        {"frequencies": [[0, 65536]]},
        {"frequencies": [[-1, 65537]]},
        {"frequencies": [[1, 2]]},
        {"frequencies": [[1.0, 65535.0]]},
        {"frequencies": [["1", "65535"]]},
        {"frequencies": [[2**32 + 1, 65535]]},
        {"frequencies": "x"},
        {"frequencies": [[32768, 32768]] * 17},
        {"frequencies": [[2**70, 1]]},
    ],
)
def test_bad_prior_files(change: dict[str, Any]) -> None:
    content = {"kind": "static-table", "frequency_bits": 16, "frequencies": [[1, 65535]]} | change
    with pytest.raises(BundleError, match=r"prior.json") as caught:
        StaticPrior.from_json(json.dumps(content).encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_prior_file_that_is_no_json(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"prior.json"):
        StaticPrior.from_json(data)


def test_ideal_bits() -> None:
    prior = StaticPrior((np.array([32768, 16384, 16384], np.uint32), np.array([1, 65535], np.uint32)))
    assert prior.ideal_bits(np.array([[[0, 1], [2, 0]]])) == pytest.approx(1 + 2 + 2 + 1)
    assert prior.ideal_bits(np.array([[[0]], [[0]]])) == pytest.approx(1 + 16)
    assert prior.ideal_bits(np.array([[[0]], [[1]]])) == pytest.approx(1 - np.log2(65535 / 65536))


@given(COUNTS, st.integers(0, 2**32 - 1))
def test_no_index_costs_more_or_less_than_the_bounds(counts: list[int], seed: int) -> None:
    prior = StaticPrior.from_counts([np.array(counts)])
    table = prior.frequencies[0]
    for index in (int(table.argmin()), int(table.argmax()), seed % table.size):
        repeats = 3000
        coded = 8 * len(entropy.encode([np.full(repeats, index, np.int32)], prior.frequencies))
        # Sealing the stream takes up to two words.
        least, most = prior.bits_of_payload(1, repeats)
        assert least - 32 <= coded <= most + 64
    assert least <= most < 16.01 * repeats
