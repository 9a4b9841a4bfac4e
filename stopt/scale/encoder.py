"""A model as a function from texts to rows of a shard: the same in this process, in a worker and in an actor of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt import hub
from stopt.artifact import sha256
from stopt.embeddings.call import OWN, CallRanges, quantize_call, ranges_for_call
from stopt.embeddings.codes import parse_precision
from stopt.embeddings.ranges import RANGES, Ranges
from stopt.embeddings.space import fingerprint
from stopt.errors import OptionError, VectorError
from stopt.reading import read_spec
from stopt.runtime.cross_encoder import CrossEncoder
from stopt.runtime.modules import weight_files
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.sentence_transformer import SentenceTransformer
from stopt.runtime.sparse_arrays import SparseRows, read_embeddings
from stopt.runtime.sparse_encoder import SparseEncoder
from stopt.runtime.tokenizer import Text
from stopt.scale.job import ModelOptions, versions
from stopt.spec import ModelKind

__all__ = ["About", "Block", "Encoded", "Encoder", "kind_of", "ranges_missing", "refuse_options"]

# (N, E) floats or codes, (N,) or (N, labels) scores; or N sparse vectors
Block = npt.NDArray[Any] | SparseRows

_PACKAGES = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": ("torch", "transformers"),
    "numpy": (),
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of the texts of a call.

    Attributes:
        block: Rows of the texts that could be encoded, in order.
        refused: Why the others could not, by their places in the call.
        tokens: Of a sparse encoder: what each row's values stand for, the strongest first; empty unless asked for.
    """

    block: Block
    refused: Mapping[int, str] = field(default_factory=dict)
    tokens: Sequence[Sequence[str | None]] = ()


def kind_of(model: str) -> ModelKind:
    """What a model is, going by its small files."""
    return read_spec(hub.fetch(model, ()).folder).kind


@dataclass(frozen=True, slots=True)
class About:
    """What is encoded with.

    Attributes:
        kind: What the model is.
        file: The file that is served; for torch the folder of the weights.
        summary: What runs where, in words.
        decisive: What decides a vector, beside the options: plain values.
        needs_all: Whether codes depend on all texts of a call, which then cannot be cut into several.
    """

    kind: ModelKind
    file: str
    summary: str
    decisive: Mapping[str, Any]
    needs_all: bool


class Encoder:
    """A model, opened.

    Args:
        options: The model and how it encodes.
        tokens: Whether a sparse encoder's results come with the tokens that they stand for.

    Raises:
        StoptError: If the model cannot be opened, or an option does not fit it.
    """

    def __init__(self, options: ModelOptions, *, tokens: bool = False) -> None:
        self._options = options
        self._tokens = tokens
        self.kind = kind_of(options.model)
        self._ranges: CallRanges = None
        self._model: SentenceTransformer | SparseEncoder | CrossEncoder
        common: dict[str, Any] = {
            "backend": options.backend,
            "device": options.device,
            "threads": options.threads,
        }
        common["model_kwargs"] = options.model_kwargs
        match self.kind:
            case ModelKind.DENSE:
                self._model = SentenceTransformer(options.model, **common)
                self._ranges = self._chosen_ranges(self._model)
            case ModelKind.SPARSE:
                self._model = SparseEncoder(options.model, **common)
            case ModelKind.CROSS_ENCODER:
                self._model = CrossEncoder(options.model, **common)

    def __call__(self, texts: Sequence[Text]) -> Encoded:
        """Encode texts, or score pairs.

        Returns:
            A row for each; of no text a block of no rows, as wide as any other.
        """
        count = len(texts)
        given = list(texts) if count else [("", "") if self.kind is ModelKind.CROSS_ENCODER else ""]
        match self._model:
            case SentenceTransformer():
                return self._dense(self._model, given, count)
            case SparseEncoder():
                return self._sparse(self._model, given, count)
            case _:
                score = partial(self._model.predict, show_progress_bar=False, **self._call)
                scores, refused = self._good(score, given)
                return Encoded(scores[: max(0, count - len(refused))], refused)

    @property
    def files(self) -> OpenedFiles:
        """What it was opened from, and what was read there that decides a row."""
        pipeline, ranges = self._model.pipeline, self._ranges
        read: dict[str, Any] = {"its settings": pipeline.spec}
        if isinstance(ranges, Ranges):
            read[RANGES] = ranges.fingerprint
        return pipeline.files.with_values(read)

    def in_batches(self, size: int | None) -> Encoder:
        """The same with so many texts in a batch at most; None is as it is."""
        if size is None:
            return self
        found = copy(self)
        found._options = replace(self._options, batch_size=min(size, self._options.batch_size or size))
        return found

    def about(self) -> About:
        """Describe it; hashes its file.

        Raises:
            ArtifactError: If its files have changed since it was opened: what it runs cannot be told from them.
        """
        session = self._model.pipeline.session
        decisive: dict[str, Any] = {
            "kind": self.kind.value,
            "file": self._model.file.name,
            "sha256": fingerprint(self._model.file),
            "backend": session.backend.value,
            "precision": session.precision,
            "device": session.device.partition(":")[0],
            "versions": versions("numpy", "tokenizers", *_PACKAGES[session.backend.value]),
        }
        if weights := _module_weights(self._model.pipeline):
            decisive["modules"] = weights
        if isinstance(self._ranges, Ranges):
            decisive["ranges"] = self._ranges.fingerprint
        self._model.pipeline.files.require_unchanged()
        return About(
            kind=self.kind,
            file=str(self._model.file),
            summary=f"{self._model.file} on {self._model.device} in {session.precision}",
            decisive=decisive,
            needs_all=self.needs_all,
        )

    @property
    def needs_all(self) -> bool:
        """Whether codes depend on all texts of a call, which then cannot be cut into several."""
        has_ranges = self.kind is ModelKind.DENSE and parse_precision(self._options.precision).has_ranges
        return has_ranges and (self._ranges is None or isinstance(self._ranges, str))

    def require_cut(self) -> None:
        """Make sure that a corpus may be encoded in several calls.

        Raises:
            OptionError: If codes depend on all of its embeddings.
        """
        if self.needs_all:
            raise ranges_missing()

    @property
    def _call(self) -> dict[str, Any]:
        options = self._options
        return {
            "prompt_name": options.prompt_name,
            "prompt": options.prompt,
            "batch_size": options.batch_size,
            "max_batch_tokens": options.max_batch_tokens,
        }

    def _by_role(self, model: SentenceTransformer | SparseEncoder) -> Callable[..., Any]:
        known: dict[str, Callable[..., Any]] = {
            "query": model.encode_query,
            "document": model.encode_document,
        }
        return known.get(self._options.role or "", model.encode)

    def _chosen_ranges(self, model: SentenceTransformer) -> CallRanges:
        options, pipeline = self._options, model.pipeline
        return ranges_for_call(
            pipeline.home or pipeline.root,
            pipeline.spec,
            options.ranges,
            precision=options.precision,
            truncate_dim=model.truncate_dim if options.truncate_dim is None else options.truncate_dim,
            normalize=options.normalize_embeddings,
        )

    def _dense(self, model: SentenceTransformer, texts: list[Text], count: int) -> Encoded:
        options = self._options
        run = partial(
            self._by_role(model),
            show_progress_bar=False,
            truncate_dim=options.truncate_dim,
            normalize_embeddings=options.normalize_embeddings,
            **self._call,
        )
        floats, refused = self._good(run, texts)
        floats = floats[: max(0, count - len(refused))]
        if options.precision == "float32":
            return Encoded(floats, refused)
        if not len(floats):  # the shape and dtype that any other has
            nothing = np.zeros((1, floats.shape[1]), np.float32)
            return Encoded(quantize_call(nothing, options.precision, OWN)[:0], refused)
        return Encoded(quantize_call(floats, options.precision, self._ranges), refused)

    def _sparse(self, model: SparseEncoder, texts: list[Text], count: int) -> Encoded:
        run = partial(
            self._by_role(model),
            show_progress_bar=False,
            max_active_dims=self._options.max_active_dims,
            **self._call,
        )
        found, refused = self._good(run, texts)
        rows = read_embeddings(found).rows.part(0, max(0, count - len(refused)))
        tokens = (
            [[token for token, _ in each] for each in model.decode(rows.to_csr())]
            if self._tokens and len(rows)
            else []
        )
        return Encoded(rows, refused, tokens)

    def _good(self, run: Callable[[list[Text]], Any], texts: list[Text]) -> tuple[Any, dict[int, str]]:
        """What the model makes of the texts that it has a result for, and why it has none for the others.

        What is no result is decided where it is for every call, and not again here. If all are refused, what is made of
        the first says what shape and dtype others would have.
        """
        left, refused = list(range(len(texts))), dict[int, str]()
        while left:
            try:
                return run([texts[place] for place in left]), dict(sorted(refused.items()))
            except VectorError as error:  # of one batch: the rest goes on
                reason = _OF_ZEROS if "zeros" in error.message else _NOT_FINITE
                refused.update({left[row]: reason for row in error.rows})
                bad = {left[row] for row in error.rows}
                left = [place for place in left if place not in bad]
        self._model.check_rows = False
        try:
            return run(texts[:1]), dict(sorted(refused.items()))
        finally:
            self._model.check_rows = True


def _module_weights(pipeline: Pipeline) -> dict[str, str]:
    """sha256 of the files that the model's own modules have their weights in, of which fingerprints know nothing."""
    modules = [each.modules for each in (pipeline.spec, *pipeline.spec.routes.values())]
    files = dict.fromkeys(file for each in modules for file in weight_files(pipeline.root, each))
    return {file.relative_to(pipeline.root).as_posix(): sha256(file) for file in files}


_NOT_FINITE = "has an embedding with NaN or infinity in it"
_OF_ZEROS = "has an embedding of zeros"


def ranges_missing() -> OptionError:
    """The error of codes whose ranges would differ between parts of a corpus."""
    return OptionError(
        "int8 and uint8 need ranges, which all parts of a corpus must share",
        "store them with the model once: stopt calibrate MODEL --texts FILE; or name a file: --ranges FILE",
    )


def refuse_options(kind: ModelKind, options: ModelOptions) -> None:
    """Refuse options that mean nothing for a kind of model.

    Raises:
        OptionError: If one is given.
    """
    given = {
        "truncate_dim": options.truncate_dim,
        "normalize_embeddings": options.normalize_embeddings,
        "ranges": options.ranges,
        "precision": options.precision if options.precision != "float32" else None,
        "max_active_dims": options.max_active_dims,
        "role": options.role,
    }
    found = [name for name, value in given.items() if value and kind not in _FOR[name]]
    if found:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in found)
        raise OptionError(f"a {kind.value} model has no use for {names}", "leave it out")


# options of the call, and the kinds of model that they are for
_FOR = {
    "truncate_dim": {ModelKind.DENSE},
    "normalize_embeddings": {ModelKind.DENSE},
    "ranges": {ModelKind.DENSE},
    "precision": {ModelKind.DENSE},
    "max_active_dims": {ModelKind.SPARSE},
    "role": {ModelKind.DENSE, ModelKind.SPARSE},
}
