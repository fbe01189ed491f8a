"""Steps of one part of a codec alone, the rest as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.run import TrainingError, schedule

GRADIENT_CLIP = 1.0


def fit(
    name: str,
    learned: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss_at: Callable[[int], Tensor],
    advance: Callable[[int, float], None],
) -> None:
    """Take `steps` steps of `optimizer`, at its learning rate after a warm-up of a twentieth and down to zero.

    Args:
        name: of what is learned, for an error.
        learned: what is learned; the norm of its gradients is cut to `GRADIENT_CLIP`.
        optimizer: with one group.
        loss_at: the loss of step 0, 1, …
        advance: called as advance(steps done, loss) after each.

    Raises TrainingError when a loss is not finite.
    """
    (group,) = optimizer.param_groups
    highest = group["lr"]
    timing = replace(TrainConfig(), steps=steps, learning_rate_warmup_steps=steps // 20)
    for step in range(steps):
        group["lr"] = highest * schedule(timing, step)
        loss = loss_at(step)
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"the loss of {name} is {float(loss.detach())} at step {step}: lower --learning-rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learned, GRADIENT_CLIP)
        optimizer.step()
        advance(step + 1, float(loss.detach()))
