"""What a deviation from torch means for the work: correlation with human judgement, and what a search finds.

Each figure is taken for the reference and for the candidate side by side; what counts is the share that is kept.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.embeddings.similarity import pairwise_similarity, similarity
from stopt.errors import CorruptModel, InputError, SourceError
from stopt.spec import Similarity

__all__ = [
    "QualityReport",
    "Retrieval",
    "StsPairs",
    "ndcg",
    "rank_overlap",
    "read_retrieval",
    "read_sts",
    "recall",
    "spearman",
]

Floats = npt.NDArray[np.floating[Any]]
Vectors = Any  # (N, E): an array, or a matrix of SciPy for vectors that are mostly zero
Encode = Callable[[Sequence[str], str], Vectors]
Score = Callable[[Sequence[tuple[str, str]]], Floats]

DEPTH = 10  # results looked at, as in nDCG@10 and recall@10
RELEVANT_QUERY_BLOCK = 256  # queries scored at a time, to bound memory
ROWS = 512  # sparse vectors spread out at a time, for the same reason


@dataclass(frozen=True, slots=True)
class QualityReport:
    """One figure for the reference and for the candidate.

    Attributes:
        metric: What was measured, and on what: ``"sts-test spearman"``.
        reference: The figure of the original weights in torch.
        candidate: The figure of the file.
    """

    metric: str
    reference: float
    candidate: float

    @property
    def kept(self) -> float:
        """Share of the reference's figure that the candidate keeps; 1 is all of it."""
        return self.candidate / self.reference if self.reference else float("nan")


@dataclass(frozen=True, slots=True)
class StsPairs:
    """Pairs of sentences with the similarity that people gave them.

    Attributes:
        name: What they are called.
        first: (N,) sentences.
        second: (N,) sentences.
        scores: (N,) similarity; only the order matters.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: Floats

    def measure(self, encode: Encode, function: Similarity) -> dict[str, float]:
        """Return Spearman's correlation of a model's similarities with the scores.

        Args:
            encode: Texts, and the name of a prompt, to (N, E) embeddings; sparse ones as a SciPy matrix.
            function: How the model compares embeddings.
        """
        texts = list(dict.fromkeys((*self.first, *self.second)))
        vectors = encode(texts, "")
        row_of = {text: row for row, text in enumerate(texts)}
        first, second = (vectors[[row_of[text] for text in side]] for side in (self.first, self.second))
        found = [
            pairwise_similarity(a, b, function) for a, b in zip(_blocks(first), _blocks(second), strict=True)
        ]
        return {f"{self.name} spearman": spearman(np.concatenate(found), self.scores)}

    def measure_scores(self, score: Score) -> dict[str, float]:
        """Return Spearman's correlation of a cross-encoder's scores with the pairs' own.

        Args:
            score: Pairs to (N,) scores.
        """
        found = score(list(zip(self.first, self.second, strict=True)))
        return {f"{self.name} spearman": spearman(found, self.scores)}


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Documents, queries, and which documents answer which query.

    Attributes:
        name: What they are called.
        documents: Text by id.
        queries: Text by id.
        relevant: For each query's id the relevance of documents, by id; larger is better, 0 is not relevant.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]

    def measure(self, encode: Encode, function: Similarity) -> dict[str, float]:
        """Return mean nDCG@10 and recall@10 over the queries that have relevant documents.

        Args:
            encode: Texts, and the name of a prompt, to (N, E) embeddings; sparse ones as a SciPy matrix.
            function: How the model compares embeddings.
        """
        document_ids = list(self.documents)
        query_ids = [query for query in self.queries if self.relevant.get(query)]
        documents = encode(list(self.documents.values()), "document")
        queries = encode([self.queries[query] for query in query_ids], "query")
        gains, recalls = [], []
        for start in range(0, len(query_ids), RELEVANT_QUERY_BLOCK):
            block = _spread(queries[start : start + RELEVANT_QUERY_BLOCK])
            scores = np.concatenate(
                [similarity(block, rows, function) for rows in _blocks(documents)], axis=1
            )
            for query, row in zip(
                query_ids[start:], np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH], strict=False
            ):
                relevant = self.relevant[query]
                found = [relevant.get(document_ids[column], 0) for column in row]
                gains.append(ndcg(found, list(relevant.values())))
                recalls.append(recall(found, list(relevant.values())))
        return {
            f"{self.name} ndcg@10": float(np.mean(gains)),
            f"{self.name} recall@10": float(np.mean(recalls)),
        }


def _blocks(vectors: Vectors) -> list[Floats]:
    """All rows of an array at once; those of a sparse matrix a few at a time, spread out."""
    if isinstance(vectors, np.ndarray):
        return [vectors]
    return [_spread(vectors[start : start + ROWS]) for start in range(0, vectors.shape[0], ROWS)]


def _spread(vectors: Vectors) -> Floats:
    return vectors if isinstance(vectors, np.ndarray) else vectors.toarray()


def spearman(a: Floats, b: Floats) -> float:
    """Return Spearman's rank correlation of two (N,) series; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ((ends - counts + 1 + ends) / 2)[inverse]
    return means


def ndcg(found: Sequence[int], relevant: Sequence[int], depth: int = DEPTH) -> float:
    """Return the normalised discounted cumulative gain of one result list.

    Args:
        found: Relevance of the results, best first.
        relevant: Relevance of every relevant document, in any order.
        depth: Results that count.
    """
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    ideal = sorted(relevant, reverse=True)[:depth]
    best = float(np.dot(ideal, discounts[: len(ideal)]))
    gained = list(found)[:depth]
    return float(np.dot(gained, discounts[: len(gained)])) / best if best else 0.0


def recall(found: Sequence[int], relevant: Sequence[int], depth: int = DEPTH) -> float:
    """Return the share of relevant documents among the first results; arguments as in :func:`ndcg`."""
    total = sum(relevance > 0 for relevance in relevant)
    return sum(relevance > 0 for relevance in list(found)[:depth]) / total if total else 0.0


def rank_overlap(
    reference: Floats,
    candidate: Floats,
    depth: int = DEPTH,
    *,
    function: Similarity = Similarity.COSINE,
) -> float:
    """Return how much of each text's nearest neighbours two sets of vectors share, on average.

    Args:
        reference: (N, E) vectors of texts.
        candidate: (N, E) vectors of the same texts.
        depth: Neighbours looked at, the text itself left out.
        function: How vectors are compared.

    Returns:
        From 0 to 1; 1 if the neighbours are the same, in whatever order.
    """
    depth = min(depth, len(reference) - 1)
    if depth < 1:
        return 1.0
    first, second = (_neighbours(vectors, depth, function) for vectors in (reference, candidate))
    shared = [len(np.intersect1d(a, b)) / depth for a, b in zip(first, second, strict=True)]
    return float(np.mean(shared))


def _neighbours(vectors: Floats, depth: int, function: Similarity) -> npt.NDArray[np.int64]:
    scores = similarity(np.nan_to_num(vectors), np.nan_to_num(vectors), function)
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth]


def read_sts(file: Path) -> StsPairs:
    """Read a TSV file of scored pairs: ``score``, ``sentence1``, ``sentence2``, with or without that header.

    Raises:
        SourceError: If it cannot be read.
        InputError: If a line has not three columns, or a score is not a number; says which line.
    """
    first, second, scores = [], [], []
    for number, line in enumerate(_lines(file), start=1):
        columns = line.rstrip("\n").split("\t")
        if len(columns) != 3:
            raise InputError(
                f"line {number} of {file} has {len(columns)} columns",
                "score, sentence1, sentence2, with tabs",
            )
        try:
            score = float(columns[0])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            if number == 1:  # the header
                continue
            raise InputError(
                f"line {number} of {file}: {columns[0]!r} is not a score",
                "score, sentence1, sentence2, with tabs",
            )
        scores.append(score)
        first.append(columns[1])
        second.append(columns[2])
    if len(scores) < 2:
        raise InputError(
            f"{file} has {len(scores)} scored pairs",
            "a correlation needs two at least, and says little below 100",
        )
    return StsPairs(_name(file), tuple(first), tuple(second), np.array(scores))


def read_retrieval(folder: Path) -> Retrieval:
    """Read a retrieval set in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``; ``.gz`` of each.

    Raises:
        SourceError: If a file is missing or cannot be read.
        InputError: If a file is not of that layout, or no query has a relevant document.
    """
    documents = {
        str(record["_id"]): f"{record.get('title') or ''} {record['text']}".strip()
        for record in _records(_either(folder / "corpus.jsonl"))
    }
    queries = {
        str(record["_id"]): str(record["text"]) for record in _records(_either(folder / "queries.jsonl"))
    }
    relevant: dict[str, dict[str, int]] = {}
    file = _either(folder / "qrels" / "test.tsv")
    for number, line in enumerate(_lines(file), start=1):
        columns = line.split()
        if len(columns) != 3 or (number > 1 and not columns[2].lstrip("-").isdigit()):
            raise InputError(
                f"line {number} of {file} is not: query id, document id, relevance", "with tabs between them"
            )
        if columns[2].lstrip("-").isdigit() and int(columns[2]) > 0:
            relevant.setdefault(columns[0], {})[columns[1]] = int(columns[2])
    if not any(relevant.get(query) for query in queries):
        raise InputError(
            f"{folder} has no query with a relevant document", "are queries and qrels of the same set?"
        )
    return Retrieval(folder.resolve().name, documents, queries, relevant)


def _either(file: Path) -> Path:
    """The file, or its compressed form."""
    return file if file.is_file() else file.with_name(f"{file.name}.gz")


def _name(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".tsv")


def _records(file: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"line {number} of {file} is not JSON: {error}", "JSONL has one object per line"
            ) from error
        if not isinstance(record, dict) or "_id" not in record or not isinstance(record.get("text"), str):
            raise InputError(
                f"line {number} of {file} has no '_id' and 'text'", "BEIR's layout has both in every line"
            )
        yield record


def _lines(file: Path) -> Iterator[str]:
    try:
        with (
            gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8") as lines,
        ):
            yield from lines
    except FileNotFoundError as error:
        raise SourceError(
            f"{file.with_name(file.name.removesuffix('.gz'))} does not exist", "name another place"
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file} is not UTF-8 text: {error.reason}", "convert it: iconv -t utf-8"
        ) from error
    except (OSError, EOFError) as error:
        raise CorruptModel(f"{file} cannot be read: {error}", "fetch it again") from error
