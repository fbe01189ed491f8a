"""An authority of a run's own, and the certificates of its services."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from ndsc.service.certificates import issue_certificate, make_authority
from ndsc.service.identity import Identity, Role
from ndsc.service.tls import CertificateFiles
from tests.robustness.netns import SERVER_ADDRESS

RIG: Final = "rig"
_HOSTS: Final = ("localhost", "127.0.0.1", SERVER_ADDRESS)
_DAY: Final = timedelta(days=1)


class Credentials:
    """Certificates below a folder, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_authority(folder / "authority", 2 * _DAY)

    def decoder(self) -> list[str]:
        """Flags for the decoder."""
        return _flags(self._issue("decoder", None, _DAY))

    def camera_files(self, camera: str) -> CertificateFiles:
        """For a camera that is no process of its own."""
        return self._issue(camera, Identity(RIG, "camera", camera), _DAY)

    def node(self, role: Role, camera: str, valid_s: float | None = None) -> list[str]:
        """Flags for a node. Asked for again, its files are replaced, for a running node to find."""
        valid = _DAY if valid_s is None else timedelta(seconds=valid_s)
        return _flags(self._issue(camera, Identity(RIG, role, camera), valid))

    def client(self) -> CertificateFiles:
        """For a client that reads what is decoded."""
        return self._issue("viewer", Identity(RIG, "client", "viewer"), _DAY)

    def _issue(self, name: str, identity: Identity | None, valid: timedelta) -> CertificateFiles:
        return issue_certificate(
            self._folder / name,
            authority=self._folder / "authority",
            identity=identity,
            hosts=_HOSTS,
            valid=valid,
            replace=True,
        )


def _flags(files: CertificateFiles) -> list[str]:
    return [
        *("--tls-certificate", str(files.certificate)),
        *("--tls-key", str(files.key)),
        *("--tls-ca", str(files.ca)),
    ]
