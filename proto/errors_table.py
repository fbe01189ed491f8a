"""Write docs/ERRORS.md, every error of the services in one table: `python proto/errors_table.py [FILE]`.

What a reason means stands in proto/ndsc/v1/types.proto; its code, whether it is retryable and what to do about it
stand in ndsc/service/errors.py. A test holds the file current.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from ndsc.service.errors import OUTCOMES, reason_name
from ndsc.v1.types_pb2 import ErrorReason

PROTO = Path(__file__).resolve().parent

HEAD = """\
# Errors

A service that refuses a call ends it with a `google.rpc.Status` whose `google.rpc.ErrorInfo` has the domain
`ndsc`, one of these reasons, and `retryable`: whether the same request may succeed later, unchanged. One bad frame
of a stream does not end it: a `FrameError` with the same reasons tells the node, and the stream goes on. Flags are
those of `ndsc serve decoder` and `ndsc serve encoder`.

Made from the contract and the code by `python proto/errors_table.py`; do not edit it.

| Reason | Code | Retryable | Meaning | What to do |
| --- | --- | --- | --- | --- |
"""

GRPC_HEAD = """
## Without a reason

What gRPC says by itself, before a service is asked or in its place:

| Code | Retryable | Meaning | What to do |
| --- | --- | --- | --- |
"""

GRPC_CODES = {
    "UNAVAILABLE": (
        "yes",
        "Nothing answers at the address, or the TLS handshake failed: gRPC does not tell them apart.",
        "Start the service, or correct the address. Nodes and the client find out themselves what is wrong with "
        "certificates, and say so in one line.",
    ),
    "DEADLINE_EXCEEDED": (
        "yes",
        "No answer came in time.",
        "Try again; look at the service's load and at the link.",
    ),
    "RESOURCE_EXHAUSTED": (
        "no",
        "A message is larger than the service takes; its largest frame sets the limit.",
        "Send smaller frames, or serve a bundle for larger ones.",
    ),
    "UNIMPLEMENTED": (
        "no",
        "Another service is at the address, or a release without this call.",
        "Correct the address, or run one release at both ends.",
    ),
    "CANCELLED": ("yes", "The other end went away in the middle of the call.", "Call again."),
    "INTERNAL": ("no", "A fault that nobody foresaw.", "Read the log of the service, and report it."),
    "UNKNOWN": ("no", "A fault that nobody foresaw.", "Read the log of the service, and report it."),
}
"""Code → retryable, meaning, what to do."""


def meanings() -> dict[str, str]:
    """The comment of each reason in the contract, in one line, by name. Raises RuntimeError when protoc fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "types.binpb")
        google = Path(protoc.__file__).parent / "_proto"
        flags = [f"-I{PROTO}", f"-I{google}", "--include_source_info", f"--descriptor_set_out={output}"]
        if protoc.main(["protoc", *flags, str(PROTO / "ndsc" / "v1" / "types.proto")]) != 0:
            raise RuntimeError("protoc failed")
        (file,) = FileDescriptorSet.FromString(output.read_bytes()).file
    number = next(i for i, enum in enumerate(file.enum_type) if enum.name == "ErrorReason")
    enum = file.enum_type[number]
    path = [FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, number, enum.VALUE_FIELD_NUMBER]
    return {
        enum.value[location.path[-1]].name: " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
        if list(location.path[:-1]) == path
    }


def table() -> str:
    """The text of docs/ERRORS.md."""
    meaning = meanings()
    rows = [
        (
            reason_name(reason),
            outcome.code.name,
            "yes" if outcome.retryable else "no",
            meaning[ErrorReason.Name(reason)],
            outcome.advice,
        )
        for reason, outcome in OUTCOMES.items()
    ]
    by_grpc = [(code, *rest) for code, rest in GRPC_CODES.items()]
    return HEAD + "".join(map(_row, rows)) + GRPC_HEAD + "".join(map(_row, by_grpc))


def _row(cells: Sequence[str]) -> str:
    """Names stand in capitals, and as code."""
    return "| " + " | ".join(f"`{cell}`" if cell.isupper() else cell for cell in cells) + " |\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO.parent / "docs" / "ERRORS.md").write_text(table())
