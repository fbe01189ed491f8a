"""`ndsc certificates` and `ndsc token`: who may talk to the services."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from ndsc.service.identity import Identity, Role

certificates = typer.Typer(
    help="Make an authority, and certificates for servers, nodes and people.", no_args_is_help=True
)
token = typer.Typer(help="Make bearer tokens for people and tools.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder to write to.")]
Authority = Annotated[Path, typer.Option("--ca", help="Folder of the authority: `ndsc certificates ca`.")]
Rig = Annotated[str, typer.Option(help="Rig that the holder belongs to.")]
Name = Annotated[str, typer.Option(help="Name in the rig: the camera, the stream, the person or tool.")]
Hosts = Annotated[str, typer.Option(help="Names and addresses it is reached at, separated by commas.")]
Days = Annotated[int, typer.Option(min=1, max=36_500, help="Days that it is valid.")]
Replace = Annotated[bool, typer.Option("--replace", help="Renew what is in the folder.")]

_LOCAL = "localhost,127.0.0.1,::1"


@certificates.command("ca")
def certificates_ca(folder: Folder, days: Days = 3650) -> None:
    """Make an authority. Whoever has its key.pem can be anyone: keep the folder off the services' machines."""
    from ndsc.service.certificates import make_authority

    make_authority(folder, timedelta(days=days))
    print(f"{folder}: certificate.pem, key.pem")


@certificates.command("server")
def certificates_server(
    folder: Folder, ca: Authority, hosts: Hosts = _LOCAL, days: Days = 365, replace: Replace = False
) -> None:
    """Make a decoder server's certificate."""
    _issue(folder, ca, None, hosts, days, replace)


@certificates.command("camera")
def certificates_camera(
    folder: Folder,
    ca: Authority,
    rig: Rig,
    name: Name,
    hosts: Hosts = _LOCAL,
    days: Days = 365,
    replace: Replace = False,
) -> None:
    """Make a camera node's certificate: it may send that camera's frames."""
    _issue(folder, ca, (rig, "camera", name), hosts, days, replace)


@certificates.command("side-information")
def certificates_side_information(
    folder: Folder,
    ca: Authority,
    rig: Rig,
    name: Name,
    hosts: Hosts = _LOCAL,
    days: Days = 365,
    replace: Replace = False,
) -> None:
    """Make the certificate of a node that sends side information: it may send that stream."""
    _issue(folder, ca, (rig, "side-information", name), hosts, days, replace)


@certificates.command("client")
def certificates_client(
    folder: Folder, ca: Authority, rig: Rig, name: Name, days: Days = 365, replace: Replace = False
) -> None:
    """Make a person's or a tool's certificate: it may decode, and follow that rig."""
    _issue(folder, ca, (rig, "client", name), "", days, replace)


@token.command("keys")
def token_keys(folder: Folder) -> None:
    """Make a pair of keys: private.pem issues tokens, public.pem (--token-key) lets a server verify them."""
    from ndsc.service.certificates import make_token_keys

    make_token_keys(folder)
    print(f"{folder}: private.pem, public.pem")


@token.command("issue")
def token_issue(
    key: Annotated[Path, typer.Option(help="The private.pem of `ndsc token keys`.")],
    rig: Rig,
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write the token to.")],
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 366, help="Hours that it is valid.")] = 12.0,
) -> None:
    """Issue a token to a person or a tool: it may decode, and follow that rig."""
    from ndsc.codec.files import write_whole
    from ndsc.service.tokens import issue_token

    text = issue_token(key, rig=rig, name=name, valid_s=hours * 3600)
    write_whole(output, text.encode() + b"\n", mode=0o600)
    print(f"{output}: token for client {rig}/{name}, {hours:g} hours")


def _issue(
    folder: Path, ca: Path, who: tuple[str, Role, str] | None, hosts: str, days: int, replace: bool
) -> None:
    from ndsc.service.certificates import issue_certificate

    identity = None if who is None else Identity(*who)
    files = issue_certificate(
        folder,
        authority=ca,
        identity=identity,
        hosts=[host.strip() for host in hosts.split(",") if host.strip()],
        valid=timedelta(days=days),
        replace=replace,
    )
    names = ", ".join(path.name for path in files.paths)
    print(f"{folder}: {names} for {identity or 'a decoder server'}, {days} days")
