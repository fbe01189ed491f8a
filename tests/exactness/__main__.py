"""The proof that the latent prior's bits are exact: `python -m tests.exactness`.

Makes a reference set in this process, checks it in every configuration, and writes what came out. Exit status: 0
every configuration that was asked for came to the same bits, 1 one did not or could not run, 2 nothing to check.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.errors import NdscError
from ndsc.codec.files import write_whole
from tests.exactness import configurations, machine, pictures, reference
from tests.exactness.configurations import CONFIGURATIONS, Result, Setting
from tests.exactness.reference import Reference, ReferenceSetError
from tests.exactness.sessions import PriorError, networked_prior


def main(argv: Sequence[str] | None = None) -> int:
    """Run the configurations that the command line asks for."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        names = configurations.named(arguments.configurations or list(CONFIGURATIONS))
    except ValueError as error:
        parser.error(str(error))
    try:
        bundle = Bundle.load(arguments.bundle or default_bundle_path())
        networked_prior(bundle.bitstream)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        references = _make_reference(bundle, arguments)
        references.save(arguments.output.with_suffix(".npz"))
    except (NdscError, ReferenceSetError, PriorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary = references.summary()
    print(f"reference: {json.dumps(summary)}", flush=True)
    results = []
    for name in names:

        def progress(line: str, name: str = name) -> None:
            print(f"{name:32} ... {line}", flush=True)

        setting = Setting(bundle, references, arguments.aarch64_root, arguments.aarch64_frames, progress)
        results.append(configurations.run(name, CONFIGURATIONS[name], setting))
        print(results[-1], flush=True)
    failed = failures(results, arguments.configurations)
    report = {
        "passed": not failed,
        "bundle": bundle.name,
        "bundle_id": bundle.bundle_id,
        "bitstream_id": bundle.bitstream_id.hex(),
        "machine": machine.facts(),
        "reference": summary,
        "configurations": [dataclasses.asdict(result) for result in results],
    }
    try:
        write_whole(arguments.output, json.dumps(report, indent=2).encode() + b"\n")
    except NdscError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'every bit came out'}; {arguments.output}")
    return 1 if failed else 0


def failures(results: Sequence[Result], asked: Sequence[str] | None) -> list[str]:
    """The configurations that fail the run. What is not at hand fails it where it was asked for by name."""
    excused = () if asked else ("not at hand",)
    return [result.name for result in results if result.status not in ("exact", *excused)]


def _make_reference(bundle: Bundle, arguments: argparse.Namespace) -> Reference:
    pairs: list[Path] | None = arguments.pairs
    if pairs:
        small, large = (
            pictures.small_from_pairs(pairs),
            pictures.large_from_pairs(pairs, bundle.geometry.stride),
        )
    else:
        small, large = pictures.synthetic(), pictures.synthetic(large=True)
    return reference.make(bundle, small, large, frames=arguments.frames, larges=arguments.large)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.exactness", description="Prove that the latent prior's bits are exact."
    )
    parser.add_argument("--bundle", type=Path, help="directory or zip; the default bundle when left out")
    parser.add_argument(
        "--pairs",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="real indices come from these pairs, not a synthetic scene",
    )
    parser.add_argument("--frames", type=_count, default=1000, help="reference frames of 16x32")
    parser.add_argument("--large", type=_count, default=50, help="reference frames of 47x156")
    parser.add_argument("--aarch64-frames", type=_count, default=500, help="of 16x32 under emulation")
    parser.add_argument(
        "--aarch64-root",
        type=Path,
        default=Path("out/aarch64"),
        help="made where it is not there",
        metavar="DIR",
    )
    parser.add_argument(
        "--configurations",
        nargs="+",
        metavar="NAME",
        help=f"some of: {', '.join(CONFIGURATIONS)}; the start of a name takes all that follow it",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/exactness.json"),
        help="the report; the set goes beside it",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("a count is 0 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
