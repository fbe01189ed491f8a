"""What a camera node can be told."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ndsc.service.identity import Identity, is_name
from ndsc.service.settings import (
    DecoderName,
    Names,
    ServiceSettings,
    is_loopback,
    service_config,
    split_address,
)


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
    fetch_bundle: bool = Field(
        False,
        description="use the bundle that the decoder would rather have: fetch it, and change over when the "
        "decoder changes",
    )
    bundle_cache: Path = Field(
        Path("bundles"), description="folder that fetched bundles are kept in, each under its bitstream id"
    )
    decoder: str = Field("127.0.0.1:50051", description="address of the decoder, host:port")
    decoder_name: DecoderName = None
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
    target_kbps: float | None = Field(
        None,
        gt=0,
        description="hold this rate (kbit/s of frame messages) by choosing the rate level of each frame, then "
        "by leaving out frames",
    )
    follow_link: bool = Field(
        False, description="hold the rate that the link carries, found out from credit and acknowledgements"
    )
    delivery: Literal["live", "archive"] = Field(
        "live",
        description="live: fresh before complete, the oldest frames are dropped when the link or the decoder "
        "does not keep up; archive: every coded frame goes to the spool on disk and is sent until it is stored",
    )
    spool: Path | None = Field(None, description="folder of the spool; needed for delivery archive")
    spool_capacity_mbytes: int = Field(
        1024,
        ge=1,
        le=1 << 20,
        description="MiB that the spool may take; when it is full, new frames are dropped",
    )
    max_age_ms: int = Field(
        1_000, ge=1, le=3_600_000, description="live: frames that waited longer for the link are dropped"
    )
    batch_frames: int = Field(
        1,
        ge=1,
        le=64,
        description="live: frames sent together in one message, which saves bytes on a slow link and costs "
        "as many frame times of delay (they must stay within --max-age-ms); archive packs what waits",
    )
    give_up_after_s: float | None = Field(
        None,
        gt=0,
        description="end with an error when no session could be had for so long; default: try for ever",
    )
    reconnect_max_s: float = Field(
        10.0, gt=0, le=3600, description="longest pause before the next try to reach the decoder"
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
    offer_sources: int = Field(
        0,
        ge=0,
        le=1024,
        description="frames as captured, the newest, that people and tools of the rig may ask the node for, to "
        "compare with what was decoded; each takes 3 bytes a pixel",
    )
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

    @property
    def identity(self) -> Identity:
        """What the node's certificate must be for."""
        return Identity(self.rig, self.role, self.camera)

    @field_validator("rig", "camera", "side_information")
    @classmethod
    def _check_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if not is_name(name):
                raise ValueError(f"{name!r} is not a name: 1 to 64 letters, digits, _ . or -, not dots alone")
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
        plaintext = self.tls_ca is None and not self.allow_plaintext_beyond_loopback
        if plaintext and not is_loopback(self.decoder):
            raise ValueError(
                f"decoder: {self.decoder} is another machine and traffic is not encrypted; give --tls-ca, "
                f"--tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback if the network is "
                f"trusted"
            )
        return self

    @model_validator(mode="after")
    def _check_delivery(self) -> EncoderSettings:
        if self.delivery == "archive" and self.spool is None:
            raise ValueError(
                "spool: delivery archive needs a folder that frames wait in until they are stored"
            )
        return self

    @model_validator(mode="after")
    def _check_rate(self) -> EncoderSettings:
        given = [self.rate_level is not None, self.target_kbps is not None, self.follow_link]
        if sum(given) > 1:
            raise ValueError("rate-level: give one of --rate-level, --target-kbps and --follow-link")
        if self.role == "side-information" and self.rate_level is not None:
            raise ValueError("rate-level: side information has none; choose its --side-format")
        return self

    @model_validator(mode="after")
    def _check_pace(self) -> EncoderSettings:
        live = re.match(r"(camera|rtsps?):", self.source, re.IGNORECASE)
        if live and self.pace == "credit":
            raise ValueError(
                "pace: credit would make a live source wait; it is for files and the synthetic drive"
            )
        return self
