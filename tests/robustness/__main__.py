"""Every promise under every fault: `python -m tests.robustness -o out/robustness.json`.

Runs real services, does to them what the scenarios say, and checks the histories they write. Exit status: 0 every
promise was kept under every fault, 1 one was not or a fault did not come about, 2 nothing could be run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ndsc.codec.errors import NdscError
from tests.robustness.processes import be_interruptible
from tests.robustness.report import print_table, write_report
from tests.robustness.runner import Result, run_all
from tests.robustness.scenarios import SCENARIOS
from tests.robustness.workspace import WorkspaceError, workspace


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios that the command line asks for."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    chosen = [
        scenario for scenario in SCENARIOS if not arguments.faults or scenario.fault in arguments.faults
    ]
    if unknown := set(arguments.faults) - {scenario.fault for scenario in chosen}:
        parser.error(
            f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(s.fault for s in SCENARIOS)}"
        )
    started = time.monotonic()
    be_interruptible()
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with workspace(arguments.folder) as folder:
            results = run_all(chosen, folder, _say, arguments.seed)
        write_report(
            arguments.output, results, seed=arguments.seed, seconds=round(time.monotonic() - started)
        )
    except (NdscError, WorkspaceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(results, Console(width=200))
    excused = ("kept", "not run") if arguments.allow_missing else ("kept",)
    failed = [result.fault for result in results if result.status not in excused]
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'every promise was kept'}; {arguments.output}")
    return 1 if failed else 0


def _say(result: Result) -> None:
    print(f"{result.fault:26} {result.seconds:5.1f} s  {result.status} {result.why}", flush=True)
    for verdict in result.verdicts:
        for violation in verdict.violations[:5]:
            print(f"    {verdict.promise}: {violation}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness", description="Check every promise of the stream under every fault."
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="some faults by name; default: all")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/robustness.json"), help="the report")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("out/robustness"),
        help="histories and logs of each run go below it; it is emptied first",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scene and of random faults; default: 0")
    parser.add_argument(
        "--allow-missing", action="store_true", help="pass although this machine cannot run some faults"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
