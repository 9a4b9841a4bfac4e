"""Is a converted file the model? Its vectors or scores against torch's, over real text in many shapes of batch.

The reference is always torch in float32 with the original weights (itself held against sentence-transformers in the
tests). Every text is run alone and in mixed, padded batches, so that what padding or company does to a vector shows
up as a number. Token ids are compared with transformers' own tokenizer as well: stopt tokenises by itself.
Shapes: N texts, E values per embedding, or as many as there are labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stopt.folder import contained
from stopt.parity.figures import score_figures, vector_figures
from stopt.parity.report import ParityReport, Tolerance, judged, tolerance_for
from stopt.parity.samples import check_texts, sample_pairs, sample_texts, samples_for
from stopt.parity.their_tokenizer import plain_tokenizer
from stopt.runtime.arrays import numpy_array
from stopt.runtime.batching import BatchLimits, plan_batches
from stopt.runtime.overrides import lower_case
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import Text, Tokens
from stopt.spec import ModelKind, ModelSpec, TransformerSpec

__all__ = [
    "ParityReport",
    "Reference",
    "Tolerance",
    "check_texts",
    "compare",
    "sample_pairs",
    "sample_texts",
    "samples_for",
    "token_mismatch",
    "tolerance_for",
]

Floats = npt.NDArray[np.floating[Any]]

# texts of a batch; 1 is every text alone, without padding
BATCH_SIZES = (1, 7, 32)
# a vocabulary of logits per token in torch, which has them all at once: 2048 tokens of 30 000 are 250 MB
REFERENCE_LIMITS = BatchLimits(texts=16, tokens=2048)


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch makes of the texts; measured once, held against any number of files.

    Attributes:
        spec: The model.
        texts: Texts or pairs, in an order that mixes lengths.
        tokens: The same, tokenised.
        vectors: (N, E): their embeddings in torch, float32; of a cross-encoder their logits.
    """

    spec: ModelSpec
    texts: Sequence[Text]
    tokens: Sequence[Tokens]
    vectors: Floats

    @classmethod
    def measure(cls, pipeline: Pipeline, texts: Sequence[Text]) -> Reference:
        """Run texts, and the lengths that they lack (see :func:`check_texts`), through torch.

        Args:
            pipeline: The model in torch, float32.
            texts: Texts, or pairs for a cross-encoder, in any order.
        """
        spec = pipeline.spec
        texts = check_texts(texts, pipeline)
        tokens = pipeline.tokenizer.tokenize(texts)
        vectors = np.empty((len(texts), spec.embedding_dimension), np.float32)
        for rows in plan_batches([len(row) for row in tokens], REFERENCE_LIMITS):
            vectors[rows] = _vectors(spec, pipeline, [tokens[row] for row in rows], len(rows))
        return cls(spec, texts, tokens, vectors)


def compare(
    reference: Reference, candidate: Pipeline, tolerance: Tolerance, *, precision: str, name: str
) -> ParityReport:
    """Compare a file's vectors, or scores, with torch's.

    Args:
        reference: What torch makes of the texts.
        candidate: The model from the file.
        tolerance: What is allowed.
        precision: Precision of the candidate, for the report.
        name: The candidate's name, for the report.
    """
    spec, texts, tokens = reference.spec, reference.texts, reference.tokens
    found = [_vectors(spec, candidate, tokens, size) for size in BATCH_SIZES]
    measure = score_figures if spec.kind is ModelKind.CROSS_ENCODER else vector_figures
    figures, worst = measure(spec, reference.vectors, found)
    return judged(
        ParityReport(
            candidate=name,
            precision=precision,
            texts=len(texts),
            tokens=max(len(row) for row in tokens),
            worst_text=_start(texts[worst]),
            tolerance=tolerance,
            kind=spec.kind,
            **figures,
        )
    )


def _start(text: Text) -> str:
    return text[:60] if isinstance(text, str) else f"{text[0][:40]} | {text[1][:40]}"


def _vectors(spec: ModelSpec, pipeline: Pipeline, tokens: Sequence[Tokens], batch_size: int) -> Floats:
    """(N, E) float32: the embeddings or logits of texts, batched in their order."""
    found = []
    for start in range(0, len(tokens), batch_size):
        features = pipeline.run(pipeline.tokenizer.pad(tokens[start : start + batch_size]))
        found.append(numpy_array(features[spec.feature]).astype(np.float32))
    return np.concatenate(found)


def token_mismatch(pipeline: Pipeline, texts: Iterable[Text]) -> str:
    """Compare token ids with transformers' tokenizer.

    Returns:
        The first difference in words; empty if there is none. A table has no tokenizer of transformers to compare with.
    """
    if not isinstance(pipeline.spec.front, TransformerSpec):
        return ""
    from transformers import AutoTokenizer

    from stopt.runtime.sessions.torch import quiet

    spec = pipeline.spec.tokenizer
    with quiet():
        with plain_tokenizer(contained(pipeline.root, spec.path)) as folder:
            theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if spec.lower_case:
            lower_case(theirs.backend_tokenizer)
        texts = list(texts)
        limit = spec.max_seq_length
        for text, ours in zip(texts, pipeline.tokenizer.tokenize(texts), strict=True):
            # as sentence-transformers calls it: a list, in which an empty second text still makes a pair
            [ids] = theirs([text], truncation=limit is not None, max_length=limit)["input_ids"]
            if ids != ours.ids.tolist():
                shown = f"{ids[:12]} to transformers and {ours.ids[:12].tolist()} to stopt"
                return f"{_start(text)!r} is {shown}"
    return ""
