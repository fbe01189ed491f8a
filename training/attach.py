"""Give a bundle another latent prior: `python -m training.attach BUNDLE PRIOR -o BUNDLE`.

Encoder and decoder stay the same files; what the bits mean changes, and with it the bitstream id.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.errors import BundleError, NdscError
from training import prior
from training.indices import residual_bundle


def attach(bundle: Bundle, directory: Path, output: Path) -> Bundle:
    """Write `bundle` with the latent prior kept in `directory` by `training.prior`.

    Raises BundleError when the prior is for other codebooks or cannot be exported, and OSError.
    """
    model, order = prior.load(directory)
    exported = model.export(order)
    if exported.codebook_sizes != bundle.prior.codebook_sizes:
        raise BundleError(
            f"{directory} is a prior for codebooks of {list(exported.codebook_sizes)} vectors, the bundle's have "
            f"{list(bundle.prior.codebook_sizes)}"
        )
    facts = dict(bundle.manifest.training)
    log = (directory / "log.jsonl").read_text().splitlines()
    facts["prior"] = {**model.config.to_dict(), "last_log_line": log[-1] if log else ""}
    return write_bundle(
        output,
        name=bundle.name,
        encoder_onnx=bundle.encoder_onnx,
        decoder_onnx=bundle.decoder_onnx,
        prior=exported,
        geometry=bundle.geometry,
        rate_levels=bundle.bitstream.rate_levels,
        training=facts,
        licence=bundle.manifest.licence,
        opset=bundle.manifest.opset,
        ir_version=bundle.manifest.ir_version,
    )


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose encoder and decoder are kept.")],
    directory: Annotated[
        Path, typer.Argument(help="Output of training.prior, trained on this bundle's indices.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Bundle directory to write; may be the same.")
    ],
) -> None:
    """Write a bundle with another latent prior."""
    attached = attach(residual_bundle(bundle), directory, output)
    print(f"{output}: bundle {attached.bundle_id[:16]}, bitstream {attached.bitstream_id.hex()}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (NdscError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
