"""The binary source: the 802.11n baseline, the bounds, the paper's output and the phase code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.experiments.binary import paper_code, phase_code, syndromes
from training.experiments.binary.__main__ import check
from training.experiments.binary.blocks import BLOCK_BITS, MESSAGE_BITS, Failures, draw
from training.experiments.binary.figures import GUESSING, LDPC, table
from training.experiments.binary.limits import converse, crossover_at, ignoring, normal_approximation
from training.experiments.binary.paper_code import Output, PaperCode, minus_log_likelihood
from training.experiments.binary.parts import SMOKE, Dials, Tally, kept, plan
from training.experiments.binary.phase_code import LikeliestPattern, PhaseCode, PhaseConfig
from training.experiments.recipe import RecipeError, Row
from training.paper.dense import DenseConfig
from training.published import load_published

HAMMING = torch.tensor([[1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]]).float()
SMALL = DenseConfig(length=12, positions=3, latent_dimension=4, hidden=16, residual=8, blocks=1)


def hamming_code() -> PhaseCode:
    """A code whose encoder sends Hamming (7, 4) syndromes, with weights as training leaves them: near whole."""
    code = PhaseCode(PhaseConfig(piece_bits=7, message_bits=3, hidden=8))
    with torch.no_grad():
        code.weights.copy_(HAMMING + 0.1 * torch.rand(3, 7) - 0.05 + 2 * torch.randint(-1, 2, (3, 7)))
    return code


def rank(matrix: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
    """Over GF(2)."""
    left, found = matrix.copy(), 0
    for column in left.T:
        pivots = found + np.flatnonzero(column[found:])
        if len(pivots):
            left[[found, pivots[0]]] = left[[pivots[0], found]]
            others = np.flatnonzero(column)
            left[others[others != found]] ^= left[found]
            found += 1
    return found


def test_matrix_is_the_standard_s() -> None:
    matrix = syndromes.parity_check_matrix()
    assert matrix.shape == (MESSAGE_BITS, BLOCK_BITS)
    dense = matrix.toarray()
    assert rank(dense) == MESSAGE_BITS
    assert set(np.unique(dense)) == {0, 1}
    # Each block of 27 rows and columns is a permutation or zero, so weights are those of the base matrix.
    checks = (syndromes.SHIFTS >= 0).sum(1)
    bits = (syndromes.SHIFTS >= 0).sum(0)
    assert (dense.sum(1) == checks.repeat(syndromes.LIFT)).all()
    assert (dense.sum(0) == bits.repeat(syndromes.LIFT)).all()
    assert dense.sum() == 2376
    # The standard's parity part ends in a staircase: bit 0 of block column 19 is in checks 0 and 27 alone.
    assert np.flatnonzero(dense[:, 19 * 27]).tolist() == [0, 27]


def test_no_block_fails_where_the_baseline_must_not() -> None:
    assert syndromes.measure(0.010, 3000, kind=syndromes.Decoder.GUESSING).failed == 0


def test_a_guess_decodes_blocks_on_which_belief_propagation_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed() -> int:
        kind = syndromes.Decoder.GUESSING
        return syndromes.measure(0.016, 300, kind=kind, iterations=8, seed=3).failed

    guessing = failed()
    monkeypatch.setattr(syndromes, "GUESSES", 0)
    assert guessing < failed()


def test_the_baseline_fails_where_no_code_can_do_better() -> None:
    assert syndromes.measure(0.05, 20).rate > 0.9


@pytest.mark.parametrize("kind", syndromes.Decoder)
def test_every_decoder_of_the_syndromes_works(kind: syndromes.Decoder) -> None:
    assert syndromes.measure(0.006, 50, kind=kind).failed == 0


def test_ignoring() -> None:
    assert ignoring(0.003, 648) == pytest.approx(1 - 0.997**648)
    assert ignoring(1e-12, 648) == pytest.approx(648e-12)


def test_published_neural_codes_are_on_the_line_of_ignoring() -> None:
    for system in ("VQ-VAE, joint", "VQ-VAE, distributed"):
        for p, rate in load_published("binary_block_error_rate").curve(system).points:
            assert rate == pytest.approx(ignoring(p, 648), abs=0.008)


def test_no_message_leaves_ignoring_and_all_bits_leave_nothing() -> None:
    assert converse(0.01, 648, 0) == pytest.approx(ignoring(0.01, 648))
    assert converse(0.01, 24, 24) == 0


def test_hamming_codes_reach_the_converse() -> None:
    p = 0.02
    assert converse(p, 7, 3) == pytest.approx(1 - (1 - p) ** 7 - 7 * p * (1 - p) ** 6)
    found = phase_code.measure(hamming_code(), p, 40_000, 7, table=LikeliestPattern(HAMMING))
    low, high = found.interval
    assert low < converse(p, 7, 3) < high


def test_normal_approximation_is_close_to_the_converse_where_it_should_be() -> None:
    assert 0.021 < crossover_at(1e-3, 648, 162) < 0.0235
    for p in (0.02, 0.0215, 0.025, 0.03):
        assert normal_approximation(p, 648, 162) == pytest.approx(converse(p, 648, 162), rel=0.25)


def test_normal_approximation_at_capacity_is_near_a_half() -> None:
    p = 0.11002786  # h(p) = 1/2
    assert normal_approximation(p, 10_000, 5_000) == pytest.approx(0.5, abs=0.06)


def test_interval() -> None:
    assert Failures(0, 3000).interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 3000)))
    assert Failures(10, 10).interval[1] == 1.0
    low, high = (Failures(3, 60) + Failures(2, 40)).interval
    assert (low, high) == pytest.approx((0.0164, 0.1128), abs=1e-4)  # textbook: 5 of 100


def test_channel() -> None:
    x, y = draw(2000, 100, 0.1, torch.Generator().manual_seed(0))
    assert {*x.flatten().tolist()} == {*y.flatten().tolist()} == {0.0, 1.0}
    assert float((x != y).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.01)


def test_paper_output_cannot_leave_y_while_alpha_is_above_a_half() -> None:
    torch.manual_seed(0)
    code = PaperCode(SMALL)
    side = torch.randint(2, (64, 12)).float() - 0.5
    latents = 1000 * torch.randn(64, 4, 1, 3)  # as sure as can be
    assert torch.equal(code.decode(latents, side), side)  # α = 1
    with torch.no_grad():
        code.side_weight.fill_(0.51)
        assert torch.equal(code.decode(latents, side) > 0, side > 0)
        code.side_weight.fill_(0.4)
        assert not torch.equal(code.decode(latents, side) > 0, side > 0)


def test_logits_let_a_sure_message_win() -> None:
    torch.manual_seed(0)
    code = PaperCode(SMALL, Output.LOGITS)
    side = torch.randint(2, (64, 12)).float() - 0.5
    assert torch.equal(code.decode(torch.zeros(64, 4, 1, 3), side) > 0, side > 0)
    assert not torch.equal(code.decode(1000 * torch.randn(64, 4, 1, 3), side) > 0, side > 0)


def test_loss_is_the_log_likelihood() -> None:
    source = torch.tensor([[0.5, -0.5]])
    output = torch.tensor([[0.4, 0.3]])  # probabilities of a 1: 0.9 and 0.8
    expected = -np.log(0.9) - np.log(0.2)
    assert float(minus_log_likelihood(output, source)) == pytest.approx(expected, abs=1e-4)


def test_an_untrained_paper_code_ignores_its_message() -> None:
    torch.manual_seed(0)
    code = PaperCode(SMALL).eval()
    right = paper_code.measure(code, 0.05, 3000)
    low, high = right.interval
    assert low < ignoring(0.05, 12) < high
    assert paper_code.measure(code, 0.05, 3000, wrong_message=True) == right


def test_messages_are_linear_and_whole_turns_do_not_count() -> None:
    torch.manual_seed(0)
    code = hamming_code()
    assert torch.equal(code.parities, HAMMING)
    x, y = draw(200, 7, 0.5, torch.Generator().manual_seed(1))
    both = code.encode((x - y).abs())
    assert torch.equal((code.encode(x) - code.encode(y)).abs(), both)


def test_table_names_the_lightest_pattern() -> None:
    table = LikeliestPattern(HAMMING)
    single = torch.eye(7)
    assert torch.equal(table.decode((single @ HAMMING.T).remainder(2)), single)
    assert not table.decode(torch.zeros(1, 3)).any()


def test_dithered_bits_agree_by_the_bits_that_differ() -> None:
    """With whole weights the training bits are the parities, whatever the dither: the loss of both is one."""
    torch.manual_seed(0)
    code = hamming_code()
    with torch.no_grad():
        code.weights.copy_(code.weights.round())
    x, y = draw(300, 7, 0.1, torch.Generator().manual_seed(1))
    losses = [
        float(code.loss(x, y, rounded=rounded, generator=torch.Generator().manual_seed(2)).detach())
        for rounded in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_short_code_is_learned_and_uses_its_message() -> None:
    config = PhaseConfig(piece_bits=12, message_bits=5, hidden=64, steps=500, batch_size=256, crossover=0.02)
    code = phase_code.train(config)
    columns = {tuple(column) for column in code.parities.T.tolist()}
    right = phase_code.measure(code, 0.01, 4000, 24)
    assert len(columns) >= 10
    assert right.interval[1] < ignoring(0.01, 24) / 2
    assert phase_code.measure(code, 0.01, 4000, 24, wrong_message=True).rate > 0.5


def test_random_parities_stay() -> None:
    config = PhaseConfig(piece_bits=12, message_bits=5, hidden=16, steps=5, learned_encoder=False)
    torch.manual_seed(config.seed)
    start = PhaseCode(config).parities
    assert torch.equal(phase_code.train(config).parities, start)


def test_training_is_the_same_twice() -> None:
    config = PhaseConfig(piece_bits=12, message_bits=5, hidden=16, steps=20)
    first, second = phase_code.train(config), phase_code.train(config)
    assert torch.equal(first.weights, second.weights)


def test_a_finished_part_is_not_done_again_unless_settings_change(tmp_path: Path) -> None:
    calls = []

    def make(*_: object) -> tuple[list[Tally], list[str]]:
        calls.append(1)
        return [Tally("a", 0.1, 0, Failures(1, 10), Failures(2, 10))], ["note"]

    def get(settings: object) -> tuple[Tally, ...]:
        part = kept("a", make, SMOKE, torch.device("cpu"), tmp_path, lambda done, total: None, settings)
        return part.tallies

    assert get({"x": (1, 2)}) == get({"x": (1, 2)})
    assert len(calls) == 1
    get({"x": (1, 3)})
    assert len(calls) == 2


def test_settings_of_a_part_hold_what_changes_it() -> None:
    for name, dials in {
        "ldpc": replace(Dials(), ldpc_blocks=3),
        "joint": replace(Dials(), epochs=1.0),
        "phase": replace(Dials(), phase=PhaseConfig(hidden=2)),
        "phase-long": replace(Dials(), long_hidden=2),
        "short": replace(Dials(), short_steps=2),
    }.items():
        assert plan(dials)[name][1] != plan(Dials())[name][1]
    assert plan(replace(Dials(), epochs=1.0))["phase"][1] == plan(Dials())["phase"][1]


def rows(code: str, p: float, failed: int, blocks: int = 1000) -> list[Row]:
    return table([Tally(code, p, 0, Failures(failed, blocks))])


def test_table_pools_seeds_and_sets_the_paper_beside() -> None:
    tallies = [Tally("paper, joint", 0.003, seed, Failures(850 + seed, 1000)) for seed in range(3)]
    (row,) = table(tallies)
    assert (row["seeds"], row["blocks"], row["failed"]) == (3, 3000, 2553)
    assert row["bler_paper"] == 0.86017
    assert row["seeds_95"] == pytest.approx(4.303 * 0.001 / 3**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("code", "p", "failed"),
    [
        (LDPC, 0.010, 10),
        (GUESSING, 0.003, 10),
        ("phase 24, learned encoder, learned decoder", 0.003, 850),
        ("802.11n LDPC, min-sum", 0.030, 1),  # below the converse
    ],
)
def test_results_that_cannot_be_right_are_refused(code: str, p: float, failed: int) -> None:
    with pytest.raises(RecipeError):
        check(rows(code, p, failed), 24)


def test_sane_results_pass() -> None:
    check(rows(LDPC, 0.010, 9, 20_000) + rows(GUESSING, 0.010, 0) + rows(LDPC, 0.030, 450), 24)
