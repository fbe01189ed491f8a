"""`ndsc serve`, `ndsc health` and `ndsc node`: services as processes, how they are, and what a node is held to.

Services are started as processes (`python -m encoder_service`), so this module imports neither of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ndsc.service.tls import Certificates

serve = typer.Typer(
    help="Run a service in this terminal; --help after its name lists its settings.", no_args_is_help=True
)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
TimeoutS = Annotated[float, typer.Option(min=0.1, help="Longest wait for the answer, in seconds.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        envvar="NDSC_TLS_CA", help="Authorities (PEM) that the server is checked by; plaintext without."
    ),
]
TlsCertificate = Annotated[
    Path | None, typer.Option(envvar="NDSC_TLS_CERTIFICATE", help="Your certificate (PEM).")
]
TlsKey = Annotated[Path | None, typer.Option(envvar="NDSC_TLS_KEY", help="Its private key (PEM).")]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        help="Name that the server's certificate must be for, and by which a proxy picks the decoder; the host of "
        "the address without."
    ),
]


@serve.command("encoder", context_settings=_PASS_ON)
def serve_encoder(context: typer.Context) -> None:
    """A camera node: source, encoder, stream to a decoder."""
    _become("encoder_service", context.args)


@serve.command("decoder", context_settings=_PASS_ON)
def serve_decoder(context: typer.Context) -> None:
    """The server: side information, conditional decoder, Decode and Subscribe."""
    _become("decoder_service", context.args)


@serve.command("viewer", context_settings=_PASS_ON)
def serve_viewer(context: typer.Context) -> None:
    """A page to look at: cameras live, and what the side information is worth."""
    _become("ndsc.viewer", context.args)


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Replace this process by a service: signals and the exit code are then the service's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell is wanted


def health(
    address: Annotated[str, typer.Argument(help="host:port of an encoder or decoder service.")],
    service: Annotated[str, typer.Option(help="Full service name; all of the process without.")] = "",
    timeout_s: TimeoutS = 5.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a bearer token, instead of a certificate.")
    ] = None,
    tls_server_name: TlsServerName = None,
    rig: Annotated[
        str | None, typer.Option(help="Behind a proxy, the decoder of this rig; any without.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask a service how it is; exit 0 when it serves, 1 otherwise."""
    from ndsc.service.health import check_health
    from ndsc.service.tokens import read_token

    status = asyncio.run(
        check_health(
            address,
            service,
            timeout_s,
            certificates=_certificates(tls_ca, tls_certificate, tls_key),
            token=None if token_file is None else read_token(token_file),
            name=tls_server_name,
            rig=rig,
        )
    )
    print(json.dumps({"address": address, "service": service, "status": status}) if as_json else status)
    if status != "SERVING":
        raise typer.Exit(1)


def node(
    address: Annotated[str, typer.Argument(help="host:port of a camera node (its --listen).")],
    rate_level: Annotated[int | None, typer.Option(min=0, help="Hold it to this rate level.")] = None,
    target_kbps: Annotated[
        float | None, typer.Option(help="Hold it to this rate, in kbit/s of frame messages.")
    ] = None,
    follow_link: Annotated[bool, typer.Option("--follow-link", help="Let it follow its link.")] = False,
    timeout_s: TimeoutS = 5.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> None:
    """Show a camera node's account as JSON, after setting its rate if one is given."""
    from ndsc.service.control import get_node, set_rate

    if sum((rate_level is not None, target_kbps is not None, follow_link)) > 1:
        raise typer.BadParameter("give one of --rate-level, --target-kbps and --follow-link")
    certificates = _certificates(tls_ca, tls_certificate, tls_key)

    async def ask() -> dict[str, object]:
        if rate_level is not None or target_kbps is not None or follow_link:
            await set_rate(
                address,
                rate_level=rate_level,
                target_kbps=target_kbps,
                certificates=certificates,
                timeout_s=timeout_s,
            )
        return await get_node(address, certificates=certificates, timeout_s=timeout_s)

    print(json.dumps(asyncio.run(ask())))


def _certificates(ca: Path | None, certificate: Path | None, key: Path | None) -> Certificates | None:
    from ndsc.service.tls import certificate_files, load_certificates

    files = certificate_files(ca, certificate, key)
    return None if files is None else load_certificates(files)
