"""Range coding: exact golden words, round trips, and what the coder does not notice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndsc.codec import entropy
from ndsc.codec.errors import PayloadCorruptError
from ndsc.codec.prior import StaticPrior

PRIOR = StaticPrior.from_counts([np.arange(1, 17), np.array([5, 0, 0, 1000])])


def test_golden_words() -> None:
    """These bytes are the format: a change here breaks every payload ever written."""
    first = np.array([15, 14, 0, 3, 7, 7, 1, 12, 9, 15, 15, 2], np.int32)
    second = np.array([3, 3, 3, 0, 3, 1, 3, 2, 3, 3, 3, 3], np.int32)
    coded = entropy.encode([first, second], PRIOR.frequencies)
    assert coded.hex() == "446523f956655bc3bdbeabf9"
    decoded = entropy.decode(coded, [12, 12], PRIOR.frequencies)
    for expected, got in zip([first, second], decoded, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int32


@given(st.lists(st.integers(0, 15), max_size=200), st.lists(st.integers(0, 3), max_size=200))
def test_round_trip(first: list[int], second: list[int]) -> None:
    stages = [np.array(first, np.int32), np.array(second, np.int32)]
    coded = entropy.encode(stages, PRIOR.frequencies)
    assert len(coded) % 4 == 0
    decoded = entropy.decode(coded, [len(first), len(second)], PRIOR.frequencies)
    for expected, got in zip(stages, decoded, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_raster_order_and_memory_layout_do_not_matter() -> None:
    grid = np.random.default_rng(3).integers(0, 16, (5, 9), dtype=np.int32)
    coded = entropy.encode([grid], PRIOR.frequencies)
    assert coded == entropy.encode([np.asfortranarray(grid)], PRIOR.frequencies)
    assert coded == entropy.encode([grid.ravel()], PRIOR.frequencies)
    assert coded != entropy.encode([grid.T], PRIOR.frequencies)


def test_rate_is_close_to_the_ideal() -> None:
    rng = np.random.default_rng(4)
    indices = rng.choice(16, size=(1, 64, 64), p=PRIOR.frequencies[0] / 65536).astype(np.int32)
    coded_bits = 8 * len(entropy.encode(list(indices), PRIOR.frequencies))
    ideal = PRIOR.ideal_bits(indices)
    assert ideal < coded_bits < ideal + 64


@given(st.binary(max_size=64))
def test_any_bytes_decode_to_indices_inside_the_codebook(data: bytes) -> None:
    """Why a payload carries a checksum: the coder itself rarely notices."""
    try:
        first, second = entropy.decode(data[: len(data) // 4 * 4], [20, 30], PRIOR.frequencies)
    except PayloadCorruptError:
        return
    assert (first.size, second.size) == (20, 30)
    assert 0 <= first.min() <= first.max() < 16
    assert 0 <= second.min() <= second.max() < 4


def test_bytes_outside_every_symbol_are_reported_as_damage() -> None:
    """The one case that the coder notices must leave it as a typed error."""
    with pytest.raises(PayloadCorruptError):
        entropy.decode(b"\xff" * 64, [200, 0], PRIOR.frequencies)
