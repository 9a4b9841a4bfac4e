"""A tokenizer.json before it is parsed, and its parts before they see a text.

A vocabulary may have 35 MB, so the file is searched, not parsed: for regular expressions, which are compiled when it is
parsed. What else decides how long tokenising takes is looked at in the parts that the parser made of it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stopt.errors import CorruptModel, ResourceLimitError
from stopt.folder import MAX_TOKENIZER_BYTES
from stopt.preflight.patterns import is_common, why_unbounded
from stopt.preflight.verdict import Verdict

__all__ = ["vet_parts", "vet_tokenizer"]

MAX_WORD = 1_000  # characters of a word that WordPiece looks up; it says 100, and takes time by the square
MAX_GROWTH = 64  # characters that normalising may make of one: U+FDFA becomes 18
MAX_PIECE = 256  # bytes that a character becomes in a map of SentencePiece; 33 in that of T5
MAX_PARTS = 200

_REGEX = re.compile(rb'"Regex"\s*:\s*(?=")')
_WORD = re.compile(rb'"max_input_chars_per_word"\s*:\s*(\d{1,30})')
# a key may be written with escapes; nobody does, so none is looked for behind them
_ESCAPED_LETTER = re.compile(rb"\\u00(?!7[fF])[2-7][0-9a-fA-F]")
_HINT = "do not use this model unless you trust its source"
_AGAIN = "fetch the file again"


def vet_tokenizer(file: Path) -> Verdict:
    """Check a tokenizer.json.

    Raises:
        CorruptModel: If it is too large to be one, or hides what is in it.
        ResourceLimitError: If a regular expression in it can run for ever.
    """
    size = file.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise CorruptModel(f"{file} has {size:,} bytes, too many for a tokenizer", _AGAIN)
    data = file.read_bytes()
    for escaped in _ESCAPED_LETTER.finditer(data):
        if _is_escape(data, escaped.start()):
            raise CorruptModel(
                f"{file} has a plain letter as an escape, {escaped[0].decode()}", "save the tokenizer again"
            )
    doubts = []
    for pattern in _patterns(file, data):
        if is_common(pattern):
            continue
        if why := why_unbounded(pattern):
            raise ResourceLimitError(
                f"{file} has a regular expression that text can make run for ever: {why} ({pattern!r:.120})",
                _HINT,
            )
        doubts.append(f"it splits texts by the regular expression {pattern!r:.120}")
    for word in _WORD.findall(data):
        if int(word) > MAX_WORD:
            raise ResourceLimitError(f"{file} looks up words of {int(word):,} characters", _HINT)
    return Verdict(file, (), tuple(dict.fromkeys(doubts)))


def _is_escape(data: bytes, at: int) -> bool:
    """Whether a backslash is not itself escaped by the one before it."""
    before = data[max(0, at - 64) : at]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0


def _patterns(file: Path, data: bytes) -> Iterator[str]:
    decoder = json.JSONDecoder()
    for found in _REGEX.finditer(data):
        end = found.end() + 1
        while end < len(data) and data[end : end + 1] != b'"':
            end += 2 if data[end : end + 1] == b"\\" else 1
        try:
            yield decoder.decode(data[found.end() : end + 1].decode())
        except ValueError as error:
            raise CorruptModel(f"{file} has a regular expression that is no text", _AGAIN) from error


def vet_parts(file: Path, parts: Mapping[str, Any]) -> None:
    """Check what the parser made of a tokenizer's parts: no text may grow without bound in them.

    Args:
        file: The tokenizer's file, for messages.
        parts: The parts' own descriptions by name: ``normalizer``, ``pre_tokenizer``; None for one that is not there.

    Raises:
        ResourceLimitError: If a text could.
    """
    for name, part in parts.items():
        growth, steps = 1, 0
        for step in _steps(part):
            steps += 1
            growth *= _growth(step)
        if steps > MAX_PARTS or growth > MAX_GROWTH:
            raise ResourceLimitError(
                f"{file}: its {name.replace('_', '-')} has {steps} steps, which may make a text {growth:,} times as long",
                _HINT,
            )


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The parts of a sequence of sequences, in order."""
    if isinstance(part, list):
        for each in part:
            yield from _steps(each)
    elif isinstance(part, dict):
        yield part
        for key in ("normalizers", "pretokenizers"):
            yield from _steps(part.get(key))


def _growth(step: Mapping[str, Any]) -> int:
    """Characters that a step may make of one; prefixes count as if they came before every one."""
    if isinstance(step.get("precompiled_charsmap"), str):
        return _longest_piece(step["precompiled_charsmap"])
    if step.get("type") == "Replace":
        pattern = step.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        content = str(step.get("content", ""))
        return -(-len(content) // max(1, len(str(literal or "")))) or 1
    if step.get("type") == "Prepend":
        return max(1, len(str(step.get("prepend", ""))) // 8)
    return 1


def _longest_piece(encoded: str) -> int:
    """1, or more where SentencePiece's map makes more of a character than any real one does."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return MAX_GROWTH + 1
    pieces = data[4 + int.from_bytes(data[:4], "little") :].split(b"\0")
    return 1 if max(map(len, pieces)) <= MAX_PIECE else MAX_GROWTH + 1
