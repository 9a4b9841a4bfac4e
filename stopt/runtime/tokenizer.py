"""Text to token ids with the ``tokenizers`` library alone, exactly as transformers would.

Shapes: B texts, T tokens of the longest of them.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from stopt.errors import CorruptModel, InputError
from stopt.folder import contained
from stopt.preflight import vet_parts, vet_tokenizer
from stopt.runtime.overrides import apply_overrides, state_of
from stopt.runtime.trial import admit
from stopt.spec import TokenizerSpec

__all__ = ["Batch", "Ints", "Text", "TextTokenizer", "Tokens"]

logger = logging.getLogger("stopt")

Ints = npt.NDArray[np.int64]
Text = str | tuple[str, str]

# A text is cut to this many characters per token that is kept before it is tokenised, and to more only where that
# gave too few tokens; 32 is far beyond the 4 to 5 characters a token has in practice.
FIRST_CHARACTERS_PER_TOKEN = 32
# What comes after the larger of the two is cut off, however few tokens there are so far: with a warning, for then the
# result may be another. 2 M characters take a second and up to 300 MB, ten times as many ten times that.
MOST_CHARACTERS = 2_097_152
MOST_CHARACTERS_PER_TOKEN = 1024
# Tokens at a cut that are not looked at, for half a word has others than the whole: WordPiece's words have at most 100,
# or are one unknown token.
TOKENS_AT_CUT = 256
_PROBES = ("a", "1", ".", "的", "the")  # texts that have tokens in any vocabulary, one or another
MAX_SPECIAL_TOKENS = 256  # around a text or two; 3 or 4 are common
LONG_TEXT = 65_536  # characters over which cutting is worth a thought


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised text: ``ids`` and ``type_ids``, both (T,) int64."""

    ids: Ints
    type_ids: Ints

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokenised texts of one padded length: what a session runs.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64, 1 for real tokens.
        token_type_ids: (B, T) int64.
        prompt_length: Leading tokens of every text that belong to the prompt; 0 without one.
    """

    input_ids: Ints
    attention_mask: Ints
    token_type_ids: Ints
    prompt_length: int = 0

    @property
    def position_ids(self) -> Ints:
        """(B, T) int64: real tokens count up from 0 whichever side is padded, as models with computed positions expect."""
        return np.maximum(np.cumsum(self.attention_mask, axis=1) - 1, 0)


@dataclass(frozen=True, slots=True)
class _Template:
    """Where the special tokens go around one text, or around two.

    Learned from the tokenizer's own post-processor once, so that texts can be cut here: the library keeps every piece it
    cuts off, and for pairs combines each with each, which for two long texts takes gigabytes.

    Attributes:
        specials: The special tokens before, between and after the texts: one run more than there are texts.
        type_ids: Token type of each text.
    """

    specials: tuple[Tokens, ...]
    type_ids: tuple[int, ...]

    @classmethod
    def bare(cls, texts: int) -> _Template:
        """Return a template without special tokens."""
        nothing = Tokens(np.empty(0, np.int64), np.empty(0, np.int64))
        return cls((nothing,) * (texts + 1), (0,) * texts)

    @classmethod
    def learn(cls, tokenizer: Tokenizer, probes: tuple[str, ...]) -> _Template | None:
        """Look at what the post-processor does to texts with tokens; None if they have none."""
        encoding = tokenizer.encode(*probes)
        ids, types, owners = encoding.ids, encoding.type_ids, encoding.sequence_ids
        if not set(range(len(probes))) <= set(owners):
            return None
        starts = [owners.index(text) for text in range(len(probes))]
        ends = [len(owners) - owners[::-1].index(text) for text in range(len(probes))]
        gaps = zip([0, *ends], [*starts, len(owners)], strict=True)
        specials = tuple(
            Tokens(np.array(ids[i:j], np.int64), np.array(types[i:j], np.int64)) for i, j in gaps
        )
        return cls(specials, tuple(types[start] for start in starts))

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.specials))

    def assemble(self, texts: Sequence[Sequence[int]]) -> Tokens:
        """Put the special tokens around the token ids of one text, or of two."""
        size = self.size + sum(map(len, texts))
        ids, types = np.empty(size, np.int64), np.empty(size, np.int64)
        end = len(self.specials[0])
        ids[:end], types[:end] = self.specials[0].ids, self.specials[0].type_ids
        for text, type_id, special in zip(texts, self.type_ids, self.specials[1:], strict=True):
            start, end = end, end + len(text)
            ids[start:end], types[start:end] = text, type_id
            start, end = end, end + len(special)
            ids[start:end], types[start:end] = special.ids, special.type_ids
        return Tokens(ids, types)


class TextTokenizer:
    """Tokenizer of one model; immutable, so safe to share between threads.

    Args:
        root: The model folder.
        spec: What surrounds tokenizer.json.

    Raises:
        CorruptModel: If tokenizer.json is not one, or lacks the padding token.
    """

    def __init__(self, root: Path, spec: TokenizerSpec) -> None:
        self.spec = spec
        self.file = contained(root, spec.path, "tokenizer.json")
        if not self.file.is_file():
            raise CorruptModel(f"{self.file} is missing", "fetch the model again")
        admit(vet_tokenizer(self.file), "tokenizer")
        try:
            tokenizer = Tokenizer.from_file(str(self.file))
        except BaseException as error:  # the library raises bare Exception, and panics are not even that
            if not _is_of_library(error):
                raise
            raise CorruptModel(
                f"{self.file} is not a tokenizer: {error!s:.500}", "fetch the file again"
            ) from error
        parts = {"normalizer": tokenizer.normalizer, "pre_tokenizer": tokenizer.pre_tokenizer}
        vet_parts(self.file, {name: part and state_of(part) for name, part in parts.items()})
        apply_overrides(tokenizer, spec)
        tokenizer.no_padding()  # batches are padded here, to lengths of our choice
        tokenizer.no_truncation()  # and cut here
        self._tokenizer = tokenizer
        self._single, self._pair = self._template(1), self._template(2)
        self.pad_id = self._pad_id(spec.pad_token)
        marked = (token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
        named = (tokenizer.token_to_id(token) for token in spec.special_tokens.union(marked))
        self.special_ids = frozenset(number for number in named if number is not None)

    def _template(self, texts: int) -> _Template:
        if not self.spec.add_special_tokens:
            return _Template.bare(texts)
        for probe in _PROBES:
            template = _Template.learn(self._tokenizer, (probe,) * texts)
            if template and template.size > MAX_SPECIAL_TOKENS:
                raise CorruptModel(
                    f"{self.file} puts {template.size} special tokens around a text", "fetch the file again"
                )
            if template:
                return template
        raise CorruptModel(f"{self.file} makes no tokens of {', '.join(_PROBES)}", "fetch the file again")

    def _pad_id(self, token: str | None) -> int:
        if token is None:
            return 0  # only batches of one length are possible; the mask hides what stands there anyway
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise CorruptModel(f"{self.file} has no token {token!r}, which its configuration pads with")
        return number

    def with_max_seq_length(self, length: int | None) -> TextTokenizer:
        """Return the same tokenizer with another limit; the vocabulary is shared."""
        other = copy(self)
        other.spec = replace(self.spec, max_seq_length=length)
        return other

    def tokenize(self, texts: Sequence[Text], positions: Sequence[int] | None = None) -> list[Tokens]:
        """Tokenise texts and pairs of texts, special tokens included where the model has them, each cut to ``max_seq_length``.

        Args:
            texts: Texts, or (first, second) pairs, which share the limit and are cut longest first.
            positions: Where they stand in the caller's list, for messages; None is 0, 1, 2 …

        Raises:
            InputError: If a text has a lone surrogate, which no UTF-8 reader can represent.
        """
        parts = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
        numbered = zip(range(len(texts)) if positions is None else positions, texts, strict=True)
        owners = [int(index) for index, text in numbered for _ in range(1 if isinstance(text, str) else 2)]
        tokens = iter(self._ids(parts, owners))
        rows = []
        for text in texts:
            if isinstance(text, str):
                rows.append(self._single.assemble([self._cut(next(tokens), self._room(self._single))]))
            else:
                first, second = next(tokens), next(tokens)
                sizes = _longest_first(len(first), len(second), self._room(self._pair))
                rows.append(self._pair.assemble([self._cut(first, sizes[0]), self._cut(second, sizes[1])]))
        if self.spec.token_types:
            return rows
        return [Tokens(row.ids, np.zeros_like(row.ids)) for row in rows]

    def count_prompt(self, prompt: str) -> int:
        """Return how many leading tokens belong to ``prompt``: its own, without a special token at its end."""
        ids = self.tokenize([prompt])[0].ids
        return len(ids) - 1 if len(ids) and int(ids[-1]) in self.special_ids else len(ids)

    def token(self, number: int) -> str | None:
        """Return the token with an id; None where the vocabulary has none."""
        token: str | None = self._tokenizer.id_to_token(number)
        return token

    def pad(self, rows: Sequence[Tokens], prompt_length: int = 0, length: int | None = None) -> Batch:
        """Put tokenised texts into one rectangle.

        Args:
            rows: At least one text.
            prompt_length: Passed on to the batch.
            length: Length T to pad to; the longest text's if None. At least 1, since engines refuse empty arrays.
        """
        shape = (len(rows), max(1, length or 0, *map(len, rows)))
        ids = np.full(shape, self.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.full(shape, self.spec.pad_type_id if self.spec.token_types else 0, np.int64)
        left = self.spec.padding_side == "left"
        for index, row in enumerate(rows):
            place = slice(shape[1] - len(row), None) if left else slice(len(row))
            ids[index, place] = row.ids
            mask[index, place] = 1
            types[index, place] = row.type_ids
        known = self.spec.vocabulary
        if (
            known is not None and ids.max() >= known
        ):  # some engines would silently read past the end of the table
            raise CorruptModel(
                f"{self.file} makes a token {ids.max()} of a text, and config.json says that there are {known}",
                "its files come from different models",
            )
        return Batch(ids, mask, types, prompt_length)

    def _room(self, template: _Template) -> int | None:
        """Tokens that a text may have beside the special ones; None is no limit."""
        return None if self.spec.max_seq_length is None else max(0, self.spec.max_seq_length - template.size)

    def _cut(self, ids: Sequence[int], room: int | None) -> Sequence[int]:
        if room is None or len(ids) <= room:
            return ids
        return ids[len(ids) - room :] if self._cuts_left else ids[:room]

    def _ids(self, texts: Sequence[str], owners: Sequence[int]) -> list[list[int]]:
        """Token ids of texts, without special tokens; those of very long ones as far as they are needed.

        Args:
            texts: Texts.
            owners: For each, the position in the call of the input that it belongs to.
        """
        limit = sys.maxsize if self.spec.max_seq_length is None else self.spec.max_seq_length
        long = [row for row, text in enumerate(texts) if len(text) > LONG_TEXT]
        parts = list(texts)
        try:
            for row in long:
                parts[row] = self._shorten(texts[row], limit)
            encodings = self._tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        except BaseException as error:
            if isinstance(error, TypeError | UnicodeError):
                for owner, text in zip(owners, parts, strict=True):
                    _check_unicode(owner, text)
            if not _is_of_library(error):
                raise
            raise CorruptModel(
                f"{self.file} cannot tokenise a text: {error!s:.500}", "fetch the file again"
            ) from error
        found = [encoding.ids for encoding in encodings]
        for row in long:
            size, kept, count = len(texts[row]), len(parts[row]), len(found[row])
            if kept < size and count < _enough(limit):
                logger.warning(
                    "text %d has %d characters, and the %s %d of them make only %d tokens; the others are left out",
                    *(owners[row], size, "last" if self._cuts_left else "first", kept, count),
                )
        return found

    @property
    def _cuts_left(self) -> bool:
        return self.spec.truncation_side == "left"

    def _shorten(self, text: str, limit: int) -> str:
        """Cut off what will be cut off as tokens anyway, so that 10 MB cost no more than a page.

        Text of which many characters make few tokens, such as spaces or one unknown word, is looked at further and
        further until it has enough of them, up to a size.
        """
        most = max(MOST_CHARACTERS, limit * MOST_CHARACTERS_PER_TOKEN)
        size = max(LONG_TEXT // 2, limit * FIRST_CHARACTERS_PER_TOKEN)
        while size < min(len(text), most):
            part = self._part(text, size)
            if len(self._tokenizer.encode(part, add_special_tokens=False).ids) >= _enough(limit):
                return part
            size *= 4
        return self._part(text, most)

    def _part(self, text: str, size: int) -> str:
        """At most ``size`` characters of the end of a text that is kept."""
        return text[-size:] if self._cuts_left else text[:size]


def _enough(limit: int) -> int:
    """Tokens of a part of a text of which the first ``limit`` are those of the whole."""
    return limit + max(limit, TOKENS_AT_CUT)


def _is_of_library(error: BaseException) -> bool:
    """Whether an error is one of tokenizers', a panic of Rust among them."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _longest_first(first: int, second: int, room: int | None) -> tuple[int, int]:
    """Tokens that each of a pair keeps: the longer is cut until both fit, then both alike.

    Which of the two gets an odd token is what ``tokenizers`` does.
    """
    if room is None or first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = room - short
    return (long, short) if first > second else (short, long)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_unicode(index: int, text: str) -> None:
    if found := _SURROGATE.search(text):
        raise InputError(
            f"text {index} has a lone surrogate, U+{ord(found[0]):04X} at character {found.start()}: not valid Unicode",
            "decode the input properly, or replace it: text.encode('utf-8', 'replace').decode()",
            index=index,
        )
