"""Models by name: a folder as it is, or a repository of the Hugging Face Hub fetched into the local cache.

The only module that imports ``huggingface_hub``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stopt.errors import MissingExtra, OptionError, SourceError

__all__ = ["Source", "fetch"]

# everything a model needs beside the weights of its transformer; safetensors of modules are small
_SIDECARS = ("*.json", "*.txt", "*.model", "*_*/config.json", "*_*/model.safetensors")
WEIGHTS = ("model*.safetensors", "0_*/*.safetensors", "0_*/*.json", "0_*/*.txt", "0_*/*.model")


@dataclass(frozen=True, slots=True)
class Source:
    """A model folder and where it came from.

    Attributes:
        folder: The folder, on this machine.
        name: The path, as the user gave it, or the Hub id with its organisation.
        revision: Commit of the Hub repository; None for a folder.
    """

    folder: Path
    name: str
    revision: str | None = None


def fetch(
    reference: str | Path,
    wanted: Sequence[str] = WEIGHTS,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_folder: str | Path | None = None,
    local_files_only: bool = False,
) -> Source:
    """Find the model that ``reference`` names.

    Args:
        reference: A folder, or a Hub id: ``organisation/name``, ``name`` (of ``sentence-transformers``), either with
            ``@revision``.
        wanted: Patterns of the large files to fetch from the Hub, beside the small ones.
        revision: Branch, tag or commit; a ``@revision`` in the reference says the same.
        token: Hub token; None uses the one that is logged in.
        cache_folder: Where fetched files are kept; None is ``$SENTENCE_TRANSFORMERS_HOME``, else the Hub's own cache.
        local_files_only: Use the cache only.

    Raises:
        SourceError: If there is no such folder or repository, or it cannot be reached.
        OptionError: If two revisions are given.
    """
    text = os.fspath(reference)
    folder = Path(text)
    if text and folder.is_dir():
        return Source(folder, text)
    name, at, suffix = text.partition("@")
    if text and folder.exists():
        raise SourceError(f"{text} is a file, not a model folder", "name the folder that it is in")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name or not name:
        raise SourceError(
            f"{text or 'the empty path'} does not exist",
            "name a model folder, or a Hub id: organisation/name",
        )
    if at and not suffix:
        raise SourceError(f"{text} names no revision after the @", "name a branch, tag or commit")
    if suffix and revision not in (None, suffix):
        raise OptionError(f"{text} and revision {revision!r} name different revisions", "give one of the two")
    repository = name if "/" in name else f"sentence-transformers/{name}"
    return _snapshot(text, repository, suffix or revision, wanted, token, cache_folder, local_files_only)


def _snapshot(
    text: str,
    repository: str,
    revision: str | None,
    wanted: Sequence[str],
    token: str | bool | None,
    cache_folder: str | Path | None,
    local_files_only: bool,
) -> Source:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "onnx") from error
    hint = "name a model folder, or a Hub id that can be reached: organisation/name[@revision]"
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            token=token,
            cache_dir=cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
            local_files_only=local_files_only,
            allow_patterns=[*_SIDECARS, *wanted],
        )
    except GatedRepoError as error:
        raise SourceError(
            f"{repository} is gated", "accept its terms on the Hub, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"{repository} has no revision {revision!r}", "name a branch, tag or commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"there is no folder {text} and no Hub repository {repository} for you", hint
        ) from error
    except HFValidationError as error:
        raise SourceError(f"there is no folder {text}, and it is no Hub id either", hint) from error
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"there is no folder {text}, and {repository} is neither cached nor reachable", hint
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise SourceError(
            f"{repository} could not be fetched: {error}", "check the connection and try again"
        ) from error
    return Source(Path(folder), repository, Path(folder).name)
