"""Regenerate ndsc/v1 from proto/ndsc/v1: `python proto/generate.py [DIRECTORY]` (default: the checkout).

Generated code checks the protobuf and grpcio versions it runs on, so it is made with the versions pinned in
constraints.txt; a test holds it current.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent


def generate(output: Path) -> None:
    """Write output/ndsc/v1/*_pb2.py, *_pb2_grpc.py and their type stubs.

    Raises RuntimeError when protoc fails.
    """
    package = output / "ndsc" / "v1"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.glob("*_pb2*"):
        old.unlink()
    sources = sorted((PROTO / "ndsc" / "v1").glob("*.proto"))
    with_services = [s for s in sources if "\nservice " in s.read_text()]
    plugin = Path(sysconfig.get_path("scripts")) / "protoc-gen-mypy_grpc"
    google = Path(protoc.__file__).parent / "_proto"
    include = [f"-I{PROTO}", f"-I{google}"]
    for flags, files in (
        ([f"--python_out={output}", f"--pyi_out={output}"], sources),
        (
            [
                f"--grpc_python_out={output}",
                f"--mypy_grpc_out=quiet:{output}",
                f"--plugin=protoc-gen-mypy_grpc={plugin}",
            ],
            with_services,
        ),
    ):
        if protoc.main(["protoc", *include, *flags, *map(str, files)]) != 0:
            raise RuntimeError("protoc failed")
    (package / "__init__.py").write_text(
        '"""Generated from proto/ndsc/v1 by proto/generate.py: never edited."""\n'
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO.parent)
