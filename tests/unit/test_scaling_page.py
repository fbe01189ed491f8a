"""docs/operate/scaling.md: its commands run, and the proxy's configurations are as it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from encoder_service.settings import EncoderSettings
from ndsc.service.settings import load_settings
from ndsc.service.tls import is_host_name, watch_certificates
from tests.pages import blocks, run_ndsc

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operate" / "scaling.md").read_text()


def commands(program: str) -> Iterator[list[str]]:
    for line in "".join(blocks(PAGE, "sh")).splitlines():
        words = shlex.split(line)
        if words[0] == program:
            yield words[1:]


def test_every_command_of_ndsc_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for command, *arguments in commands("ndsc"):
        if command == "serve":
            assert arguments[0] == "encoder"
            settings = load_settings(EncoderSettings, arguments[1:])
            files = settings.certificate_files()
            assert files is not None
            watch_certificates(files).current().require_identity(settings.identity)
            host = settings.decoder.rpartition(":")[0]
            assert (settings.decoder_name or host) == f"{settings.rig}.decoder.example"
            assert is_host_name(settings.rig)
        else:
            run_ndsc([command, *arguments])
        ran += 1
    assert ran >= 8


@pytest.mark.parametrize("mode", ["plaintext", "tls"])
def test_the_configurations_name_the_decoders_alike(mode: str) -> None:
    text = (ROOT / "deploy" / "scale" / f"{mode}.cfg").read_text()
    servers = re.findall(r"^  server (decoder-\d) (\S+) id (\d)$", text, re.MULTILINE)
    assert servers == [(f"decoder-{n}", f"decoder-{n}:50051", str(n)) for n in (1, 2, 3)]
    (more,) = re.findall(r"^```\n  server (.*)\n```$", PAGE, re.MULTILINE)
    assert more == "decoder-4 decoder-4:50051 id 4"


def test_both_ask_for_the_same_health() -> None:
    texts = [(ROOT / "deploy" / "scale" / f"{mode}.cfg").read_text() for mode in ("plaintext", "tls")]
    checks = [re.findall(r"^  tcp-check (send-binary|expect) (.*)$", text, re.MULTILINE) for text in texts]
    assert len(checks[0]) == 5
    plaintext, tls = ([rest for _, rest in check] for check in checks)
    # HPACK's index 6 is `:scheme: http`, 7 is `:scheme: https`.
    assert [rest.replace("8386", "8387", 1) for rest in plaintext] == tls
    request = bytes.fromhex(plaintext[1])
    assert int.from_bytes(request[:3], "big") == len(request) - 9
    assert b"/grpc.health.v1.Health/Check" in request
