"""docs/SECURITY.md: its commands run, and its examples."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from decoder_service.settings import DecoderSettings
from encoder_service.settings import EncoderSettings
from ndsc.client import Client
from ndsc.service.settings import ServiceSettings, load_settings
from ndsc.service.tls import watch_certificates
from ndsc.service.tokens import TokenVerifier, read_token
from ndsc.viewer.settings import ViewerSettings
from tests.pages import blocks, run_ndsc

PAGE = (Path(__file__).parents[2] / "docs" / "SECURITY.md").read_text()
SERVICES: dict[str, type[ServiceSettings | ViewerSettings]] = {
    "decoder": DecoderSettings,
    "encoder": EncoderSettings,
    "viewer": ViewerSettings,
}


def test_every_command_and_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in "".join(blocks(PAGE, "sh")).splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "ndsc"
        if command == "serve":
            settings = load_settings(SERVICES[arguments[0]], arguments[1:])
            files = settings.certificate_files()
            assert files is not None
            certificates = watch_certificates(files).current()
            if isinstance(settings, EncoderSettings):
                certificates.require_identity(settings.identity)
            elif isinstance(settings, DecoderSettings) and settings.token_key is not None:
                TokenVerifier(settings.token_key).verify(read_token(Path("bob.token")))
        else:
            run_ndsc([command, *arguments])
        ran += 1
    assert ran > 10
    for example in blocks(PAGE, "python"):
        scope: dict[str, object] = {"ndsc": __import__("ndsc"), "Path": Path}
        exec(example, scope)
        client = scope["client"]
        assert isinstance(client, Client)
        client.close()
