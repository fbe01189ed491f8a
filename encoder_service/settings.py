"""What a camera node can be told."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ndsc.service.settings import Names, ServiceSettings, is_loopback, service_config, split_address


def _epoch(value: object) -> object:
    """Seconds since the Unix epoch, or a date and time by ISO 8601 → microseconds since the Unix epoch."""
    if value is None:
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise ValueError(
                f"{value!r} is neither seconds since 1970 nor like 2026-01-31T12:00:00Z"
            ) from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    # Microseconds of later years would not fit the wire's time.
    if not (math.isfinite(seconds) and 0 <= seconds < 253_402_300_800):
        raise ValueError(f"{value!r} lies outside the years 1970 to 9999")
    return round(seconds * 1_000_000)


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class EncoderSettings(ServiceSettings):
    """Settings of a camera node: flags, environment (NDSC_ENCODER_…) or a TOML file."""

    model_config = service_config(program="ndsc serve encoder", env_prefix="NDSC_ENCODER_")

    listen: str = Field(
        "127.0.0.1:50061",
        description="address of the node's own health check, host:port; port 0 takes a free one",
    )
    bundle: Path | None = Field(
        None, description="bundle directory or zip; default: the one that comes along"
    )
    decoder: str = Field("127.0.0.1:50051", description="address of the decoder, host:port")
    source: str = Field(
        description="a folder of images, a video file, camera:/dev/video0, rtsp://host/path, "
        "synthetic:left or synthetic:right; nodes that play files must be given the same --epoch"
    )
    role: Literal["camera", "side-information"] = Field(
        "camera",
        description="camera: send compressed frames; side-information: send frames as they are, for "
        "the decoder to use",
    )
    rig: str = Field("rig", description="name of the set of cameras that belong together")
    camera: str = Field("left", description="name of this camera in its rig")
    side_information: Names = Field(
        ("right",),
        description="cameras of the rig that may serve as side information, best first, or none",
    )
    rate_level: int | None = Field(
        None, ge=0, description="0 is the lowest rate; default: the bundle's middle"
    )
    side_format: Literal["jpeg", "png", "raw"] = Field(
        "jpeg", description="coding of side information: jpeg (quality 95), png or raw"
    )
    pace: Literal["realtime", "credit"] = Field(
        "realtime",
        description="realtime: play by the clock and drop the oldest frames when the decoder does not "
        "keep up; credit: go as fast as the decoder takes frames and lose none, for files",
    )
    fps: float | None = Field(
        None, description="frames a second of the source; default: a file's own, else 10"
    )
    epoch: Annotated[int | None, BeforeValidator(_epoch)] = Field(
        None,
        description="capture time of the first frame of files and the synthetic drive: seconds since 1970, "
        "or like 2026-01-31T12:00:00Z; default: the next whole second; nodes that play files "
        "must be given the same, else their frames do not pair in time",
    )
    loop: bool = Field(False, description="play files again and again")
    limit: int | None = Field(None, ge=1, description="end after this many frames")
    clock: Literal["unsynchronized", "ntp", "ptp", "synthetic"] | None = Field(
        None,
        description="what disciplines the clock of capture times; default: synthetic for files and the "
        "drive, unsynchronized for cameras",
    )
    frame_id: str = Field("", max_length=256, description="name of the camera's optical frame, as in ROS")
    queue_frames: int = Field(2, ge=1, le=1024, description="captured frames that may wait to be coded")
    handshake_timeout_s: float = Field(
        5.0, gt=0, le=600, description="longest wait for the decoder, in seconds"
    )
    source_timeout_s: float = Field(
        5.0,
        gt=0,
        le=600,
        description="longest wait for a camera to answer and for its next frame, in seconds",
    )
    drain_seconds: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="longest time to finish frames under way when told to stop, and longest "
        "wait for the next acknowledgement after the last frame",
    )

    @field_validator("rig", "camera", "side_information")
    @classmethod
    def _check_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name: 1 to 64 letters, digits, _ . or -")
        return value

    @field_validator("side_information")
    @classmethod
    def _none(cls, streams: tuple[str, ...]) -> tuple[str, ...]:
        return () if streams == ("none",) else streams

    @field_validator("decoder")
    @classmethod
    def _check_decoder(cls, decoder: str) -> str:
        if split_address(decoder)[1] == 0:
            raise ValueError("port 0 is no port to connect to")
        return decoder

    @model_validator(mode="after")
    def _check_plaintext_to_decoder(self) -> EncoderSettings:
        if not is_loopback(self.decoder) and not self.allow_plaintext_beyond_loopback:
            raise ValueError(
                f"decoder: {self.decoder} is another machine and traffic is not encrypted; add "
                f"--allow-plaintext-beyond-loopback if the network is trusted"
            )
        return self

    @model_validator(mode="after")
    def _check_pace(self) -> EncoderSettings:
        live = re.match(r"(camera|rtsps?):", self.source, re.IGNORECASE)
        if live and self.pace == "credit":
            raise ValueError(
                "pace: credit would make a live source wait; it is for files and the synthetic drive"
            )
        return self
