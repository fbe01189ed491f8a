"""An authority of the tests' own, and certificates of every kind made by it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from ndsc.service.certificates import CERTIFICATE, issue_certificate, make_authority
from ndsc.service.identity import Identity, Role
from ndsc.service.tls import CertificateFiles

LOCAL = ("localhost", "127.0.0.1")
HOUR = timedelta(hours=1)


class Authority:
    """An authority in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._issued = 0
        make_authority(folder / "ca", 10 * HOUR)

    @property
    def certificate(self) -> Path:
        return self.folder / "ca" / CERTIFICATE

    def server(
        self, folder: Path | None = None, *, hosts: tuple[str, ...] = LOCAL, valid: timedelta = HOUR
    ) -> CertificateFiles:
        """The files of a server's certificate; a folder that is given has its certificate replaced."""
        return self._issue(folder, None, hosts, valid)

    def node(
        self,
        role: Role = "camera",
        name: str = "left",
        *,
        rig: str = "rig",
        folder: Path | None = None,
        valid: timedelta = HOUR,
    ) -> CertificateFiles:
        """The files of a certificate for whoever has a role."""
        return self._issue(folder, Identity(rig, role, name), () if role == "client" else LOCAL, valid)

    def _issue(
        self, folder: Path | None, identity: Identity | None, hosts: tuple[str, ...], valid: timedelta
    ) -> CertificateFiles:
        self._issued += 1
        return issue_certificate(
            folder or self.folder / str(self._issued),
            authority=self.folder / "ca",
            identity=identity,
            hosts=hosts,
            valid=valid,
            replace=folder is not None,
        )
