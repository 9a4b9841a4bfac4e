"""Signatures over a model folder, by OpenSSF Model Signing (the package ``model-signing``): who says that these are the files.

A signature stands in one file, ``model.sig``, covers every other file of the folder that is not hidden, and is verified
without a network: with a public key, or with the certificates that the signer's own leads to.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stopt.artifact import replacing
from stopt.errors import ArtifactError, CorruptModel, MissingExtra, OptionError, SourceError

__all__ = ["SIGNATURE", "sign_folder", "verify_signature"]

SIGNATURE = "model.sig"


def sign_folder(
    root: Path,
    key: Path,
    *,
    certificate: Path | None = None,
    chain: Sequence[Path] = (),
    password: str | None = None,
) -> Path:
    """Sign all files of a folder.

    Args:
        root: The model folder.
        key: Private key, PEM, of an elliptic curve.
        certificate: Certificate of the key, PEM; without one, the signature is verified with the public key.
        chain: Certificates from that one's issuer to the root.
        password: Of the key, if it is encrypted.

    Returns:
        The signature's file; one that is there is replaced.

    Raises:
        MissingExtra: If model-signing is not installed.
        OptionError: If the key or a certificate cannot be used.
        ArtifactError: If the signature cannot be written.
    """
    signing = _library("signing")
    _require(key, *([certificate] if certificate else []), *chain)
    config = signing.Config()
    try:
        if certificate is None:
            # the library says text and hands it on as the bytes that cryptography wants (1.1.1)
            secret = password.encode() if password else None
            config.use_elliptic_key_signer(private_key=key, password=secret)
        else:
            config.use_certificate_signer(
                private_key=key, signing_certificate=certificate, certificate_chain=list(chain)
            )
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"{key} cannot sign: {error}",
            "a private key of an elliptic curve, as PEM: openssl ecparam -genkey",
        ) from error
    place = root.absolute() / SIGNATURE
    with replacing(place) as temporary:
        config.set_hashing_config(_hashing(root, temporary.name)).sign(root.absolute(), temporary)
    return place


def verify_signature(root: Path, *, key: Path | None = None, certificates: Sequence[Path] = ()) -> None:
    """See that a folder's files are those that were signed, by the holder of a key.

    Args:
        root: The model folder.
        key: The signer's public key, PEM.
        certificates: Instead of it: certificates that the signer's own leads to, PEM.

    Raises:
        MissingExtra: If model-signing is not installed.
        ArtifactError: If there is no signature.
        OptionError: If the key or a certificate cannot be used.
        CorruptModel: If a file was changed, added or removed since, or somebody else signed.
    """
    verifying = _library("verifying")
    place = root.absolute() / SIGNATURE
    if not place.is_file():
        raise ArtifactError(
            f"{root} has no signature ({SIGNATURE})", f"its maker can sign it: stopt sign {root}"
        )
    _require(*([key] if key else []), *certificates)
    config = verifying.Config()
    try:
        if key is not None:
            config.use_elliptic_key_verifier(public_key=key)
        else:
            config.use_certificate_verifier(certificate_chain=list(certificates))
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"{key or certificates[0]} cannot verify: {error}", "the public key, or certificate, as PEM"
        ) from error
    try:
        config.set_hashing_config(_hashing(root)).verify(root.absolute(), place)
    except Exception as error:  # of cryptography, sigstore and the library itself
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptModel(
            f"{root} is not what was signed, or not by the holder of this key: {reason:.300}",
            "fetch the model again, and the key from its maker",
        ) from error


def _library(part: str) -> Any:
    try:
        from importlib import import_module

        logging.getLogger("model_signing").setLevel(logging.ERROR)
        return import_module(f"model_signing.{part}")
    except ImportError as error:
        raise MissingExtra("model-signing", "sign") from error


def _hashing(root: Path, *others: str) -> Any:
    """Which files are hashed: all but the signature and what is hidden."""
    hidden = [path for path in root.absolute().glob(".*")]
    ignored = [*hidden, *(root.absolute() / name for name in (SIGNATURE, *others))]
    return _library("hashing").Config().set_ignored_paths(paths=ignored)


def _require(*files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise SourceError(f"{file} is no file", "name a PEM file")
