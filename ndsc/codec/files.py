"""Files that appear whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

from ndsc.codec.errors import OutputError


def write_whole(path: str | Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to a temporary file beside `path`, then rename it, so that no reader sees a part of it.

    `mode` is its permissions, less the process's umask. Raises OutputError when the folder does not exist or
    cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(mode, exist_ok=False)
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
