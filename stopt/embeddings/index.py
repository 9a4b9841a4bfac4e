"""An index: documents' codes with everything a query needs, in memory and as a folder.

The folder has ``index.json`` (what it is), the codes as the engine keeps them, and what belongs to them: ranges, rows to
rescore with, texts, and queries that other files are measured with. It appears in one step, complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.counts import require_count
from stopt.embeddings.codes import Precision, parse_precision
from stopt.embeddings.engines import Engine, EngineKind, build, parse_engine
from stopt.embeddings.given import matrix, require_embeddings, require_same_width
from stopt.embeddings.nearest import Hits, Rescoring, hits, nearest
from stopt.embeddings.quantization import quantize_embeddings
from stopt.embeddings.ranges import Ranges
from stopt.embeddings.scoring import Levels, as_stored, stored_precision
from stopt.embeddings.space import DEPTH, Compatibility, Space, neighbour_recall
from stopt.errors import InputError, OptionError, SpaceError, UnsupportedModel, suggest
from stopt.runtime.modules import l2_normalize
from stopt.runtime.sentence_transformer import SentenceTransformer
from stopt.spec import Similarity

__all__ = ["IndexOptions", "Probes", "SearchIndex", "index_texts", "probe_ids"]

Floats = npt.NDArray[np.float32]

RESCORE_BY = ("codes", "int8", "float32", "none")
PROBES = 64  # texts that another file's queries are measured with


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How documents are kept and searched.

    Attributes:
        precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
        engine: ``exact`` (numpy), ``faiss`` or ``usearch``.
        approximate: Let a graph lead to most of the nearest (faiss, usearch) instead of comparing with every document.
        rescore_by: What candidates are ordered by: ``codes``, the searched codes with the query's floats; ``int8`` or
            ``float32``, rows kept beside them that stay on disk but for the candidates'; ``none``. The default is
            ``codes`` for int8, ``int8`` for bits.
        rescore_multiplier: Candidates for each result.

    Raises:
        OptionError: If a value is wrong, or two contradict each other.
    """

    precision: str = "float32"
    engine: str = "exact"
    approximate: bool = False
    rescore_by: str | None = None
    rescore_multiplier: int = 4

    def __post_init__(self) -> None:
        precision, engine = parse_precision(self.precision), parse_engine(self.engine)
        require_count(self.rescore_multiplier, "rescore_multiplier")
        if self.rescore_by is None:
            default = "int8" if precision.is_binary else "codes" if precision.has_ranges else "none"
            object.__setattr__(self, "rescore_by", default)
        if self.rescore_by not in RESCORE_BY:
            raise OptionError(
                f"rescore_by {self.rescore_by!r} is unknown", suggest(str(self.rescore_by), RESCORE_BY)
            )
        if self.approximate and engine is EngineKind.EXACT:
            raise OptionError("engine 'exact' has no graph to search by", "engine: 'faiss' or 'usearch'")
        if precision is Precision.FLOAT32 and self.rescore_by != "none":
            raise OptionError("float32 documents have nothing better to be rescored by", "rescore_by: 'none'")


@dataclass(frozen=True, slots=True)
class Probes:
    """Queries by which another file's are measured.

    Attributes:
        ids: (P,) documents whose texts they are.
        embeddings: (P, E) float32, by the file that built the index.
    """

    ids: npt.NDArray[np.int64]
    embeddings: Floats


def probe_ids(count: int) -> npt.NDArray[np.int64]:
    """Choose documents whose texts serve as probes: evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(PROBES, count)).round().astype(np.int64))


@dataclass(frozen=True, slots=True)
class SearchIndex:
    """Documents that can be searched.

    Made by :meth:`build`, kept with :func:`stopt.embeddings.index_files.save_index`.

    Attributes:
        engine: The codes.
        options: How they are kept and searched.
        dimension: Number of dimensions of an embedding.
        ranges: Ranges of int8 codes, be they searched or rescored by.
        rescore_rows: (N, E) int8 or float32 to rescore by; None without.
        space: Where the embeddings live; None if that is not known.
        texts: (N,) texts; empty if the index has none.
        lines: (N,) numbers of the lines they were read from, from 1; empty without texts.
        probes: Queries by which another file's are measured; None without.
    """

    engine: Engine
    options: IndexOptions
    dimension: int
    ranges: Ranges | None = None
    rescore_rows: npt.NDArray[Any] | None = None
    space: Space | None = None
    texts: Sequence[str] = ()
    lines: Sequence[int] = ()
    probes: Probes | None = field(default=None, repr=False)

    @classmethod
    def build(
        cls,
        embeddings: Any,
        options: IndexOptions | None = None,
        *,
        ranges: Ranges | None = None,
        space: Space | None = None,
        texts: Sequence[str] = (),
        lines: Sequence[int] = (),
        probes: Probes | None = None,
    ) -> SearchIndex:
        """Make an index of embeddings.

        Args:
            embeddings: (N, E) floats.
            options: How they are kept and searched; None is exact search of float32.
            ranges: Ranges for int8; None takes those of the embeddings, which then stay with the index.
            space: Where the embeddings live.
            texts: Their texts.
            lines: The lines that the texts were read from.
            probes: Queries by which another file's are measured.

        Raises:
            MissingExtra: If the engine is not installed.
            InputError: If the embeddings are no floats, are codes already, or have NaN or infinity; if ranges, space or
                texts do not fit them.
        """
        chosen = options or IndexOptions()
        floats = require_embeddings(matrix(embeddings, "corpus"), "corpus")
        if not len(floats):
            raise InputError("there is no document to build an index of", "give one embedding at least")
        precision = parse_precision(chosen.precision)
        width = floats.shape[1]
        for what, length, expected in (
            ("ranges", ranges.dimension if ranges else width, width),
            ("a space", space.dimension if space else width, width),
            ("probes", probes.embeddings.shape[1] if probes else width, width),
        ):
            require_same_width(length, expected, what)
        if (texts and len(texts) != len(floats)) or (lines and len(lines) != len(floats)):
            raise InputError(
                f"{len(texts)} texts and {len(lines)} lines for {len(floats)} embeddings",
                "give one of each per embedding",
            )
        if ranges is None and (precision.has_ranges or chosen.rescore_by == "int8"):
            ranges = Ranges.of(floats)
        levels = Levels.of_ranges(ranges) if precision.has_ranges and ranges else None
        codes = floats
        if precision is not Precision.FLOAT32:
            codes = as_stored(quantize_embeddings(floats, precision.value, ranges), precision)
        engine = build(
            parse_engine(chosen.engine),
            codes,
            stored_precision(precision),
            levels,
            exact=not chosen.approximate,
        )
        rows = None
        if chosen.rescore_by == "int8" and stored_precision(precision) is not Precision.INT8:
            rows = quantize_embeddings(floats, "int8", ranges)
        elif chosen.rescore_by == "float32":
            rows = floats
        return cls(engine, chosen, width, ranges, rows, space, tuple(texts), tuple(lines), probes)

    def __len__(self) -> int:
        return len(self.engine)

    @property
    def precision(self) -> Precision:
        """How documents are kept."""
        return parse_precision(self.options.precision)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one document's code, rows to rescore by not counted: those stay on disk."""
        return (
            -(-self.dimension // 8)
            if self.precision.is_binary
            else self.dimension * self.precision.dtype.itemsize
        )

    def search(self, query_embeddings: Any, top_k: int = 10, *, space: Space | None = None) -> Hits:
        """Find the documents nearest to each query.

        Args:
            query_embeddings: (Q, E) floats; (E,) for one.
            top_k: Documents for each query; fewer if there are fewer.
            space: Where the queries live; None if that is not known.

        Returns:
            For each query a list of ``{"corpus_id": int, "score": float}``, the best first; scores as
            :func:`stopt.semantic_search_faiss` has them.

        Raises:
            SpaceError: If queries and documents are known to live in different spaces; :meth:`measure` can tell more.
            InputError: If the queries are of another dimension, are codes, or have NaN or infinity.
        """
        require_count(top_k, "top_k")
        self.require(space)
        queries = require_embeddings(matrix(query_embeddings, "query"), "query")
        require_same_width(queries.shape[1], self.dimension)
        scores, ids = nearest(self.engine, queries, self._levels, top_k, self._rescoring)
        if self._rescoring is None and self.precision.is_binary:
            scores = -scores  # distances
        return hits(scores, ids)

    def require(self, space: Space | None) -> None:
        """Make sure that queries of a space can be compared with the documents.

        Raises:
            SpaceError: If both spaces are known, and they differ.
        """
        if space is None or self.space is None:
            return
        differing = [
            f"{name} {getattr(space, name)!r}, the index {getattr(self.space, name)!r}"
            for name in ("fingerprint", "dimension", "truncate_dim", "normalized")
            if getattr(space, name) != getattr(self.space, name)
        ]
        if space.dimension == self.space.dimension:  # how it came about does not matter then
            differing = [each for each in differing if not each.startswith("truncate_dim")]
        if differing:
            raise SpaceError(
                f"the queries are of another space than the index: {'; '.join(differing)}",
                "encode them with the file that built it, or let SearchIndex.measure tell how much another one finds",
            )

    def measure(self, model: SentenceTransformer) -> Compatibility:
        """Measure how well another file's queries search this index, with texts of the index itself.

        Raises:
            InputError: If the index has no texts to measure with.
        """
        if self.probes is None or self.space is None or not self.texts:
            raise InputError(
                "the index keeps no queries to measure another file with",
                "build it with texts: stopt index FILE",
            )
        space, ids = self.space, self.probes.ids
        names = (str(model.file), f"{space.model} {space.file}".strip())
        given = np.atleast_2d(
            model.encode_query(
                [self.texts[place] for place in ids],
                truncate_dim=space.truncate_dim,
                normalize_embeddings=space.normalized,
            )
        ).astype(np.float32)
        if given.shape[1] != self.dimension:
            reason = f"they have {given.shape[1]} dimensions, the documents {self.dimension}"
            return Compatibility(*names, len(ids), 0.0, 0.0, 0.0, reason=reason)
        found = []
        for queries in (self.probes.embeddings, given):
            _, places = nearest(self.engine, queries, self._levels, DEPTH + 1, self._rescoring)
            found.append(places)
        cosines = np.sum(l2_normalize(given) * l2_normalize(self.probes.embeddings), axis=1)
        recall = neighbour_recall(found[0], found[1], ids)
        return Compatibility(*names, len(ids), recall, float(cosines.mean()), float(cosines.min()))

    def without_rescoring(self) -> SearchIndex:
        """Return one that answers in the order of the codes."""
        return replace(self, options=replace(self.options, rescore_by="none"))

    @property
    def _levels(self) -> Levels | None:
        return Levels.of_ranges(self.ranges) if self.precision.has_ranges and self.ranges else None

    @property
    def _rescoring(self) -> Rescoring | None:
        multiplier = self.options.rescore_multiplier
        if self.options.rescore_by == "none":
            return None
        if self.rescore_rows is not None:
            levels = None if self.rescore_rows.dtype == np.float32 or self.ranges is None else self.ranges
            return Rescoring.of_rows(
                self.rescore_rows, Levels.of_ranges(levels) if levels else None, multiplier
            )
        levels_of_codes = self._levels or Levels.of_signs(self.dimension)
        return Rescoring.of_codes(self.engine, levels_of_codes, multiplier)


def index_texts(
    model: SentenceTransformer,
    texts: Sequence[str],
    options: IndexOptions | None = None,
    *,
    name: str = "",
    lines: Sequence[int] = (),
    truncate_dim: int | None = None,
    batch_size: int | None = None,
    show_progress_bar: bool = False,
) -> SearchIndex:
    """Encode texts as documents and make an index of them.

    Embeddings are scaled to unit length where the model compares by cosine, so that inner products are cosines.

    Args:
        model: The model, with the file that is to encode queries, too.
        texts: The documents.
        options: How they are kept and searched.
        name: What the model was opened from; empty is the path of its file.
        lines: The lines that the texts were read from.
        truncate_dim: Leading dimensions to keep; None is the model's own choice.
        batch_size: Texts that are run together, at most; None is what suits the engine.
        show_progress_bar: Draw one.

    Raises:
        InputError: If there is no text, or a text is not usable.
        UnsupportedModel: If the model compares embeddings by a distance.
        OptionError: If an option's value is wrong.
    """
    if model.similarity_fn_name not in (Similarity.COSINE, Similarity.DOT):
        raise UnsupportedModel(
            name or str(model.file),
            [f"it compares embeddings by {model.similarity_fn_name} distance"],
            "indices compare by cosine or inner product",
        )
    if not texts:
        raise InputError("there is no text to build an index of", "give one text at least")
    normalized = model.similarity_fn_name == Similarity.COSINE
    given = list(texts)
    embeddings = model.encode_document(
        given,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        truncate_dim=truncate_dim,
        normalize_embeddings=normalized,
    )
    ids = probe_ids(len(given))
    probes = model.encode_query(
        [given[place] for place in ids], truncate_dim=truncate_dim, normalize_embeddings=normalized
    )
    space = Space.of(model, name or str(model.file), truncate_dim, normalized=normalized)
    return SearchIndex.build(
        embeddings,
        options,
        space=space,
        texts=given,
        lines=lines,
        probes=Probes(ids, np.ascontiguousarray(probes, np.float32)),
    )
