"""``stopt sign``."""

from __future__ import annotations

from pathlib import Path

import click

from stopt.cli import options
from stopt.cli.output import Output

__all__ = ["sign"]

_pem = click.Path(dir_okay=False, path_type=Path)


@click.command()
@options.working_model
@click.option("--key", type=_pem, required=True, metavar="PEM", help="Private key of an elliptic curve.")
@click.option("--certificate", type=_pem, metavar="PEM", help="Certificate of the key.")
@click.option(
    "--chain",
    type=_pem,
    metavar="PEM",
    multiple=True,
    help="Certificate of its issuer; may be repeated, up to the root.",
)
@options.output_options
def sign(model: str, key: Path, certificate: Path | None, chain: tuple[Path, ...], out: Output) -> None:
    """Sign all files of the folder MODEL.

    Writes model.sig, a signature by OpenSSF Model Signing, which `stopt verify --key` and the model_signing command hold the
    files against, without a network. The files are held against stopt.json first. A key's password is taken from
    STOPT_KEY_PASSWORD. Needs the extra: pip install 'stopt[sign]'

    \b
    Example:
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out public.pem
      stopt sign ./my-model --key key.pem
      stopt verify ./my-model --key public.pem
    """
    import os

    from stopt.artifact import Manifest
    from stopt.certificate import examine
    from stopt.errors import SourceError
    from stopt.overlap import require_apart
    from stopt.signing import SIGNATURE, sign_folder

    root = Path(model)
    if not root.is_dir():
        raise SourceError(f"{model} is no folder", "name a model folder on this machine")
    manifest = Manifest.read(root)
    if manifest is not None and (failure := examine(root, manifest).failure(root)):
        raise failure
    pems = (key, *([certificate] if certificate else ()), *chain)
    require_apart(root / SIGNATURE, pems, what="the signature")
    password = os.environ.get("STOPT_KEY_PASSWORD")
    made = sign_folder(root, key, certificate=certificate, chain=chain, password=password)
    out.result(f"signed {root}: {made.name}", {"signature": made}, str(made))
