"""The context prior: round trips on every small grid, its arithmetic in whole numbers, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndsc.codec import entropy
from ndsc.codec.bundle import Bundle
from ndsc.codec.context import MAX_PASSES, ContextPrior, softmax_weights
from ndsc.codec.errors import BundleError, PayloadCorruptError
from tests.unit.context_prior import CODEBOOK_SIZES, SHIFT, tiny_prior

MODEL = Path(__file__).parents[2] / "models" / "default"


@pytest.fixture(scope="module")
def prior() -> ContextPrior:
    return tiny_prior()


def uniform(
    rng: np.random.Generator, stages: int, height: int, width: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.stack([rng.integers(k, size=(height, width), dtype=np.int32) for k in CODEBOOK_SIZES[:stages]])


@pytest.mark.parametrize("height", range(1, 10))
def test_every_small_grid_comes_back(prior: ContextPrior, height: int) -> None:
    rng = np.random.default_rng(height)
    for width in range(1, 10):
        for stages in (1, 2, 3):
            indices = uniform(rng, stages, height, width)
            coded = prior.encode(indices)
            decoded = prior.decode(coded, stages, height, width)
            assert decoded.dtype == np.int32
            np.testing.assert_array_equal(decoded, indices)


def test_both_coders_make_the_same_bytes(prior: ContextPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    indices = uniform(np.random.default_rng(1), 3, 13, 22)
    coded = prior.encode(indices)
    monkeypatch.setattr(entropy, "_stream", lambda: None)
    assert prior.encode(indices) == coded
    np.testing.assert_array_equal(prior.decode(coded, 3, 13, 22), indices)


def test_what_is_drawn_from_the_prior_costs_what_it_says(prior: ContextPrior) -> None:
    rng = np.random.default_rng(2)
    drawn = prior.sample(rng, 3, 40, 60)
    other = uniform(rng, 3, 40, 60)
    ideal = prior.ideal_bits(drawn)
    assert ideal < 8 * len(prior.encode(drawn)) < 1.001 * ideal + 64
    assert ideal < 0.8 * prior.ideal_bits(other)


def test_digits_hang_on_nothing_that_comes_later(prior: ContextPrior) -> None:
    """The tables of the first group never change, and those of the others only with what is coded before."""
    indices = uniform(np.random.default_rng(3), 3, 8, 12)
    _, tables = prior._digits(indices)
    last = indices.copy()
    last[2, 7, 11] = (last[2, 7, 11] + 1) % 3
    for one, other in zip(tables, prior._digits(last)[1], strict=True):
        np.testing.assert_array_equal(one, other)
    first = indices.copy()
    first[0, 4, 4] ^= 12  # another high digit or low digit of the first group of all
    changed = [
        not np.array_equal(one, other) for one, other in zip(tables, prior._digits(first)[1], strict=True)
    ]
    assert not changed[0]
    assert any(changed[2:])


@given(
    st.lists(st.lists(st.integers(-(2**23), 2**23), min_size=2, max_size=20), min_size=1, max_size=6).filter(
        lambda rows: len({len(row) for row in rows}) == 1
    )
)
@settings(max_examples=300, deadline=None)
def test_frequencies_in_whole_numbers(rows: list[list[int]]) -> None:
    """The rule of the docstring once more, in Python's integers."""
    prior, weights = tiny_prior(), softmax_weights(1 / 16)
    got = prior.frequencies(np.array(rows, np.float32).T)
    for sums, frequencies in zip(rows, got, strict=True):
        logits = [(value + (1 << SHIFT >> 1)) >> SHIFT for value in sums]
        shares = [weights[min(max(logits) - logit, 255)] for logit in logits]
        expected = [1 + share * (65536 - len(sums)) // sum(shares) for share in shares]
        expected[0] += 65536 - sum(expected)
        assert frequencies.tolist() == expected
        assert min(expected) >= 1


def test_bounds_hold_for_the_likeliest_and_the_unlikeliest(prior: ContextPrior) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        height, width = int(rng.integers(1, 30)), int(rng.integers(1, 30))
        least, most = prior.bits_of_payload(3, height * width)
        coded = 8 * len(prior.encode(uniform(rng, 3, height, width)))
        assert least - 32 <= coded <= most + 64
    assert most < 16.01 * 5 * height * width


def test_other_bytes_are_refused_or_give_other_indices(prior: ContextPrior) -> None:
    rng = np.random.default_rng(6)
    indices = prior.sample(rng, 2, 6, 7)
    coded = prior.encode(indices)
    outcomes: set[bool | str] = set()
    for bit in range(8 * len(coded)):
        damaged = bytearray(coded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            outcomes.add(bool((prior.decode(bytes(damaged), 2, 6, 7) != indices).any()))
        except PayloadCorruptError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}


def test_several_threads_share_one_prior(prior: ContextPrior) -> None:
    rng = np.random.default_rng(7)
    frames = [uniform(rng, 3, 5 + i % 4, 9) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        coded = list(pool.map(prior.encode, frames))
    assert coded == [prior.encode(frame) for frame in frames]


def test_files_are_read_back(prior: ContextPrior) -> None:
    files = prior.files()
    assert set(files) == {"prior.json", "prior.onnx"}
    again = ContextPrior.from_files(files["prior.json"], files["prior.onnx"])
    assert again.files() == files
    indices = uniform(np.random.default_rng(8), 3, 9, 9)
    assert again.encode(indices) == prior.encode(indices)
    assert prior.codebook_sizes == CODEBOOK_SIZES
    assert [len(prior.passes(s)) for s in (1, 2, 3)] == [4, 6, 7]


def _stage(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["stages"][0] |= fields

    return change


def _drop_group(content: dict[str, Any]) -> None:
    content["stages"][1]["groups"].pop()


def _short_table(content: dict[str, Any]) -> None:
    content["stages"][0]["groups"][0]["table"][3].pop()


def _more_passes(content: dict[str, Any]) -> None:
    content["stages"] += [content["stages"][1]] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(kind="other"), "kind"),
        (lambda c: c.update(more=1), "more"),
        (lambda c: c.update(weights=c["weights"][:-1]), "weights"),
        (lambda c: c.update(weights=[65535, *c["weights"][1:]]), "weights must fall"),
        (lambda c: c.update(weights=[65536, 5, 6, *c["weights"][3:]]), "weights must fall"),
        (lambda c: c.update(logit_shift=9), "logit_shift"),
        (lambda c: c.update(network_sha256="0" * 64), "not the network"),
        (lambda c: c.update(stages=[]), "stages"),
        (_stage(codebook_size=17), "low_bits does not split"),
        (_stage(low_bits=4), "low_bits does not split"),
        (_stage(order=[0] * 16), "order does not hold"),
        (_drop_group, "every position exactly once"),
        (_short_table, "table row holds"),
        (_more_passes, "at most 8"),
    ],
)
def test_bad_prior_files(prior: ContextPrior, change: Callable[[dict[str, Any]], None], reason: str) -> None:
    files = prior.files()
    content = json.loads(files["prior.json"])
    change(content)
    with pytest.raises(BundleError, match=reason) as caught:
        ContextPrior.from_files(json.dumps(content).encode(), files["prior.onnx"])
    assert "\n" not in str(caught.value)


def test_a_network_for_other_codebooks_is_refused(prior: ContextPrior) -> None:
    """Its tables would have no row for some index."""
    larger = [prior.stages[0], prior.stages[1].model_copy(update={"codebook_size": 16}), prior.stages[2]]
    with pytest.raises(BundleError, match="rows"):
        ContextPrior(larger, softmax_weights(1 / 16), SHIFT, prior.network)


def test_the_released_prior_takes_few_passes_at_any_size() -> None:
    bundle = Bundle.load(MODEL)
    passes = [len(bundle.prior.passes(stages)) for stages in bundle.bitstream.rate_levels]
    assert 1 <= min(passes) <= max(passes) <= MAX_PASSES
