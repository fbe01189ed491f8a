"""A prior with other sessions in place of its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ndsc.codec import onnx_graph
from ndsc.codec.bitstream import Bitstream
from ndsc.codec.context import ContextPrior
from ndsc.codec.scalar_prior import ScalarPrior

Feeds = dict[str, NDArray[np.int32]]
Networked = ContextPrior | ScalarPrior
"""A prior that has prior.onnx."""
LEVELS: Final = ("disable_all", "enable_basic", "enable_extended", "enable_all")
"""onnxruntime's graph optimization levels."""


class Session(Protocol):
    """Runs one pass: what `ndsc.codec.runtime.PriorSession` is to the prior."""

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        """What the pass reads, int32 → its sums: [phases · B, logits, rows, columns] of a context prior,
        [B, means and scales, rows, columns] of a prior of planes."""


MakeSession = Callable[[bytes, str], Session]
"""The pass as an ONNX file, and its name → its session."""


class PriorError(Exception):
    """The bundle's prior has no networks, or no place for other sessions."""


class OnnxSession:
    """onnxruntime with the settings given: graph optimization level, threads, execution provider."""

    def __init__(
        self,
        onnx_bytes: bytes,
        name: str,
        *,
        level: str,
        threads: int,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, f"ORT_{level.upper()}"
        )
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(onnx_bytes, settings, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise PriorError(f"{provider} was asked for and {self._session.get_providers()[0]} came")
        self._output = f"{name}.sums"

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        """See Session."""
        sums: NDArray[np.float32] = self._session.run([self._output], feeds)[0]
        return sums


def networked_prior(bitstream: Bitstream) -> Networked:
    """The bitstream's prior. Raises PriorError when it has no networks."""
    if not isinstance(bitstream.prior, Networked):
        raise PriorError("the bundle's prior has no networks: nothing to prove")
    return bitstream.prior


def with_sessions(bitstream: Bitstream, make: MakeSession) -> Bitstream:
    """The same bits, but each pass of the prior runs in a session that `make` made. Raises PriorError."""
    prior = networked_prior(bitstream)
    if not isinstance(vars(type(prior)).get("_sessions"), cached_property):
        raise PriorError(f"{type(prior).__name__} no longer keeps its sessions in _sessions")
    other = copy.copy(prior)
    vars(other)["_sessions"] = {
        name: make(onnx_graph.cut(prior.network, f"{name}.sums", "prior.onnx"), name)
        for name in prior.passes(len(prior.codebook_sizes))
    }
    return dataclasses.replace(bitstream, prior=other)
