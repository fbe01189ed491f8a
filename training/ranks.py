"""The processes of one training run under torchrun: what they sum, and what they must agree on."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ndsc.codec.errors import NdscError


class RanksError(NdscError):
    """The ranks cannot train together. Every rank raises it alike."""


COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The other ranks wait this long while rank 0 validates, or while one rank renders for all."""


@dataclass(frozen=True)
class Ranks:
    """This process's number among `count`. The default is a run of one process, where every sum is a no-op."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """Number on this machine."""

    @classmethod
    def join(cls, device: str) -> Ranks:
        """Join the process group that torchrun's environment names: gloo on the CPU, nccl on CUDA.

        Without such an environment the run has one process.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        # With CUDA, gloo stays for what lives on the CPU: waiting and comparing settings.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        # Also on the way out with an error: a group alive in a dying interpreter may abort it (SIGABRT).
        atexit.register(cls.leave)
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))

    @staticmethod
    def leave() -> None:
        """Leave the process group, when there is one."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; the same on every rank."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over ranks; the same on every rank."""
        return self.sum(tensor) / self.count

    def gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors, all of one shape, in a row along the first axis."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def wait(self) -> None:
        """Go on when every rank has come here."""
        self.sum(torch.zeros(1))

    @contextmanager
    def local_first(self) -> Iterator[None]:
        """The first rank of each machine runs the block before the others: they find what it cached."""
        if self.local > 0:
            self.wait()
        yield
        if self.local == 0:
            self.wait()

    def share(self, batch_size: int) -> slice:
        """This rank's samples of a global batch. Raises RanksError when it does not divide."""
        if batch_size % self.count:
            raise RanksError(
                f"the batch of {batch_size} is shared by {self.count} processes: "
                f"give a --batch-size that is a multiple of {self.count}"
            )
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Raise RanksError, on every rank, when one of `settings` is not the same on all."""
        if self.count == 1:
            return
        by_rank: list[Any] = [None] * self.count
        dist.all_gather_object(by_rank, dict(settings))
        for rank, theirs in enumerate(by_rank):
            for name, value in by_rank[0].items():
                if theirs[name] != value:
                    raise RanksError(
                        f"rank {rank} has {name} {theirs[name]} where rank 0 has {value}: "
                        "start every rank with the same options on the same files"
                    )
