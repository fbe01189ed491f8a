"""Block error rates that need no measuring: doing nothing, the best possible, what good codes come to."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm


def ignoring(crossover: float, bits: int) -> float:
    """BLER of x̂ = y, whatever was sent: 1 − (1 − p)^n."""
    return -math.expm1(bits * math.log1p(-crossover))


def converse(crossover: float, bits: int, message_bits: int) -> float:
    """No code of `message_bits` bits for a block of `bits` has a lower BLER. Exact, for p < 1/2.

    To one y the decoder has at most 2^k different answers, so it is right for at most 2^k error patterns x ⊕ y, at
    best the likeliest: all of weight 0, 1, … until 2^k are spent. An encoder that sees y changes nothing, so joint
    codes are bound too.
    """
    left, error = 2**message_bits, 0.0
    for weight in range(bits + 1):
        patterns = math.comb(bits, weight)
        missed = patterns - min(left, patterns)
        left -= patterns - missed
        log_each = weight * math.log(crossover) + (bits - weight) * math.log1p(-crossover)
        if missed:
            error += math.exp(math.log(missed) + log_each)
    return error


def normal_approximation(crossover: float, bits: int, message_bits: int) -> float:
    """BLER that good codes of this length come to, a Gaussian estimate and no bound.

    Cosets of a linear code that carries n − k bits in n over a BSC make a Slepian-Wolf code of k bits with equal
    errors. The expansion of Polyanskiy, Poor and Verdú (2010, Theorem 52) for the BSC,
    log2 M = n (1 − h) − √(nV) Q⁻¹(ε) + ½ log2 n, becomes with log2 M = n − k

        ε = Q( (k − n h(p) + ½ log2 n) / √(n V) ),    V = p (1 − p) log2² ((1 − p) / p).
    """
    p = crossover
    entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    deviation = math.sqrt(bits * p * (1 - p)) * math.log2((1 - p) / p)
    return float(norm.sf((message_bits - bits * entropy + 0.5 * math.log2(bits)) / deviation))


def crossover_at(rate: float, bits: int, message_bits: int) -> float:
    """The p at which `normal_approximation` is `rate`."""
    found = brentq(
        lambda p: math.log(max(1e-300, normal_approximation(p, bits, message_bits)) / rate), 1e-4, 0.11
    )
    return float(found)
