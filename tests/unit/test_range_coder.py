"""The fallback range coder: the same bytes, the same indices and the same refusals as constriction."""

from __future__ import annotations

import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndsc.codec import entropy, range_coder
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import PayloadCorruptError
from ndsc.codec.prior import FREQUENCY_TOTAL, StaticPrior

MODEL = Path(__file__).parents[2] / "models" / "default"

Table = NDArray[np.uint32]
Decode = Callable[[bytes, Sequence[int], Sequence[Table]], list[NDArray[np.int32]]]


def normalised(counts: NDArray[np.int64]) -> Table:
    return StaticPrior.from_counts([counts]).frequencies[0]


def one_likely(size: int, likely: int) -> Table:
    """The most extreme table: one entry of 2**16 - K + 1, the others 1."""
    table = np.ones(size, np.uint32)
    table[likely] = FREQUENCY_TOTAL - size + 1
    return table


@st.composite
def tables(draw: st.DrawFn) -> Table:
    size = draw(st.one_of(st.integers(2, 40), st.integers(2, 4096), st.sampled_from([2, 3, 512, 4096])))
    kind = draw(st.sampled_from(["one likely", "flat", "steep", "any sum"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "one likely":
        return one_likely(size, draw(st.sampled_from([0, size // 2, size - 1])))
    if kind == "flat":
        return normalised(np.ones(size, np.int64))
    if kind == "steep":
        return normalised((rng.pareto(0.3, size).clip(max=1e9) * 1000).astype(np.int64))
    # The bitstream has no such tables; they round where a prior's do not.
    return rng.integers(1, draw(st.sampled_from([3, 1000, 2**32 - 1])), size, dtype=np.uint32)


@st.composite
def stages(draw: st.DrawFn) -> tuple[list[NDArray[np.int32]], list[Table]]:
    chosen = draw(st.lists(tables(), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    indices = []
    for table in chosen:
        length = draw(st.integers(0, 600))
        if draw(st.booleans()):
            indices.append(rng.integers(table.size, size=length, dtype=np.int32))
        else:
            drawn = rng.choice(table.size, size=length, p=table / table.sum(dtype=np.float64))
            indices.append(drawn.astype(np.int32))
    return indices, chosen


def fallback_decode(
    data: bytes, counts: Sequence[int], frequencies: Sequence[Table]
) -> list[NDArray[np.int32]]:
    reader = range_coder.Decoder(data)
    return [reader.decode(count, table) for count, table in zip(counts, frequencies, strict=False)]


def check_both(indices: Sequence[NDArray[np.int32]], frequencies: Sequence[Table]) -> bytes:
    coded = range_coder.encode(indices, frequencies)
    assert coded == entropy.encode(indices, frequencies)
    decoded = fallback_decode(coded, [stage.size for stage in indices], frequencies)
    for expected, got in zip(indices, decoded, strict=True):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, expected)
    return coded


def outcome(
    decode: Decode, data: bytes, counts: Sequence[int], frequencies: Sequence[Table]
) -> list[list[int]] | str:
    try:
        return [stage.tolist() for stage in decode(data, counts, frequencies)]
    except PayloadCorruptError as error:
        return str(error)


def same_outcome(data: bytes, counts: Sequence[int], frequencies: Sequence[Table]) -> bool:
    """Both coders' outcomes are equal; whether it was indices."""
    ours = outcome(fallback_decode, data, counts, frequencies)
    assert ours == outcome(entropy.decode, data, counts, frequencies)
    return not isinstance(ours, str)


@pytest.fixture(autouse=True, scope="module")
def _constriction_is_the_other_side() -> None:
    constriction = pytest.importorskip("constriction")
    assert entropy._stream() is constriction.stream


@given(stages())
@settings(max_examples=150, deadline=None)
def test_same_bytes_and_back(coded: tuple[list[NDArray[np.int32]], list[Table]]) -> None:
    check_both(*coded)


@pytest.mark.parametrize("size", [2, 16, 512, 4096])
def test_every_length(size: int) -> None:
    rng = np.random.default_rng(size)
    table = normalised(rng.integers(0, 1000, size))
    indices = rng.integers(size, size=600, dtype=np.int32)
    for length in range(601):
        assert range_coder.encode([indices[:length]], [table]) == entropy.encode([indices[:length]], [table])
    check_both([indices], [table])


@pytest.mark.parametrize("size", [2, 3, 255, 4096])
@pytest.mark.parametrize("place", [0, -1])
def test_extreme_frequencies(size: int, place: int) -> None:
    """The likely index for ever, the unlikely ones alone, and one of them in a long likely run."""
    table = one_likely(size, place)
    likely, unlikely = (0, size - 1) if place == 0 else (size - 1, 0)
    run = np.full(20_000, likely, np.int32)
    check_both([run], [table])
    check_both([np.full(2_000, unlikely, np.int32)], [table])
    run[::1_999] = unlikely
    check_both([run], [table])


@pytest.mark.parametrize("seed", range(3))
def test_long_streams(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = [normalised(rng.integers(0, 50, size) ** 3) for size in (512, 2, 1024)]
    drawn = [
        rng.choice(table.size, size=30_000, p=table / FREQUENCY_TOTAL).astype(np.int32) for table in chosen
    ]
    check_both(drawn, chosen)


def test_a_carry_runs_through_many_words() -> None:
    """Each index is the one whose interval holds 1/2, so that no word is certain until the last indices."""
    table = np.array([21_000, 20_000, FREQUENCY_TOTAL - 41_000], np.uint32)
    edges = range_coder._edges(table).tolist()
    offset, width = 1 << 63, (1 << 64) - 1
    straddling = []
    for _ in range(5_000):
        unit = width >> 24
        index = bisect_right(edges, offset // unit) - 1
        straddling.append(index)
        offset -= unit * edges[index]
        width = unit * (edges[index + 1] - edges[index])
        if width < 1 << 32:
            offset, width = offset << 32, width << 32
    firsts = []
    for last in (0, 2):
        coded = check_both([np.array([*straddling, *[last] * 60], np.int32)], [table])
        words = np.frombuffer(coded, "<u4")
        assert words.size > 200
        assert np.unique(words[1:200]).size == 1
        firsts.append((int(words[0]), int(words[1])))
    assert firsts == [(2**31 - 1, 2**32 - 1), (2**31, 0)]


@given(st.binary(max_size=400), st.lists(tables(), min_size=1, max_size=3), st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_have_the_same_outcome(data: bytes, chosen: list[Table], count: int) -> None:
    same_outcome(data[: len(data) // 4 * 4], [count] * len(chosen), chosen)


def test_damaged_streams_have_the_same_outcome() -> None:
    """Truncated, flipped, extended and foreign streams, of which some must be refused and some not."""
    rng = np.random.default_rng(8)
    chosen = [normalised(rng.integers(0, 1000, 512)), one_likely(300, 7)]
    drawn = [rng.integers(table.size, size=150, dtype=np.int32) for table in chosen]
    coded = range_coder.encode(drawn, chosen)
    counts = [150, 150]
    outcomes = [same_outcome(coded[:length], counts, chosen) for length in range(0, len(coded), 4)]
    for _ in range(400):
        damaged = np.frombuffer(coded, "<u4").copy()
        damaged[rng.integers(damaged.size)] ^= np.uint32(1 << int(rng.integers(32)))
        outcomes.append(same_outcome(damaged.tobytes(), counts, chosen))
        # Words of ones lie in what the division by 2**24 leaves over at the top of the range.
        ones = np.full(rng.integers(0, 80), 2**32 - 1, np.uint32)
        cut = 4 * int(rng.integers(damaged.size))
        outcomes.append(same_outcome(coded[:cut] + ones.tobytes(), counts, chosen))
        outcomes.append(same_outcome(coded[:cut] + rng.bytes(4 * 40), counts, chosen))
    assert same_outcome(coded + b"\xff" * 8, counts, chosen)
    assert not same_outcome(b"\xff" * 64, counts, chosen)
    assert {True, False} == set(outcomes)


def test_golden_vectors_of_the_default_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "_stream", lambda: None)
    bundle = Bundle.load(MODEL)
    bundle.golden.check(bundle.bitstream)


def test_without_constriction_the_fallback_serves_and_says_so_once() -> None:
    program = """
import logging, sys
sys.modules["constriction"] = None
logging.basicConfig(level=logging.INFO)
from ndsc.codec.bundle import Bundle
Bundle.load(sys.argv[1]).check_golden()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(MODEL)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("INFO:ndsc.codec.entropy:range coding in pure Python, same bytes but slower")


@pytest.mark.parametrize("index", [-1, 3, 2**31 - 1, -(2**31)])
def test_an_index_outside_the_table(index: int) -> None:
    table = np.array([1, 2, FREQUENCY_TOTAL - 3], np.uint32)
    for encode in (range_coder.encode, entropy.encode):
        with pytest.raises(KeyError):
            encode([np.array([0, index], np.int32)], [table])


@pytest.mark.parametrize("table", [[], [FREQUENCY_TOTAL], [0, 0]])
def test_a_table_that_no_coder_takes(table: list[int]) -> None:
    frequencies = np.array(table, np.uint32)
    for encode in (range_coder.encode, entropy.encode):
        with pytest.raises(ValueError):
            encode([np.zeros(1, np.int32)], [frequencies])
    for decode in (fallback_decode, entropy.decode):
        with pytest.raises(ValueError):
            decode(bytes(4), [1], [frequencies])


def test_bytes_that_are_not_whole_words() -> None:
    table = one_likely(4, 1)
    for decode in (fallback_decode, entropy.decode):
        with pytest.raises(ValueError):
            decode(bytes(5), [1], [table])


def test_ten_microseconds_an_index() -> None:
    """At a grid of 47×156 and the largest codebook; the best of five, since other work shares the machine."""
    rng = np.random.default_rng(5)
    table = normalised(rng.integers(0, 1000, 4096))
    indices = rng.integers(4096, size=47 * 156, dtype=np.int32)
    coded = range_coder.encode([indices], [table])

    def best_us(run: Callable[[], object]) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        return min(taken) / indices.size * 1e6

    assert best_us(lambda: range_coder.encode([indices], [table])) < 10
    assert best_us(lambda: fallback_decode(coded, [indices.size], [table])) < 10
