"""The baseline: syndromes of the 802.11n matrix, decoded by belief propagation on its sparse graph.

The message is H x. The decoder knows H y, so it knows H e of e = x ⊕ y, whose bits are 1 with probability p:
belief propagation finds the likely e with that syndrome, and x̂ = y ⊕ e. It must be given the matrix as it is
(elimination makes it dense, and belief propagation blind), log-likelihoods of the p at hand, and time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from training.experiments.binary.blocks import Failures

SHIFTS: Final = np.array(
    [
        [16, 17, 22, 24, 9, 3, 14, -1, 4, 2, 7, -1, 26, -1, 2, -1, 21, -1, 1, 0, -1, -1, -1, -1],
        [25, 12, 12, 3, 3, 26, 6, 21, -1, 15, 22, -1, 15, -1, 4, -1, -1, 16, -1, 0, 0, -1, -1, -1],
        [25, 18, 26, 16, 22, 23, 9, -1, 0, -1, 4, -1, 4, -1, 8, 23, 11, -1, -1, -1, 0, 0, -1, -1],
        [9, 7, 0, 1, 17, -1, -1, 7, 3, -1, 3, 23, -1, 16, -1, -1, 21, -1, 0, -1, -1, 0, 0, -1],
        [24, 5, 26, 7, 1, -1, -1, 15, 24, 15, -1, 8, -1, 13, -1, 13, -1, 11, -1, -1, -1, -1, 0, 0],
        [2, 2, 19, 14, 24, 1, 15, 19, -1, 21, -1, 2, -1, 24, -1, 3, -1, 2, 1, -1, -1, -1, -1, 0],
    ]
)
"""IEEE 802.11n, n = 648, rate 3/4: cyclic shift of each 27x27 identity, −1 for a block of zeros."""
LIFT: Final = 27


def parity_check_matrix() -> csr_matrix[Any]:
    """H, uint8 [162, 648]."""
    rows, columns = np.nonzero(SHIFTS >= 0)
    step = np.arange(LIFT)
    shifted = (step + SHIFTS[rows, columns][:, None]) % LIFT
    checks = (LIFT * rows[:, None] + step).ravel()
    bits = (LIFT * columns[:, None] + shifted).ravel()
    ones = np.ones(len(checks), np.uint8)
    shape = (LIFT * SHIFTS.shape[0], LIFT * SHIFTS.shape[1])
    return csr_matrix((ones, (checks, bits)), shape=shape)


class Decoder(StrEnum):
    """What finds the error pattern of a syndrome."""

    PRODUCT_SUM = "product-sum"
    """All bits at once in each iteration ("flooding")."""
    GUESSING = "product-sum, serial, guessing"
    """Bit after bit, each from what the bits before it have learned: seldom stuck where flooding swings. A decoder
    that is stuck knows it; then the bits that it is least sure of are taken to be errors, one at a time, until a
    pattern has the syndrome."""
    MIN_SUM = "min-sum"
    """Scaled by 0.75."""
    OSD = "product-sum, OSD-0"
    """Ordered statistics after belief propagation that did not converge."""


GUESSES: Final = 40
"""Bits that `Decoder.GUESSING` tries."""
_SURE: Final = 0.999
"""Probability of an error in a guessed bit."""


def _decoder(matrix: csr_matrix[Any], kind: Decoder, crossover: float, iterations: int) -> Any:
    from ldpc.bp_decoder import BpDecoder  # this recipe alone needs it
    from ldpc.bposd_decoder import BpOsdDecoder

    method = "minimum_sum" if kind is Decoder.MIN_SUM else "product_sum"
    options: dict[str, Any] = {
        "error_rate": crossover,
        "max_iter": iterations,
        "bp_method": method,
        "ms_scaling_factor": 0.75,
    }
    if kind is Decoder.OSD:
        return BpOsdDecoder(matrix, osd_method="OSD_0", osd_order=0, **options)
    return BpDecoder(matrix, schedule="serial" if kind is Decoder.GUESSING else "parallel", **options)


def _guess(decoder: Any, syndrome: NDArray[np.uint8], crossover: float) -> NDArray[np.uint8]:
    """A pattern after `decoder` was stuck on `syndrome`: the first guess that converges, or the last one's."""
    pattern: NDArray[np.uint8] = decoder.decoding
    least_sure = np.argsort(np.abs(decoder.log_prob_ratios))[:GUESSES]
    for bit in least_sure:
        probabilities = np.full(len(pattern), crossover)
        probabilities[bit] = _SURE
        decoder.update_channel_probs(probabilities)
        pattern = decoder.decode(syndrome)
        if decoder.converge:
            break
    decoder.update_channel_probs(np.full(len(pattern), crossover))
    return pattern


def measure(
    crossover: float,
    blocks: int,
    *,
    kind: Decoder = Decoder.PRODUCT_SUM,
    iterations: int = 100,
    seed: int = 0,
    matrix: csr_matrix[Any] | None = None,
) -> Failures:
    """Send `blocks` blocks through a BSC(crossover) and count those that do not come back.

    `matrix` [k, n] uint8 is the 802.11n one unless given.
    """
    checks = parity_check_matrix() if matrix is None else matrix
    decoder = _decoder(checks, kind, crossover, iterations)
    generator = np.random.default_rng(seed)
    failed = 0
    for _ in range(blocks):
        source = generator.integers(2, size=checks.shape[1], dtype=np.uint8)
        side = source ^ (generator.random(checks.shape[1]) < crossover).astype(np.uint8)
        message = checks @ source & 1
        syndrome = message ^ (checks @ side & 1)
        pattern = decoder.decode(syndrome)
        if kind is Decoder.GUESSING and not decoder.converge:
            pattern = _guess(decoder, syndrome, crossover)
        failed += not np.array_equal(side ^ pattern, source)
    return Failures(failed, blocks)
