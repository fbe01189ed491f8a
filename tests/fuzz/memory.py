"""How much memory a call takes, and how much it may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndsc.codec import onnx_graph
from ndsc.codec.bitstream import Bitstream
from ndsc.codec.context import ContextPrior, pass_name
from ndsc.codec.frames import Grid
from ndsc.codec.scalar_prior import GROUPS, ScalarPrior

FIXED_TRACED_BYTES: Final = 256 << 10
"""For messages, tracebacks and small objects, whatever the grid."""
FIXED_RESIDENT_BYTES: Final = 16 << 20
"""More than that of what the allocators of C keep between calls would be a leak."""
COPIES_OF_DATA: Final = 8
"""The bytes themselves: body, payload, words, coded again, and the message of an error."""

_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


@dataclass
class Peak:
    """What one call took at most beyond what was there before, in bytes."""

    resident: int = 0
    """Growth of the process; 0 where the system does not tell."""
    traced: int | None = None
    """Allocated by Python and numpy; None where it was not traced, since that takes time."""


@contextmanager
def measured(*, traced: bool) -> Iterator[Peak]:
    """Measure what happens inside; the result is filled in at the end."""
    peak = Peak()
    before = _reset_resident_peak()
    if traced:
        tracemalloc.start()
    try:
        yield peak
    finally:
        if traced:
            peak.traced = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if before is not None:
            peak.resident = _kilobytes("VmHWM:") * 1024 - before


def traced_bound(bitstream: Bitstream, rate_level: int, grid: Grid, data_bytes: int) -> int:
    """Bytes that Python and numpy may allocate to decode `data_bytes` said to be of this level and grid."""
    return _traced_per_call(bitstream, rate_level, grid) + FIXED_TRACED_BYTES + COPIES_OF_DATA * data_bytes


def resident_bound(bitstream: Bitstream, rate_level: int, grid: Grid, data_bytes: int) -> int:
    """Bytes by which the process may grow in such a call, the networks' memory included."""
    took = _traced_per_call(bitstream, rate_level, grid) + _network_bytes(bitstream, rate_level, grid)
    return took + FIXED_RESIDENT_BYTES + COPIES_OF_DATA * data_bytes


def _traced_per_call(bitstream: Bitstream, rate_level: int, grid: Grid) -> int:
    sent = bitstream.stages_sent(rate_level)
    prior = bitstream.prior
    # Labels, the planes they are put into and the indices of each stage, coding order and results: int32.
    per_position = 4 * 8 * sent
    fixed = 0
    if isinstance(prior, ContextPrior):
        stages = prior.stages[:sent]
        # Frequencies of each digit are kept as float64 until the indices are coded again.
        per_position += sum(8 * (stage.high_size + stage.low_size) for stage in stages)
        # In flight for the group at hand: sums as float32, where they lie as int64, those taken, logits, shares,
        # frequencies, and for the low digit its places moved by the high one.
        per_position += max(
            4 * stage.logits
            + 28 * max(stage.high_size, stage.low_size)
            + 8 * (stage.high_size + 2 * stage.low_size)
            for stage in stages
        )
    elif isinstance(prior, ScalarPrior):
        # Of an index: what is known of it, twice; its digit, kept until the indices are coded again.
        per_position = 4 * 4 * sent
        # In flight for the group at hand, the largest half of the grid: sums as float32 and as int32, mean and
        # scale rounded and clipped, each with what it was made of; table, base, place in coding order, sorting.
        per_position += (8 + 8 + 6 * 8 + 4 * 8) // 2 * sent
    else:
        fixed = sum(4 * 8 * size for size in prior.codebook_sizes)  # each table as float64, and its sums
    return fixed + per_position * _padded_positions(grid)


def _network_bytes(bitstream: Bitstream, rate_level: int, grid: Grid) -> int:
    """What the sessions of the passes hold: each value of a pass as float32, twice, as arenas grow by doubling."""
    prior = bitstream.prior
    if not isinstance(prior, ContextPrior | ScalarPrior):
        return 0
    channels: dict[str, int] = {}
    graph = onnx_graph.read(prior.network, "prior.onnx")
    for node in graph.nodes:
        name = node.outputs[0].split(".")[0]
        if node.operation in ("Conv", "Gather"):
            table = graph.constants[node.inputs[node.operation == "Conv"]]
            width = table.shape[0] if node.operation == "Conv" else table.shape[1]
            channels[name] = channels.get(name, 0) + width
    total = 0
    if isinstance(prior, ScalarPrior):
        for phases in GROUPS[1:]:
            known = len(phases.known) * prior.planes
            total += 8 * (channels[phases.name] + known) * _padded_positions(grid) // phases.side**2
        return total
    for s, stage in enumerate(prior.stages[: bitstream.stages_sent(rate_level)]):
        for g, group in enumerate(stage.groups):
            cells = _padded_positions(grid) >> 2 + 2 * group.scale
            total += 8 * channels.get(pass_name(s, g), 0) * cells * len(group.phases)
    return total


def _padded_positions(grid: Grid) -> int:
    """Whole cells of the coarse scale."""
    return (-(-grid.height // 4) * 4) * (-(-grid.width // 4) * 4)


def _reset_resident_peak() -> int | None:
    """The process's size in bytes, which its peak starts from again; None where the system does not tell."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return None
    return _kilobytes("VmRSS:") * 1024


def _kilobytes(field: str) -> int:
    status = _STATUS.read_text()
    start = status.index(field) + len(field)
    return int(status[start : status.index("kB", start)])
