"""Fitting the learned codes on gradients of past runs, and using them in new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.experiments.gradients.classifier import symmetries
from training.gradients.code import (
    GradientCode,
    GradientCodeConfig,
    fingerprint,
    magnitudes_of,
    next_squares,
)
from training.paper.fitting import NOTHING_ELSE, FitConfig, Fitted, fit


def histories(gradients: Tensor, start: Tensor) -> Tensor:
    """What both workers know before each step: magnitudes [R, steps, 412] of runs [R, steps, 2, 412]."""
    squares = start.square().expand(len(gradients), -1)
    known = []
    for pairs in gradients.unbind(1):
        known.append(magnitudes_of(squares))
        squares = next_squares(squares, pairs.mean(1))
    return torch.stack(known, 1)


def gradient_code(
    gradients: Tensor,
    config: GradientCodeConfig,
    fitting: FitConfig,
    *,
    batch_size: int,
    made_with: Mapping[str, Any] = NOTHING_ELSE,
    directory: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[GradientCode, Fitted]:
    """Fit a code on gradients [R, steps, 2, 412] of runs of two workers; resumes in `directory`.

    `made_with` says what made the gradients; a code in `directory` of others is not taken.
    Workers are alike, so either may be the source; and so are the orders of the classifier's channels.
    """
    device, steps = gradients.device, gradients.shape[1]
    table = symmetries().to(device)
    start = gradients[:, 0].square().mean((0, 1))[table].mean(0).sqrt()
    known = histories(gradients, start)
    torch.manual_seed(fitting.seed)
    code = GradientCode(config, start).to(device)

    def sample(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(fitting.seed * 1_000_003 + step)
        run = torch.randint(len(gradients), (batch_size,), generator=generator).to(device)
        # Half of a batch is uniform over steps, half over their logarithm: a run's start is short and decides.
        part = torch.rand(batch_size, generator=generator)
        part[::2] = (steps ** part[::2] - 1) / (steps - 1)
        moment = (part * steps).long().clamp(max=steps - 1).to(device)
        order = table[torch.randint(len(table), (batch_size,), generator=generator).to(device)]
        swapped = torch.randint(2, (batch_size,), generator=generator).to(device)
        source = gradients[run, moment, swapped].gather(1, order)
        side = gradients[run, moment, 1 - swapped].gather(1, order)
        magnitudes = known[run, moment].gather(1, order)
        divisors = code.divisors(code.levels(source, magnitudes), magnitudes)
        return source / divisors, side / divisors

    fitted = fit(
        code.network,
        sample,
        fitting,
        directory=directory,
        made_with={**made_with, "batch_size": batch_size},
        progress=progress,
    )
    return code.eval(), fitted


class CodeCompressor:
    """Learned codes between worker 1 and the server; messages go through their bytes.

    Run r uses code r mod K of the K codes: bars over runs hold some of the spread of fits, too little of few fits.
    `corrected`: the server uses `GradientCode.estimate`, not x̂ itself.
    """

    def __init__(self, *codes: GradientCode, corrected: bool = False) -> None:
        self.codes, self.corrected = codes, corrected
        names = " ".join(str(fingerprint(code)) for code in codes)
        self.key = f"code {names}{' corrected' if corrected else ''}"
        self.bits = float(8 * codes[0].message_bytes)
        self._squares = torch.empty(0)

    def __call__(self, gradient: Tensor, side: Tensor, step: int) -> Tensor:
        """What stands for x in the mean, [R, 412]; step 0 begins new runs."""
        if step == 0:
            self._squares = self.codes[0].start.square().expand(len(gradient), -1)
        magnitudes = magnitudes_of(self._squares)
        received = torch.empty_like(gradient)
        for first, code in enumerate(self.codes):
            mine = slice(first, None, len(self.codes))
            messages = code.encode(gradient[mine], magnitudes[mine], side[mine])
            use = code.estimate if self.corrected else code.decode
            received[mine] = use(messages, side[mine], magnitudes[mine])
        self._squares = next_squares(self._squares, (received + side) / 2)
        return received


def relative_error(received: Tensor, gradient: Tensor) -> Tensor:
    """|x̂ − x|² / |x|² of each row."""
    return (received - gradient).square().sum(-1) / gradient.square().sum(-1)
