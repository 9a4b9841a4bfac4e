"""Text to token ids with the ``tokenizers`` library alone, exactly as transformers would.

Shapes: B texts, T tokens of the longest of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer, normalizers, pre_tokenizers, processors

from stopt.errors import CorruptModel, InputError
from stopt.folder import contained
from stopt.spec import TokenizerSpec

__all__ = ["Batch", "Ints", "Text", "TextTokenizer", "Tokens", "lower_case"]

Ints = npt.NDArray[np.int64]
Text = str | tuple[str, str]

# A text is cut to this many characters per token that is kept before it is tokenised, and to more only where that
# gave too few tokens; 32 is far beyond the 4 to 5 characters a token has in practice.
CHARACTERS_PER_TOKEN = 32
SHORT_TEXT = 65_536  # characters under which cutting is not worth a thought


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
        try:
            tokenizer = Tokenizer.from_file(str(self.file))
        except Exception as error:  # the library raises bare Exception
            raise CorruptModel(f"{self.file} is not a tokenizer: {error}", "fetch the file again") from error
        _apply_overrides(tokenizer, spec)
        tokenizer.no_padding()  # batches are padded here, to lengths of our choice
        tokenizer.no_truncation()
        if spec.max_seq_length is not None:
            tokenizer.enable_truncation(
                spec.max_seq_length, strategy="longest_first", direction=spec.truncation_side
            )
        self._tokenizer = tokenizer
        self.pad_id = self._pad_id(spec.pad_token)
        marked = (token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
        named = (tokenizer.token_to_id(token) for token in spec.special_tokens.union(marked))
        self.special_ids = frozenset(number for number in named if number is not None)

    def _pad_id(self, token: str | None) -> int:
        if token is None:
            return 0  # only batches of one length are possible; the mask hides what stands there anyway
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise CorruptModel(f"{self.file} has no token {token!r}, which its configuration pads with")
        return number

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokenise texts and pairs of texts, special tokens included, each cut to ``max_seq_length``.

        Args:
            texts: Texts, or (first, second) pairs, which share the limit and are cut longest first.

        Raises:
            InputError: If a text has a lone surrogate, which no UTF-8 reader can represent.
        """
        encodings = self._encode(texts)
        if self.spec.token_types:
            return [Tokens(np.array(e.ids, np.int64), np.array(e.type_ids, np.int64)) for e in encodings]
        return [Tokens(np.array(e.ids, np.int64), np.zeros(len(e.ids), np.int64)) for e in encodings]

    def count_prompt(self, prompt: str) -> int:
        """Return how many leading tokens belong to ``prompt``: its own, without a special token at its end."""
        ids = self._encode([prompt])[0].ids
        return len(ids) - 1 if ids and ids[-1] in self.special_ids else len(ids)

    def pad(self, rows: Sequence[Tokens], prompt_length: int = 0, length: int | None = None) -> Batch:
        """Put tokenised texts into one rectangle.

        Args:
            rows: At least one text.
            prompt_length: Passed on to the batch.
            length: Length T to pad to; the longest text's if None.
        """
        longest = max(len(row) for row in rows)
        shape = (len(rows), max(longest, length or 0))
        ids = np.full(shape, self.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.full(shape, self.spec.pad_type_id if self.spec.token_types else 0, np.int64)
        left = self.spec.padding_side == "left"
        for index, row in enumerate(rows):
            place = slice(shape[1] - len(row), None) if left else slice(len(row))
            ids[index, place] = row.ids
            mask[index, place] = 1
            types[index, place] = row.type_ids
        return Batch(ids, mask, types, prompt_length)

    def _encode(self, texts: Sequence[Text]) -> list[Encoding]:
        limit = self.spec.max_seq_length
        try:
            if limit is not None and self.spec.truncation_side == "right":
                texts = [self._shorten(text, limit) if _size(text) > SHORT_TEXT else text for text in texts]
            encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts)
        except (TypeError, UnicodeError):
            for index, text in enumerate(texts):
                _check_unicode(index, text)
            raise
        return encodings

    def _shorten(self, text: Text, limit: int) -> Text:
        """Cut off what truncation would throw away anyway, so that 10 MB cost no more than a page."""
        if isinstance(text, tuple):
            first, second = text
            return self._shorten_one(first, limit), self._shorten_one(second, limit)
        return self._shorten_one(text, limit)

    def _shorten_one(self, text: str, limit: int) -> str:
        size = max(SHORT_TEXT // 2, limit * CHARACTERS_PER_TOKEN)
        while size < len(text):
            # end at a space if one is near; where none is, twice the tokens needed keep half a word out of the result
            end = text.rfind(" ", size - 256, size)
            head = text[: end if end > 0 else size]
            if self._untruncated_length(head) >= 2 * limit:
                return head
            size *= 4
        return text

    def _untruncated_length(self, text: str) -> int:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return len(encoding.ids) + sum(len(rest.ids) for rest in encoding.overflowing)


def _apply_overrides(tokenizer: Tokenizer, spec: TokenizerSpec) -> None:
    """Change the tokenizer as the constructors of transformers' classes do, then lower-case as sentence-transformers does."""
    overrides = spec.overrides
    if (settings := overrides.get("normalizer")) and isinstance(
        tokenizer.normalizer, normalizers.BertNormalizer
    ):
        state = {**_state(tokenizer.normalizer), **settings}  # type: ignore[dict-item]
        state.pop("type")
        tokenizer.normalizer = normalizers.BertNormalizer(**state)
    prefix = overrides.get("add_prefix_space")
    if prefix is not None and tokenizer.pre_tokenizer is not None:
        state = _state(tokenizer.pre_tokenizer)
        if state.get("add_prefix_space", prefix) != prefix:
            tokenizer.pre_tokenizer = getattr(pre_tokenizers, state.pop("type"))(
                **{**state, "add_prefix_space": prefix}
            )
    if tokens := overrides.get("bos_eos"):
        tokenizer.post_processor = _bos_eos_template(tokenizer, *tokens)  # type: ignore[misc]
    if spec.lower_case:
        lower_case(tokenizer)


def lower_case(tokenizer: Tokenizer) -> None:
    """Put lower-casing first in the normaliser, unless it is there already."""
    normalizer = tokenizer.normalizer
    rest = (
        list(normalizer)
        if isinstance(normalizer, normalizers.Sequence)
        else [normalizer]
        if normalizer
        else []
    )
    if not any(isinstance(part, normalizers.Lowercase) for part in rest):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def _bos_eos_template(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> Any:
    around = [f"{bos}:{{}} " if bos else "", f" {eos}:{{}}" if eos else ""]
    single = f"{around[0]}$A:{{}}{around[1]}".replace("{}", "0")
    second = f"{around[0]}$B:{{}}{around[1]}".replace("{}", "1")
    specials = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token]
    return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=specials)


def _state(component: Any) -> dict[str, Any]:
    """The constructor arguments of a part of a tokenizer, and its class name under ``type``."""
    state: dict[str, Any] = json.loads(component.__getstate__())
    return state


def _size(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_unicode(index: int, text: Text) -> None:
    for part in (text,) if isinstance(text, str) else text:
        if found := _SURROGATE.search(part):
            raise InputError(
                f"text {index} has a lone surrogate, U+{ord(found[0]):04X} at character {found.start()}: not valid Unicode",
                "decode the input properly, or replace it: text.encode('utf-8', 'replace').decode()",
                index=index,
            )
