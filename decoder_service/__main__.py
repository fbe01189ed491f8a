"""`python -m decoder_service [flags]`: run the decoder server until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from decoder_service.settings import DecoderSettings
from ndsc.codec.errors import NdscError
from ndsc.service.logs import configure_logs
from ndsc.service.settings import fail, load_settings


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the arguments `argv`, or the process's own. Exits 1 if it cannot start, 2 on a bad setting."""
    settings = load_settings(DecoderSettings, sys.argv[1:] if argv is None else argv)
    # Loaded late, so that help and wrong settings need not wait for onnxruntime.
    from decoder_service.server import serve

    configure_logs(level=settings.log_level, json_lines=settings.log_json)
    try:
        asyncio.run(serve(settings))
    except NdscError as error:
        fail(error)
    except KeyboardInterrupt:  # before the service listened to signals itself
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
