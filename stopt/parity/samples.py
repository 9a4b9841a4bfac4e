"""What a check runs: the texts that ship with stopt, pairs made of them, and the lengths that both lack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

from stopt.examples import Example, as_pairs, as_texts
from stopt.runtime.pipeline import Pipeline
from stopt.runtime.tokenizer import Text
from stopt.spec import ModelKind

__all__ = ["check_texts", "pairs_of", "sample_pairs", "sample_texts", "samples_for", "shipped"]

# a text past the limit is made only up to this many tokens; beyond, one text would take minutes
LONGEST_TEXT = 2048


def shipped(name: str) -> list[str]:
    """Return the texts of a file in :mod:`stopt.samples`."""
    text = resources.files("stopt.samples").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["text"] for line in text.splitlines()]


def sample_texts() -> list[str]:
    """Return the texts that ship with stopt: 45 in 30 languages, from a few words to a page."""
    return shipped("texts")


def sample_pairs() -> list[tuple[str, str]]:
    """Return pairs made of :func:`sample_texts`: related and unrelated ones in turns."""
    return pairs_of(sample_texts())


def pairs_of(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Make a pair of each text, as rerankers meet them: its first half, in turns with all of it and with the next text."""
    return [
        (text[: max(1, len(text) // 2)], text if number % 2 else texts[(number + 1) % len(texts)])
        for number, text in enumerate(texts)
    ]


def samples_for(kind: ModelKind, given: Sequence[Example] | None) -> list[Text]:
    """Return what a model of this kind is to be checked with: the caller's texts or pairs, else those that ship.

    Raises:
        InputError: If the caller's are texts where pairs are needed, or the reverse.
    """
    if kind is ModelKind.CROSS_ENCODER:
        return list(as_pairs(given, "the texts to check with") if given else sample_pairs())
    return list(as_texts(given, "the texts to check with") if given else sample_texts())


def check_texts(texts: Sequence[Text], pipeline: Pipeline) -> list[Text]:
    """Add to ``texts`` the lengths that they lack: a single token, none at all, and past the model's limit.

    A cross-encoder's pairs get a pair with no second text, one with neither, and one that is too long on either side.
    """
    limit = pipeline.spec.tokenizer.max_seq_length
    wanted = min(limit + 16 if limit is not None else 512, LONGEST_TEXT)
    parts = [part.strip() for text in texts for part in ((text,) if isinstance(text, str) else text)]
    filler = max(parts, key=len, default="") or "text"
    tokens = max(len(pipeline.tokenizer.tokenize([filler])[0]) - 2, 1)
    # words again and again; twice the need, since the tokens of a text cut by the limit say little about its length
    past_limit = " ".join([filler] * (2 * wanted // tokens + 1))[: wanted * 16]
    if pipeline.spec.kind is ModelKind.CROSS_ENCODER:
        return [*texts, ("a", "a"), ("a", ""), ("", ""), ("a", past_limit), (past_limit, past_limit)]
    return [*texts, "a", "", past_limit]
