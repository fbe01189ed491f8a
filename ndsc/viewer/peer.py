"""A connection to a service that outlives its certificate and token: both are read again when they change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio

from ndsc.service.channel import open_channel
from ndsc.service.diagnosis import diagnose
from ndsc.service.errors import describe
from ndsc.service.tls import CertificateFiles, Certificates, watch_certificates
from ndsc.service.tokens import read_token
from ndsc.service.watched import Watched


class Peer:
    """One service. Belongs to the event loop."""

    def __init__(
        self,
        address: str,
        files: CertificateFiles | None,
        token_file: Path | None = None,
        *,
        name: str | None = None,
        rig: str | None = None,
    ) -> None:
        """`name` and `rig` are those of `open_channel`. Raises KeyFileError when keys or token cannot be used."""
        self.address = address
        self._name = name
        self._rig = rig
        self._files = files
        self._watched: Watched[Certificates] | None = None if files is None else watch_certificates(files)
        self._token_file = token_file
        if self._watched is not None:
            self._watched.current().check_dates()
        self._made_with = self._credentials()
        self._channel: grpc.aio.Channel | None = None

    def _credentials(self) -> tuple[Certificates | None, str | None]:
        certificates = None if self._watched is None else self._watched.current()
        return certificates, None if self._token_file is None else read_token(self._token_file)

    async def channel(self) -> grpc.aio.Channel:
        """A channel with the keys of now. Raises KeyFileError."""
        credentials = self._credentials()
        if self._channel is not None and credentials == self._made_with:
            return self._channel
        await self.close()
        self._made_with = credentials
        self._channel = open_channel(self.address, *credentials, name=self._name, rig=self._rig)
        return self._channel

    async def why(self, error: grpc.aio.AioRpcError) -> str:
        """What to tell a person of a failed call, in one line."""
        code, reason, text = describe(error)
        if code is grpc.StatusCode.UNAVAILABLE and reason is None:
            diagnosis = await asyncio.to_thread(diagnose, self.address, self._files, name=self._name)
            return diagnosis or f"no service answers at {self.address}"
        return f"{text} ({reason})" if reason else text or code.name

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
