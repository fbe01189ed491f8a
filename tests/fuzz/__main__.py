"""`python -m tests.fuzz`: decode many mutants of a bundle's payloads and files, and count what comes out."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.errors import NdscError
from tests.fuzz.fuzzer import Escape, Fuzzer, Tally
from tests.fuzz.sound import Pool

BLOCK: Final = 500
"""Mutants a process takes at a time; a run's result does not hang on it."""
PROGRESS_EVERY_S: Final = 10.0

_worker: Fuzzer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 0, 1 after an escape, 2 for a bundle that cannot be used."""
    options = _options(arguments)
    start = time.perf_counter()
    try:
        bundle = Bundle.load(options.bundle)
        fuzzer = Fuzzer(Pool(bundle), options.seed)
    except NdscError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tally = _run(options, fuzzer) if options.only is None else fuzzer.run([options.only])
    seconds = time.perf_counter() - start
    print(_table(tally))
    print(
        f"{tally.total} mutants in {seconds:.0f} s, {tally.escaped} escaped; slowest {tally.slowest_ms:.0f} ms "
        f"({tally.slowest}); memory at most {tally.largest_share_traced:.0%} (allocated) and "
        f"{tally.largest_share_resident:.0%} (process) of its bound"
    )
    for escape in tally.escapes:
        stored = _store(escape, options)
        print(f"ESCAPED {escape.kind}: {escape.reason}; input in {stored}", file=sys.stderr)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(_report(tally, bundle, options, seconds), indent=1) + "\n")
    return 1 if tally.escaped else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def at_least(least: int) -> Any:
        def integer(text: str) -> int:
            value = int(text)
            if value < least:
                raise ValueError
            return value

        return integer

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=at_least(1), default=200_000, help="mutants (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, default=None, help="default: the bundle that ships")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--processes", type=at_least(1), default=1)
    parser.add_argument(
        "--only", type=at_least(0), metavar="NUMBER", help="run this mutant of the seed alone"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out/fuzz.json"))
    options = parser.parse_args(arguments)
    if options.bundle is None:
        options.bundle = default_bundle_path()
    return options


def _run(options: argparse.Namespace, fuzzer: Fuzzer) -> Tally:
    blocks = [range(first, min(first + BLOCK, options.count)) for first in range(0, options.count, BLOCK)]
    total = Tally()
    start = shown = time.perf_counter()
    for tally in _tallies(options, fuzzer, blocks):
        total.add(tally)
        now = time.perf_counter()
        if now - shown >= PROGRESS_EVERY_S or total.total == options.count:
            shown = now
            rate = total.total / (now - start)
            left = math.ceil((options.count - total.total) / rate)
            print(
                f"{total.total} of {options.count}, {rate:.0f}/s, {left} s left, {total.escaped} escaped",
                file=sys.stderr,
                flush=True,
            )
    return total


def _tallies(options: argparse.Namespace, fuzzer: Fuzzer, blocks: Sequence[range]) -> Iterator[Tally]:
    if options.processes == 1:
        yield from map(fuzzer.run, blocks)
        return
    # Not forked: a process of onnxruntime's threads does not survive it.
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, _start_worker, (options.bundle, options.seed)) as workers:
        yield from workers.imap_unordered(_run_block, blocks)


def _start_worker(bundle: Path, seed: int) -> None:
    global _worker
    _worker = Fuzzer(Pool(Bundle.load(bundle)), seed)


def _run_block(block: range) -> Tally:
    return _worker.run(block)


def _table(tally: Tally) -> str:
    kinds = sorted({kind for kind, _ in tally.outcomes})
    outcomes = sorted({outcome for _, outcome in tally.outcomes})
    rows = [["", *(outcome.removesuffix("Error") for outcome in outcomes), "all"]]
    for kind in kinds:
        counts = [tally.outcomes[kind, outcome] for outcome in outcomes]
        rows.append([kind, *(str(n or "") for n in counts), str(sum(counts))])
    sums = [sum(tally.outcomes[kind, outcome] for kind in kinds) for outcome in outcomes]
    rows.append(["all", *map(str, sums), str(tally.total)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def _report(tally: Tally, bundle: Bundle, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    by_kind: dict[str, dict[str, int]] = {}
    by_outcome: dict[str, int] = {}
    for (kind, outcome), count in sorted(tally.outcomes.items()):
        by_kind.setdefault(kind, {})[outcome] = count
        by_outcome[outcome] = by_outcome.get(outcome, 0) + count
    return {
        "bundle_id": bundle.bundle_id,
        "bitstream_id": bundle.bitstream_id.hex(),
        "seed": options.seed,
        "mutants": tally.total,
        "escaped": tally.escaped,
        "escapes": [f"{e.number}: {e.kind}: {e.reason}" for e in tally.escapes],
        "outcomes": by_outcome,
        "outcomes_by_kind": by_kind,
        "largest_share_of_bound": {
            "allocated": round(tally.largest_share_traced, 3),
            "process": round(tally.largest_share_resident, 3),
        },
        "slowest": {"ms": round(tally.slowest_ms, 1), "mutant": tally.slowest},
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time(), 1) if options.processes == 1 else None,
        "processes": options.processes,
        "versions": {n: metadata.version(n) for n in ("constriction", "numpy", "onnxruntime")},
    }


def _store(escape: Escape, options: argparse.Namespace) -> Path:
    """Write an escape's bytes beside the report, and what they were said to be."""
    folder = options.output.parent / "fuzz-escapes"
    folder.mkdir(parents=True, exist_ok=True)
    claim = escape.claim
    path: Path = folder / f"{options.seed}-{escape.number}{'.payload' if claim else '.ndsc'}"
    path.write_bytes(escape.data)
    facts = {
        "kind": escape.kind,
        "reason": escape.reason,
        "again": f"python -m tests.fuzz --bundle {options.bundle} --seed {options.seed} --only {escape.number}",
        "said_to_be": claim
        and {
            "bitstream": claim.stream,
            "rate_level": claim.rate_level,
            "grid": [claim.grid.height, claim.grid.width],
        },
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
