"""What a camera node can be told, and how it says that it was told wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder_service.server import main
from encoder_service.settings import EncoderSettings
from ndsc.service.settings import load_settings


@pytest.mark.parametrize(
    ("written", "epoch_us"),
    [
        ("1700000000.25", 1_700_000_000_250_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
        ("2023-11-14 23:13:20.5+01:00", 1_700_000_000_500_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000_000),
        ("0", 0),
    ],
)
def test_an_epoch_is_seconds_or_a_date_which_is_utc_unless_stated(written: str, epoch_us: int) -> None:
    assert load_settings(EncoderSettings, ["--source", "x", "--epoch", written]).epoch == epoch_us


def test_flags_come_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'source = "file"\ncamera = "file"\nrig = "file"\nside-information = ["a", "b"]\nepoch = 12.5\n'
    )
    monkeypatch.setenv("NDSC_ENCODER_CAMERA", "environment")
    monkeypatch.setenv("NDSC_ENCODER_RIG", "environment")
    settings = load_settings(EncoderSettings, ["--config", str(file), "--rig", "flag"])
    assert (settings.source, settings.camera, settings.rig) == ("file", "environment", "flag")
    assert settings.side_information == ("a", "b")
    assert settings.epoch == 12_500_000
    assert (
        load_settings(EncoderSettings, ["--source", "x", "--side-information", "none"]).side_information == ()
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "source: Field required"),
        (["--source", "x", "--rig", "a b"], "rig: 'a b' is not a name"),
        (["--source", "x", "--epoch", "yesterday"], "epoch: 'yesterday' is neither seconds"),
        (
            ["--source", "camera:/dev/video0", "--pace", "credit"],
            "pace: credit would make a live source wait",
        ),
        (["--source", "x", "--decoder", "nowhere"], "decoder: 'nowhere' is not an address"),
        (["--source", "x", "--decoder", "127.0.0.1:0"], "decoder: port 0 is no port to connect to"),
        (["--source", "x", "--decoder-name", "a b"], "decoder-name: 'a b' is no name of a host"),
        (["--source", "x", "--limit", "0"], "limit: "),
        (["--source", "x", "--batch-frames", "0"], "batch-frames: "),
        (["--source", "x", "--delivery", "archive"], "spool: delivery archive needs a folder"),
        (
            ["--source", "x", "--rate-level", "1", "--target-kbps", "9"],
            "rate-level: give one of --rate-level, --target-kbps and --follow-link",
        ),
        (["--source", "x", "--target-kbps", "20", "--follow-link"], "rate-level: give one of "),
        (
            ["--source", "x", "--role", "side-information", "--rate-level", "1"],
            "rate-level: side information has none; choose its --side-format",
        ),
        (
            ["--source", "x", "--decoder", "decoder.example:50051"],
            "decoder: decoder.example:50051 is another machine and traffic is not encrypted; give --tls-ca, "
            "--tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    flags: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {line}")
