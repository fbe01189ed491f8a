"""Check a reference set in this process: `python -m tests.exactness.child REFERENCE.npz BUNDLE`.

Needs what `ndsc.codec` needs and no more, so that it runs on any machine with the base install. Prints one line
of JSON: `machine`, `bundle_id`, `outcome` and `seconds`. Exit status: 0 every bit came out, 1 not, 2 not checked.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import NdscError
from tests.exactness import machine
from tests.exactness.comparison import compare
from tests.exactness.reference import Reference, ReferenceSetError


def main() -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.exactness.child", description="Check a reference set."
    )
    parser.add_argument("reference", type=Path, help="the .npz")
    parser.add_argument("bundle", type=Path, help="directory or zip")
    parser.add_argument(
        "--encode-every", type=int, default=1, metavar="N", help="encode every N-th frame too"
    )
    arguments = parser.parse_args()
    try:
        reference, bundle = Reference.load(arguments.reference), Bundle.load(arguments.bundle)
        started = time.perf_counter()
        outcome = compare(reference, bundle.bitstream, encode_every=max(1, arguments.encode_every))
    except (NdscError, ReferenceSetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = {
        "machine": machine.facts(),
        "bundle_id": bundle.bundle_id,
        "outcome": dataclasses.asdict(outcome),
        "seconds": round(time.perf_counter() - started, 2),
    }
    print(json.dumps(found))
    return 1 if outcome.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
