"""Settings from flags, environment and file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from decoder_service.settings import DecoderSettings, split_attachment
from encoder_service.settings import EncoderSettings
from ndsc.service.settings import (
    Names,
    ServiceSettings,
    is_loopback,
    load_settings,
    service_config,
    split_address,
)
from ndsc.service.tls import CertificateFiles


class Example(ServiceSettings):
    """Settings of no service."""

    model_config = service_config(program="example", env_prefix="NDSC_EXAMPLE_")

    names: Names = Field((), description="several names")
    wait_ms: int = Field(1, ge=0, description="a number")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('wait-ms = 2\nthreads = 2\nlog_level = "debug"\nnames = ["a", "b"]\n')
    return path


def test_precedence(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(Example, []).wait_ms == 1
    assert load_settings(Example, ["--config", str(config)]).wait_ms == 2
    monkeypatch.setenv("NDSC_EXAMPLE_CONFIG", str(config))
    monkeypatch.setenv("NDSC_EXAMPLE_WAIT_MS", "3")
    settings = load_settings(Example, [])
    assert (settings.wait_ms, settings.threads, settings.log_level) == (3, 2, "debug")
    assert load_settings(Example, ["--wait-ms", "4"]).wait_ms == 4


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDSC_EXAMPLE_WAIT_MS", "")
    assert load_settings(Example, []).wait_ms == 1


def test_lists(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(Example, ["--names", "a", "--names", "b, c"]).names == ("a", "b", "c")
    assert load_settings(Example, ["--config", str(config)]).names == ("a", "b")
    monkeypatch.setenv("NDSC_EXAMPLE_NAMES", "x,y")
    assert load_settings(Example, []).names == ("x", "y")


def test_switches() -> None:
    assert load_settings(Example, []).reflection
    assert not load_settings(Example, ["--no-reflection"]).reflection
    assert load_settings(Example, ["--log-json"]).log_json


def test_settings_do_not_change() -> None:
    settings = load_settings(Example, [])
    with pytest.raises(ValidationError):
        settings.wait_ms = 5


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--wait-ms", "-1"], ["wait-ms: Input should be greater than or equal to 0"]),
        (
            ["--wait-ms", "x", "--provider", "tpu"],
            [
                "provider: Input should be 'cpu' or 'cuda'",
                "wait-ms: Input should be a valid integer, unable to parse string as an integer",
            ],
        ),
        (["--wait"], ["unrecognized arguments: --wait"]),
        (["--wait-ms"], ["argument --wait-ms: expected one argument"]),
        (["stray"], ["unrecognized arguments: stray"]),
        (["--config", "/nowhere"], ["config: /nowhere cannot be read: No such file or directory"]),
        (
            ["--listen", "::1:5"],
            ["listen: '::1:5' is not clear: write an IPv6 address in brackets, as [::1]:50051"],
        ),
        (
            ["--listen", "camera.example:5"],
            [
                "listen: camera.example:5 can be reached from other machines and traffic is not encrypted; "
                "give --tls-ca, --tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback if "
                "the network is trusted, or listen at 127.0.0.1"
            ],
        ),
        (["--tls-ca", "x"], ["tls-certificate: TLS needs --tls-certificate and --tls-key as well"]),
        (["--tls-ca", "x", "--tls-key", "y"], ["tls-certificate: TLS needs --tls-certificate as well"]),
        (["--tls-certificate", "x", "--tls-key", "y"], ["tls-ca: TLS needs --tls-ca as well"]),
    ],
)
def test_what_is_wrong_is_a_line_each(
    arguments: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(Example, arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [f"error: {line}" for line in lines]


@pytest.mark.parametrize(
    ("text", "line"), [("wait = 3", "wait: no such setting"), ("wait-ms = [", "is not valid TOML")]
)
def test_a_wrong_file(text: str, line: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(text)
    with pytest.raises(SystemExit) as ended:
        load_settings(Example, ["--config", str(config)])
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said


def test_a_trusted_network() -> None:
    settings = load_settings(Example, ["--listen", "0.0.0.0:5", "--allow-plaintext-beyond-loopback"])
    assert settings.listen == "0.0.0.0:5"


TLS = ["--tls-ca", "ca.pem", "--tls-certificate", "certificate.pem", "--tls-key", "key.pem"]
FILES = CertificateFiles(Path("ca.pem"), Path("certificate.pem"), Path("key.pem"))


def test_encryption_opens_to_other_machines() -> None:
    settings = load_settings(Example, ["--listen", "0.0.0.0:5", *TLS])
    assert settings.certificate_files() == FILES
    assert load_settings(Example, []).certificate_files() is None
    node = load_settings(EncoderSettings, ["--source", "x", "--decoder", "decoder.example:50051", *TLS])
    assert node.certificate_files() == FILES


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--listen-clients", "127.0.0.1:0", "--token-key", "public.pem"],
            "listen-clients: tokens are taken over TLS alone; give --tls-ca, --tls-certificate and --tls-key",
        ),
        (
            ["--listen-clients", "127.0.0.1:0", *TLS],
            "token-key: clients at --listen-clients show tokens; give the public key of `ndsc token keys`",
        ),
        (
            ["--token-key", "public.pem", *TLS],
            "listen-clients: tokens are taken at an address of their own; give --listen-clients",
        ),
        (
            ["--listen-clients", "50052", "--token-key", "public.pem", *TLS],
            "listen-clients: '50052' is not an address such as 127.0.0.1:50051 or [::1]:50051",
        ),
    ],
)
def test_tokens_need_an_address_and_a_key(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_settings(DecoderSettings, arguments)
    assert capsys.readouterr().err == f"error: {line}\n"
    legal = load_settings(
        DecoderSettings, ["--listen-clients", "127.0.0.1:0", "--token-key", "public.pem", *TLS]
    )
    assert legal.token_key == Path("public.pem")


@pytest.mark.parametrize(
    ("address", "parts", "loopback"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0), True),
        ("127.8.8.8:1", ("127.8.8.8", 1), True),
        ("[::1]:65535", ("::1", 65535), True),
        ("localhost:5", ("localhost", 5), True),
        ("0.0.0.0:5", ("0.0.0.0", 5), False),
        ("[::]:5", ("::", 5), False),
        ("localhost.example:5", ("localhost.example", 5), False),
    ],
)
def test_addresses(address: str, parts: tuple[str, int], loopback: bool) -> None:
    assert split_address(address) == parts
    assert is_loopback(address) == loopback


@pytest.mark.parametrize("address", ["", "host", ":5", "host:", "host:65536", "host:-1", "1:2:3"])
def test_no_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        split_address(address)


def test_attachments() -> None:
    assert split_attachment("rig/right=rtsp://host/a=b") == ("rig", "right", "rtsp://host/a=b")
    for wrong in ("right=x", "rig/right", "rig/right=", "../right=x", "rig/a/b=x"):
        with pytest.raises(ValueError, match="RIG/CAMERA=SOURCE"):
            split_attachment(wrong)


def test_decoder_defaults() -> None:
    settings = load_settings(DecoderSettings, [])
    assert settings.listen == "127.0.0.1:50051"
    assert (settings.pair_tolerance_ms, settings.pair_wait_ms, settings.max_sessions) == (50, 250, 32)
    assert (settings.credit_frames, settings.subscriber_queue_frames) == (4, 16)
    assert settings.bundle == ()
    given = load_settings(DecoderSettings, ["--bundle", "a", "--bundle", "b"])
    assert given.bundle == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("cls", "name"),
    [(DecoderSettings, "attach_epoch"), (EncoderSettings, "epoch"), (EncoderSettings, "source")],
)
def test_help_says_that_nodes_share_an_epoch(cls: type[ServiceSettings], name: str) -> None:
    text = cls.model_fields[name].description or ""
    assert "nodes that play files must be given the same" in text
