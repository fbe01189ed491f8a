"""Typed settings of a service, from flags, environment and a TOML file, in that order of precedence."""

from __future__ import annotations

import ipaddress
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliApp,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ndsc.codec.errors import NdscError
from ndsc.service.tls import CertificateFiles, certificate_files, is_host_name


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Field type of a list of strings: a flag given several times, or values separated by commas."""
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
"""Field type of a list of paths, given like `Names`."""


def _check_host_name(name: str | None) -> str | None:
    if name is not None and not is_host_name(name):
        raise ValueError(f"{name!r} is no name of a host, such as rig.decoder.example")
    return name


DecoderName = Annotated[
    str | None,
    AfterValidator(_check_host_name),
    Field(
        description="name that the server's certificate must be for, and by which a proxy picks the decoder; "
        "default: the host of --decoder, which is enough where RIG.decoder.example leads to the proxy"
    ),
]
"""Field type of the setting `decoder_name`."""

SETTINGS_CONFIG = SettingsConfigDict(
    frozen=True,
    extra="forbid",
    env_ignore_empty=True,
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_hide_none_type=True,
    cli_show_env_vars=True,
    cli_exit_on_error=False,
)
"""What every settings class shares; `service_config` adds what each has of its own."""


def service_config(*, program: str, env_prefix: str) -> SettingsConfigDict:
    """`model_config` of a service's settings: name in `--help`, prefix of environment variables."""
    config = SETTINGS_CONFIG.copy()
    config["cli_prog_name"] = program
    config["env_prefix"] = env_prefix
    return config


class _ConfigFile(PydanticBaseSettingsSource):
    """Reads the TOML file that the sources before it name as `config`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """One setting; asked for by no one, since `__call__` gives them all."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            values = tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise SettingsError(f"config: {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"config: {path} is not valid TOML: {error}") from error
        return {name.replace("-", "_"): value for name, value in values.items()}


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port" or "[IPv6]:port" → (host without brackets, port). Raises ValueError with one line."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not an address such as 127.0.0.1:50051 or [::1]:50051")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError(f"{address!r} is not clear: write an IPv6 address in brackets, as [::1]:50051")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether "host:port" can be reached from this machine alone. Raises ValueError like `split_address`."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ProcessSettings(BaseSettings):
    """What every process can be told. Subclasses add their own settings and `service_config`."""

    model_config = SETTINGS_CONFIG

    config: Path | None = Field(None, description="TOML file with settings, named as the flags are")
    listen: str = Field("127.0.0.1:0", description="address to serve at, host:port; port 0 takes a free one")
    allow_plaintext_beyond_loopback: bool = Field(
        False, description="talk to other machines although traffic is not encrypted"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_json: bool = Field(False, description="log one JSON object a line instead of text")

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str) -> str:
        split_address(listen)
        return listen

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (put first by pydantic-settings), arguments, environment, file."""
        return init_settings, env_settings, _ConfigFile(settings_cls)


class ServiceSettings(ProcessSettings):
    """What both gRPC services can be told."""

    provider: Literal["cpu", "cuda"] = Field("cpu", description="where networks run")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads for networks; 0 lets onnxruntime choose")
    tls_certificate: Path | None = Field(
        None, description="this service's certificate chain (PEM); with it all traffic is encrypted"
    )
    tls_key: Path | None = Field(None, description="private key (PEM) of that certificate")
    tls_ca: Path | None = Field(
        None, description="certificates (PEM) of the authorities that peers are checked by"
    )
    metrics_listen: str | None = Field(
        None, description="address that Prometheus metrics are served at, host:port; default: none"
    )
    history: Path | None = Field(
        None, description="file that every event of every frame is appended to, as JSON lines, for audits"
    )
    reflection: bool = Field(True, description="let tools such as grpcurl list the services")

    @model_validator(mode="after")
    def _check_tls(self) -> ServiceSettings:
        missing = [
            f"--{name.replace('_', '-')}"
            for name in ("tls_ca", "tls_certificate", "tls_key")
            if getattr(self, name) is None
        ]
        if 0 < len(missing) < 3:
            raise ValueError(f"{missing[0][2:]}: TLS needs {' and '.join(missing)} as well")
        return self

    @model_validator(mode="after")
    def _check_plaintext(self) -> ServiceSettings:
        if self.tls_ca is None and not is_loopback(self.listen) and not self.allow_plaintext_beyond_loopback:
            raise ValueError(
                f"listen: {self.listen} can be reached from other machines and traffic is not encrypted; give "
                f"--tls-ca, --tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback if the "
                f"network is trusted, or listen at 127.0.0.1"
            )
        return self

    def certificate_files(self) -> CertificateFiles | None:
        """Where this service's keys are; None: plaintext."""
        return certificate_files(self.tls_ca, self.tls_certificate, self.tls_key)


SettingsT = TypeVar("SettingsT", bound=ProcessSettings)


def load_settings(cls: type[SettingsT], argv: Sequence[str]) -> SettingsT:
    """Settings of a process started with the arguments `argv` (without the program's name).

    Each wrong setting becomes one line on stderr, then SystemExit(2). `--help` prints all and exits 0.
    """
    try:
        return CliApp.run(cls, cli_args=list(argv))
    except ValidationError as error:
        _refuse([_line(part["loc"], part["msg"]) for part in error.errors()])
    except SettingsError as error:
        _refuse([str(error).removeprefix("error parsing CLI: ")])


def _line(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    if message == "Extra inputs are not permitted":
        message = "no such setting"
    return f"{str(location[0]).replace('_', '-')}: {message}"


def _refuse(lines: list[str]) -> NoReturn:
    for line in lines:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(2)


def fail(error: NdscError) -> NoReturn:
    """Tell a user in one line why a service ends, then SystemExit(1)."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(1)
