"""Code that a model brings along: the classes that ``auto_map`` names, in files beside the weights.

Serving never runs any. A conversion does where its user said so, in torch, to trace the model and to compare with it; that is
said loudly and written into ``stopt.json``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stopt.artifact import Manifest, describe_parts
from stopt.errors import StoptWarning, UntrustedModel
from stopt.folder import contained, read_json_object
from stopt.hub import Source
from stopt.preflight import AUTO_MAP, named_code
from stopt.spec import ModelSpec, TransformerSpec

__all__ = ["configurations_with_code", "require_same_code", "trust_of", "trusted_code"]

Code = dict[str, dict[str, str | int]]


def configurations_with_code(root: Path, parts: Iterable[ModelSpec]) -> list[str]:
    """Find the configurations of a model that name classes of its own.

    Args:
        root: The model folder.
        parts: The parts of the model that have files of their own; see :func:`~stopt.parts.parts_of`.

    Returns:
        Those files, by path relative to the folder.
    """
    names = dict.fromkeys(
        f"{path}/{file}".lstrip("/")
        for part in parts
        for path, file in (
            (part.front.path, "config.json"),
            (part.tokenizer.path, "tokenizer_config.json"),
        )
    )
    here = [name for name in names if contained(root, name).is_file()]
    return [name for name in here if read_json_object(root / name).get(AUTO_MAP)]


def trust_of(source: Source, parts: Sequence[ModelSpec], *, allowed: bool) -> dict[str, Any]:
    """Say what a conversion lets a model do, for its manifest; warns of code that will run.

    Args:
        source: The model.
        parts: Its transformers.
        allowed: Whether the user said that its code may run.

    Returns:
        ``remote_code`` and ``pickle``, and where code will run its files under ``code``, with sha256 and size.

    Raises:
        UntrustedModel: If some of its code is not in the folder.
        CorruptModel: If what names the code cannot be understood, or the code is missing.
    """
    trust: dict[str, Any] = {"remote_code": False, "pickle": False}
    if not allowed:
        return trust
    paths = dict.fromkeys(part.front.path for part in parts if isinstance(part.front, TransformerSpec))
    code = _code(source.folder, list(paths))
    if not code:
        warnings.warn(
            f"{source.name} names no code of its own; --trust-remote-code has no effect",
            StoptWarning,
            stacklevel=3,
        )
        return trust
    at = f" at {source.revision}" if source.revision else ""
    listed = ", ".join(f"{name} (sha256 {part['sha256']})" for name, part in code.items())
    warnings.warn(
        f"running code of {source.name}{at}, as it is trusted, with all rights of this process: {listed}",
        StoptWarning,
        stacklevel=3,
    )
    return {**trust, "remote_code": True, "code": code}


def require_same_code(root: Path, manifest: Manifest, *, allowed: bool) -> None:
    """See that code which a conversion ran may be run once more.

    Args:
        root: The model folder.
        manifest: Its manifest.
        allowed: Whether the user says that its code may run.

    Raises:
        UntrustedModel: If it may not, or is not the code that was trusted then; names what differs.
    """
    trusted = {name: part["sha256"] for name, part in manifest.code.items()}
    if trusted and not allowed:
        raise UntrustedModel(
            f"{root} was converted with code of its own ({', '.join(trusted)}), which has to run again",
            "if you have read it and trust it: --trust-remote-code",
        )
    if not allowed:
        return
    names = [name for name in trusted if contained(root, name).is_file()]
    found = {name: part["sha256"] for name, part in describe_parts(root, names).items()}
    if differing := [name for name, known in trusted.items() if found.get(name) != known]:
        raise UntrustedModel(
            f"{', '.join(differing)} in {root} is not the code that was trusted when the files were made",
            "take the model's code as it was then, or export again: stopt export --trust-remote-code --force",
        )


def trusted_code(manifest: Manifest | None) -> str:
    """Return in words which code was trusted when files were made; empty if none was."""
    if manifest is None:
        return ""
    listed = ", ".join(f"{name} (sha256 {str(part['sha256'])[:12]}…)" for name, part in manifest.code.items())
    return f"converted with code of the model, which was trusted: {listed}" if listed else ""


def _code(root: Path, paths: Sequence[str]) -> Code:
    """sha256 and size of the Python files that the configurations in ``paths`` name, and of those beside them."""
    names: dict[str, None] = {}
    for path in paths:
        if (code := named_code(root, path)) is not None:
            code.require_here(root)
            names |= dict.fromkeys(code.files)
    return describe_parts(root, names)
