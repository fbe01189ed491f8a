"""A DDP communication hook: gradients travel as a few bytes and are decoded beside another rank's gradient.

    rank 1 … n-1   bucket ── rows ── encode ──── messages ───┐ gather
    rank 0         bucket (whole: it is the side information y) ── decode ── mean ── broadcast ── every rank

Rank 0 is the server and one of the workers, so its own gradient needs no wire. Only the way to the server is
compressed; the mean comes back whole, so that all ranks step on the same numbers. The means are also the history
from which every rank knows how large each coordinate is likely to be.
"""

# No `from __future__ import annotations` here: DDP compares a hook's annotations with classes, not with names.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from ndsc.codec.errors import NdscError
from training.gradients.code import GradientCode, VectorCode, fingerprint, magnitudes_of, next_squares
from training.paper.convolutional import Mode

SERVER: Final = 0
"""The rank whose gradient is the side information."""


class GradientHookError(NdscError):
    """The hook cannot serve this job."""


@dataclass
class Traffic:
    """Bytes that this rank handed to the process group, since the hook was made."""

    messages_bytes: int = 0
    """Compressed gradients, to the server; 0 on the server."""
    whole_bytes: int = 0
    """What the same gradients would have been uncompressed."""
    means_bytes: int = 0
    """Averaged gradients, broadcast by the server; 0 elsewhere."""


class DistributedGradientCode:
    """Compresses the gradients of all ranks but 0, which decodes them with its own as side information.

    A bucket of any size is cut into rows of the code's length, the last one filled with zeros. Within a bucket
    gradients lie in the order of the module's parameters, whatever order DDP keeps them in; so a code that was
    trained on a model's whole gradient serves that model when it fits one bucket.

    Args:
        code: a file that `GradientCode.save` wrote, or a code of your own, the same on all ranks.
    """

    def __init__(self, code: Path | str | VectorCode) -> None:
        self.code: VectorCode = GradientCode.load(Path(code)) if isinstance(code, Path | str) else code
        self.traffic = Traffic()
        self._squares: dict[int, Tensor] = {}  # position of a parameter → its history, flat
        if isinstance(self.code, GradientCode) and self.code.config.mode == Mode.JOINT:
            raise GradientHookError(
                "a joint code needs rank 0's gradient at every rank: use a distributed one"
            )

    def register(self, ddp: DistributedDataParallel) -> None:
        """Let `ddp` average its gradients through this hook; once, before the first backward pass.

        Raises:
            GradientHookError: the ranks hold different codes.
        """
        group = ddp.process_group
        device = next(ddp.parameters()).device
        if isinstance(self.code, nn.Module):
            self.code.to(device).eval()
        print_here = torch.tensor([fingerprint(self.code)], device=device)
        prints = [torch.empty_like(print_here) for _ in range(dist.get_world_size(group))]
        dist.all_gather(prints, print_here, group=group)
        if any(not torch.equal(other, print_here) for other in prints):
            raise GradientHookError("the ranks hold different gradient codes: give all the same file")
        positions = {id(parameter): i for i, parameter in enumerate(ddp.parameters())}

        def hook(state: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
            where = [positions[id(parameter)] for parameter in bucket.parameters()]
            gradients = dict(sorted(zip(where, bucket.gradients(), strict=True)))
            return self._average(gradients, bucket.buffer(), group)

        ddp.register_comm_hook(state=None, hook=hook)

    def _average(
        self, gradients: dict[int, Tensor], buffer: Tensor, group: dist.ProcessGroup
    ) -> torch.futures.Future[Tensor]:
        """The mean over ranks of one bucket, in its buffer.

        `gradients` are views of the buffer, by position of their parameter in the module.
        """
        rank, world = dist.get_rank(group), dist.get_world_size(group)
        rows = _rows(list(gradients.values()), self.code.length)
        squares = self._history(gradients, rows)
        magnitudes = magnitudes_of(squares)
        shape = (len(rows), self.code.message_bytes)
        if rank == SERVER:
            arrived = [torch.empty(shape, dtype=torch.uint8, device=rows.device) for _ in range(world)]
            dist.gather(torch.zeros_like(arrived[SERVER]), arrived, group=group, group_dst=SERVER)
            total = rows.clone()
            for messages in arrived[SERVER + 1 :]:
                total += self.code.estimate(messages, rows, magnitudes)
            _scatter(total / world, gradients.values())
            self.traffic.means_bytes += buffer.nbytes
        else:
            messages = self.code.encode(rows, magnitudes)
            if messages.shape != shape or messages.dtype != torch.uint8:
                raise GradientHookError(
                    f"the code gave messages {tuple(messages.shape)}, promised were {shape}"
                )
            dist.gather(messages, group=group, group_dst=SERVER)
            self.traffic.messages_bytes += messages.nbytes
            self.traffic.whole_bytes += buffer.nbytes
        work = dist.broadcast(buffer, group=group, group_src=SERVER, async_op=True)
        assert work is not None

        def arrived_mean(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            mean = future.value()[0]
            after = next_squares(squares, _rows(list(gradients.values()), self.code.length)).flatten()
            sizes = [gradient.numel() for gradient in gradients.values()]
            parts = torch.split(after[: sum(sizes)], sizes)
            self._squares.update(zip(gradients, parts, strict=True))
            return mean

        averaged: torch.futures.Future[Tensor] = work.get_future().then(arrived_mean)
        return averaged

    def _history(self, gradients: dict[int, Tensor], rows: Tensor) -> Tensor:
        """Mean squares of the coordinates, of the shape of `rows`; the code's start where there is none yet."""
        start = self.code.start.to(rows.device).square().expand(len(rows), -1)
        known = [self._squares.get(position) for position in gradients]
        found = [squares for squares in known if squares is not None]
        # DDP may sort its buckets anew after the first step; every parameter is in one before and after.
        return _rows(found, self.code.length) if len(found) == len(known) else start


def _rows(parts: Sequence[Tensor], length: int) -> Tensor:
    """float32 [B, length] of the parts one after another, zeros at the end."""
    flat = torch.cat([part.flatten().float() for part in parts])
    return nn.functional.pad(flat, (0, -len(flat) % length)).view(-1, length)


@torch.no_grad()
def _scatter(rows: Tensor, parts: Iterable[Tensor]) -> None:
    """The inverse of `_rows`, into `parts`."""
    flat, start = rows.flatten(), 0
    for part in parts:
        part.copy_(flat[start : start + part.numel()].view_as(part))
        start += part.numel()
