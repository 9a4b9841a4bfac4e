"""Can queries that one file encodes search an index that another has built?

Two files with the same bytes can; of others only a search tells. Every text is searched for with both files' embeddings
among the documents of the second, and what counts is how many of its ten nearest are found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.artifact import sha256
from stopt.embeddings.exact import search_floats
from stopt.errors import InputError, SpaceError
from stopt.runtime.modules import l2_normalize
from stopt.runtime.sentence_transformer import SentenceTransformer

__all__ = ["MIN_RECALL", "Compatibility", "Space", "index_compatibility", "neighbour_recall"]

DEPTH = 10
# int8 files keep 93 to 97 % of the ten nearest of their own original (benchmarks/results/recipes.json): those may search
# its index. Another model finds what chance finds
MIN_RECALL = 0.9
FEW_TEXTS = 2 * DEPTH  # among fewer, ten are near by chance

Floats = npt.NDArray[np.float32]

_SETTINGS = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
)


@dataclass(frozen=True, slots=True)
class Space:
    """Where embeddings live.

    Attributes:
        model: Folder or Hub id that the model was opened from.
        file: The file that made them, relative to the model folder; empty for the original weights.
        backend: Engine that ran it.
        fingerprint: sha256 over the bytes of the file and the settings beside it, hexadecimal.
        dimension: Number of dimensions.
        truncate_dim: Leading dimensions that were kept; None is all.
        normalized: Whether embeddings have unit length.
        query_prompt: What is put before a query.
        document_prompt: What was put before documents.
    """

    model: str
    file: str
    backend: str
    fingerprint: str
    dimension: int
    truncate_dim: int | None
    normalized: bool
    query_prompt: str
    document_prompt: str

    @classmethod
    def of(
        cls, model: SentenceTransformer, name: str, truncate_dim: int | None, *, normalized: bool
    ) -> Space:
        """Describe where a model's embeddings live; hashes its file.

        Args:
            model: The model.
            name: What it was opened from.
            truncate_dim: Leading dimensions that are kept; None is the model's own choice.
            normalized: Whether embeddings are scaled to unit length.
        """
        root = _root(model.file)
        kept = model.truncate_dim if truncate_dim is None else truncate_dim
        width = model.get_embedding_dimension()
        file = model.file.relative_to(root).as_posix()
        return cls(
            name,
            "" if file == "." else file,
            model.get_backend(),
            fingerprint(model.file),
            width if kept is None else min(width, kept),
            kept,
            normalized,
            _prompt(model, ("query",)),
            _prompt(model, ("document", "passage", "corpus")),
        )


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Whether queries of one file can search an index of another.

    Attributes:
        queries: The file that encodes queries.
        documents: The file that encoded the documents.
        texts: Number of texts it was measured with.
        recall: Share of the ten nearest documents that the queries' file finds, of those that the documents' own file
            finds; 1 is all.
        mean_cosine: Mean cosine of both files' embeddings of the same query.
        min_cosine: The smallest.
        required: Recall from which on the answer is yes.
        reason: Why it cannot be, where nothing could be measured; else empty.
    """

    queries: str
    documents: str
    texts: int
    recall: float
    mean_cosine: float
    min_cosine: float
    required: float = MIN_RECALL
    reason: str = ""

    @property
    def compatible(self) -> bool:
        """Whether they can."""
        return not self.reason and self.recall >= self.required

    def failure(self) -> SpaceError | None:
        """Return the error to raise if they cannot, else None."""
        if self.compatible:
            return None
        found = self.reason or (
            f"of the {DEPTH} documents nearest to a query they find {100 * self.recall:.1f} %, "
            f"expected {100 * self.required:.1f} % (mean cosine {self.mean_cosine:.4f})"
        )
        return SpaceError(
            f"queries of {self.queries} cannot search an index of {self.documents}: {found}",
            f"encode queries with {self.documents}, or build the index again with {self.queries}",
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {**asdict(self), "compatible": self.compatible}


def index_compatibility(
    queries: SentenceTransformer,
    documents: SentenceTransformer,
    texts: Sequence[str],
    *,
    truncate_dim: int | None = None,
    min_recall: float = MIN_RECALL,
) -> Compatibility:
    """Measure whether queries of one file can search an index of another.

    Each text is a document and a query; when it is searched for, it does not count itself.

    Args:
        queries: The file that is to encode queries.
        documents: The file that the index was built with.
        texts: Texts of the kind that is searched; 20 at least, and little is known below some hundreds.
        truncate_dim: Leading dimensions that are kept; None is each model's own choice.
        min_recall: Recall of the ten nearest from which on the answer is yes.

    Returns:
        The answer with its figures.

    Raises:
        InputError: If the texts are too few to tell.
    """
    unique = list(dict.fromkeys(texts))
    if len(unique) < FEW_TEXTS:
        raise InputError(
            f"{len(unique)} different texts are too few to compare the {DEPTH} nearest of each",
            f"give {FEW_TEXTS} at least, better some hundreds",
        )
    corpus = _unit(documents.encode_document(unique, truncate_dim=truncate_dim))
    expected = _unit(documents.encode_query(unique, truncate_dim=truncate_dim))
    given = _unit(queries.encode_query(unique, truncate_dim=truncate_dim))
    names = (_label(queries, documents), _label(documents, queries))
    if given.shape[1] != corpus.shape[1]:
        reason = f"they have {given.shape[1]} dimensions, the documents {corpus.shape[1]}"
        return Compatibility(*names, len(unique), 0.0, 0.0, 0.0, min_recall, reason)
    nearest = [
        search_floats(each, len(corpus), lambda part: corpus[part], DEPTH + 1)[1]
        for each in (expected, given)
    ]
    cosines = np.einsum("ij,ij->i", expected, given)
    recall = neighbour_recall(nearest[0], nearest[1], np.arange(len(unique)))
    return Compatibility(*names, len(unique), recall, float(cosines.mean()), float(cosines.min()), min_recall)


def neighbour_recall(
    expected: npt.NDArray[np.int64], found: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
) -> float:
    """Return the share of expected neighbours that were found, on average.

    Args:
        expected: (Q, 11) ids, nearest first, -1 where there is none.
        found: (Q, 11) ids.
        own: (Q,) ids of the texts themselves, which do not count.
    """
    shares = []
    for wanted, got, itself in zip(expected, found, own, strict=True):
        near, seen = (
            [place for place in row.tolist() if place not in (-1, itself)][:DEPTH] for row in (wanted, got)
        )
        if near:
            shares.append(len({*near} & {*seen}) / len(near))
    return float(np.mean(shares)) if shares else 1.0


def fingerprint(file: Path) -> str:
    """Hash a model file with the settings of its folder, or the weights of a folder."""
    root = _root(file)
    engine = sorted(file.glob("*.safetensors")) if file.is_dir() else sorted(_parts(file))
    inner = [path for name in ("config.json", "tokenizer.json") for path in sorted(root.glob(f"*/{name}"))]
    settings = [root / name for name in _SETTINGS] + inner
    digest = hashlib.sha256()
    for path in (*engine, *(path for path in settings if path.is_file())):
        digest.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _parts(file: Path) -> list[Path]:
    """A converted file and those that belong to it: weights beside the graph."""
    beside = (file.with_suffix(".bin"), *file.parent.glob(f"{file.name}?data"))
    return [file, *(path for path in beside if path.is_file() and file.suffix in (".xml", ".onnx"))]


def _root(file: Path) -> Path:
    """The model folder that a file is in."""
    folders = [file, *file.parents[:2]] if file.is_dir() else list(file.parents[:2])
    named = (
        folder for name in ("modules.json", "config.json") for folder in folders if (folder / name).is_file()
    )
    return next(named, folders[0])


def _prompt(model: SentenceTransformer, names: Sequence[str]) -> str:
    """What ``encode_query`` or ``encode_document`` puts before a text."""
    named = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return "" if named is None else model.prompts[named] or ""


def _label(model: SentenceTransformer, other: SentenceTransformer) -> str:
    """A file's name: relative to its folder where both are in one."""
    root = _root(model.file)
    if root == _root(other.file) and model.file != root:
        return model.file.relative_to(root).as_posix()
    return str(model.file)


def _unit(embeddings: npt.NDArray[Any]) -> Floats:
    unit: Floats = l2_normalize(embeddings.astype(np.float32, copy=False))
    return unit
