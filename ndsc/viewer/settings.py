"""What the viewer can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from ndsc.service.settings import (
    DecoderName,
    Names,
    ProcessSettings,
    is_loopback,
    service_config,
    split_address,
)
from ndsc.service.tls import CertificateFiles, certificate_files


class ViewerSettings(ProcessSettings):
    """Settings of `ndsc serve viewer`: flags, environment (NDSC_VIEWER_…) or a TOML file."""

    model_config = service_config(program="ndsc serve viewer", env_prefix="NDSC_VIEWER_")

    listen: str = Field(
        "127.0.0.1:8080", description="address of the page, host:port; port 0 takes a free one"
    )
    decoder: str = Field("127.0.0.1:50051", description="address of the decoder, host:port")
    decoder_name: DecoderName = None
    rig: str = Field("rig", description="rig to show")
    node: Names = Field(
        (),
        description="addresses of camera nodes (their --listen): they give their rate, take another, and show "
        "their source frames if they --offer-sources",
    )
    host: Names = Field(
        (),
        description="names that browsers reach the page by besides localhost, as behind a proxy; under others it "
        "is refused",
    )
    tls_ca: Path | None = Field(
        None, description="authorities (PEM) that decoder and nodes are checked by; plaintext without"
    )
    tls_certificate: Path | None = Field(None, description="the viewer's client certificate (PEM)")
    tls_key: Path | None = Field(None, description="its private key (PEM)")
    token_file: Path | None = Field(
        None, description="file with a bearer token for the decoder, instead of a certificate"
    )

    @field_validator("decoder")
    @classmethod
    def _check_decoder(cls, decoder: str) -> str:
        split_address(decoder)
        return decoder

    @field_validator("node")
    @classmethod
    def _check_nodes(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        for address in nodes:
            split_address(address)
        return nodes

    @model_validator(mode="after")
    def _check_credentials(self) -> ViewerSettings:
        if self.token_file is not None and self.tls_ca is None:
            raise ValueError("token-file: a token travels only over TLS; give --tls-ca as well")
        if self.token_file is not None and self.node:
            raise ValueError(
                "node: nodes take no tokens; give --tls-certificate and --tls-key instead of the token"
            )
        self.certificate_files()
        return self

    @model_validator(mode="after")
    def _check_plaintext(self) -> ViewerSettings:
        if self.allow_plaintext_beyond_loopback:
            return self
        if not is_loopback(self.listen):
            raise ValueError(
                f"listen: whoever reaches {self.listen} sees the cameras and sets their rates; put a proxy with "
                "TLS and a login in front of 127.0.0.1 (--host its name), or add "
                "--allow-plaintext-beyond-loopback if the network is trusted"
            )
        for name, address in (("decoder", self.decoder), *(("node", node) for node in self.node)):
            if self.tls_ca is None and not is_loopback(address):
                raise ValueError(
                    f"{name}: {address} is another machine and traffic is not encrypted; give --tls-ca, "
                    f"--tls-certificate and --tls-key, or add --allow-plaintext-beyond-loopback if the network is "
                    f"trusted"
                )
        return self

    def certificate_files(self) -> CertificateFiles | None:
        """What connections are encrypted with; None: plaintext."""
        return certificate_files(self.tls_ca, self.tls_certificate, self.tls_key)
