"""What a frame takes on the wire: `python -m tests.benchmarks.overhead`.

One camera node, 256x128 at 10 frames/s, through a relay that counts the bytes of TCP towards the decoder: HTTP/2
and, where it is on, TLS are in, the headers of TCP and IP are not. Opening a connection stands by itself.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.demo.processes import running
from ndsc.demo.relay import relaying
from ndsc.service.tls import CertificateFiles
from tests.benchmarks import content
from tests.benchmarks.report import arguments, at_least, spreads, write_report
from tests.pki import Authority

WIDTH, HEIGHT = 256, 128
FPS: Final = 10.0
BATCHES: Final = (1, 4)
START_TIMEOUT_S: Final = 60.0
LEAD_S: Final = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every combination."""
    parser = arguments("overhead", __doc__)
    parser.add_argument("--frames", type=at_least(1, int), default=120, help="of each run")
    chosen = parser.parse_args(argv)
    default_level = Bundle.load(default_bundle_path()).default_rate_level
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        pictures = content.write_folder(folder / "pictures", content.drive("left", WIDTH, HEIGHT, 24))
        for level, tls, batch in product((0, default_level), (False, True), BATCHES):
            certificates = authority if tls else None
            runs = [send(pictures, level, certificates, batch, chosen.frames) for _ in range(chosen.runs)]
            figures = spreads(runs)
            rows.append({"rate_level": level, "tls": tls, "batch_frames": batch, **figures})
            shown = {key: figures[key]["median"] for key in ("payload_bpp", "frame_bpp", "wire_bpp")}
            print(
                f"level {level}, {'TLS' if tls else 'plaintext'}, {batch} in a message: {shown}", flush=True
            )
    write_report(chosen.output, {"frames": chosen.frames, "runs": chosen.runs, "rows": rows})


def send(
    pictures: Path, level: int, authority: Authority | None, batch: int, frames: int
) -> dict[str, float]:
    """One node's run: bits per pixel, and bytes around each payload."""
    bundle = ["--bundle", str(default_bundle_path()), "--listen", "127.0.0.1:0"]
    serve = [*bundle, *_tls(authority.server() if authority else None)]
    with running("decoder_service", serve) as decoder:
        port = decoder.wait_for("ready", START_TIMEOUT_S)["port"]
        with relaying(port) as relay:
            flags = [
                *("--decoder", f"127.0.0.1:{relay.port}", "--side-information", "none"),
                *("--source", str(pictures), "--loop", "--limit", str(frames), "--fps", repr(FPS)),
                *("--epoch", str(math.ceil(time.time()) + LEAD_S)),
                *("--rate-level", str(level), "--batch-frames", str(batch)),
                *_tls(authority.node() if authority else None),
            ]
            with running("encoder_service", [*bundle, *flags]) as node:
                node.wait_for("ready", START_TIMEOUT_S)
                opening_bytes = relay.sent_bytes
                account = node.wait_for("done", START_TIMEOUT_S + frames / FPS)
            # After the session's end, so that nothing is still on its way.
            wire_bytes = relay.sent_bytes - opening_bytes
    return _figures(account, wire_bytes, opening_bytes)


def _figures(account: dict[str, Any], wire_bytes: int, opening_bytes: int) -> dict[str, float]:
    sent: int = account["sent"]

    def bpp(size: int) -> float:
        return 8 * size / sent / (WIDTH * HEIGHT)

    return {
        "sent": sent,
        "payload_bpp": bpp(account["payload_bytes"]),
        "frame_bpp": bpp(account["frame_bytes"]),
        "wire_bpp": bpp(wire_bytes),
        "frame_overhead_bytes": (account["frame_bytes"] - account["payload_bytes"]) / sent,
        "wire_overhead_bytes": (wire_bytes - account["payload_bytes"]) / sent,
        "opening_bytes": opening_bytes,
    }


def _tls(files: CertificateFiles | None) -> list[str]:
    if files is None:
        return []
    return [
        *("--tls-certificate", str(files.certificate)),
        *("--tls-key", str(files.key)),
        *("--tls-ca", str(files.ca)),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
