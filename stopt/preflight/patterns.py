r"""Regular expressions of tokenizers: whether text can make one run for ever.

Tokenizers backtrack. ``(a+)+`` takes twice the time for every letter more of ``aaaaaaaaaaaaaaaa!``, so a repeated group
may hold nothing that can match in two ways. What is left can still be slow on texts made for it; patterns other than those
of the models that everybody uses are tried in a process with limits.
"""

from __future__ import annotations

import re

__all__ = ["is_common", "why_unbounded"]

MAX_LENGTH = 2_000  # characters; the longest in use have 300
MAX_COUNT = 100  # of {n,m}; those in use say 3
MAX_GROUPS = 20  # one inside of another

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_AFTER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
# of GPT-2, Llama 3, Qwen 2, GPT-4o and gpt-oss, CLIP, DeepSeek, Falcon, and the spaces of SentencePiece models
_COMMON = frozenset(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        _ENGLISH + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _ENDS,
        _ENGLISH + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _ENDS,
        rf"{_CASED}*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_AFTER}{_CASED}+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_AFTER}"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}",
        r"\p{N}+",
        r"\p{N}{1,3}",
        r"[0-9]",
        r"[0-9][0-9][0-9]",
        r"\s+",
        r"\s+$",
        r" {2,}",
    }
)


def is_common(pattern: str) -> bool:
    """Whether it is one that models in wide use have."""
    return pattern in _COMMON


def why_unbounded(pattern: str) -> str | None:
    """Say why a regular expression can take time that doubles with each character; None if it cannot.

    Reads Oniguruma's syntax as far as tokenizers use it; what it does not know is a reason too.
    """
    if len(pattern) > MAX_LENGTH:
        return f"it has {len(pattern):,} characters"
    try:
        _Parser(pattern).parse()
    except _Refused as reason:
        return str(reason)
    return None


class _Refused(Exception):
    """Why a pattern is not bounded."""


# backreferences, calls of groups, and conditions
_UNKNOWN = re.compile(r"\\[1-9gk]|\(\?(?:[^:=!<>imsx(-]|<[^=!]|\()")
_GROUP = re.compile(r"\((?:\?(?:<?[=!]|>|[imsx-]*:|[imsx-]+(?=\))))?")
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x\{[0-9a-fA-F]+\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)


class _Parser:
    """One pass through a pattern; a group is described by whether it can match one text in several ways."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> None:
        self._alternatives(0)
        if self._at < len(self._pattern):
            raise _Refused("its brackets do not match")

    def _alternatives(self, depth: int) -> bool:
        """Read up to the end of a group; returns whether what is in it has a choice."""
        if depth > MAX_GROUPS:
            raise _Refused(f"its groups are nested more than {MAX_GROUPS} deep")
        choice = False
        while self._at < len(self._pattern):
            match self._pattern[self._at]:
                case ")":
                    break
                case "|":
                    self._at += 1
                    choice = True
                case _:
                    choice |= self._repeated(self._atom(depth))
        return choice

    def _atom(self, depth: int) -> bool:
        """Read one thing that may be repeated; returns whether it has a choice."""
        if unknown := _UNKNOWN.match(self._pattern, self._at):
            raise _Refused(f"it has {unknown[0]!r}, which stopt does not follow")
        letter = self._pattern[self._at]
        if letter == "(":
            found = _GROUP.match(self._pattern, self._at)
            assert found is not None
            self._at = found.end()
            choice = self._alternatives(depth + 1)
            if self._at >= len(self._pattern):
                raise _Refused("its brackets do not match")
            self._at += 1
            return choice
        if letter == "[":
            self._class()
        elif escape := _ESCAPE.match(self._pattern, self._at):
            self._at = escape.end()
        elif letter in "*+?":
            raise _Refused("it repeats nothing")
        else:
            self._at += 1
        return False

    def _class(self) -> None:
        """Skip a class of characters, with those inside of it."""
        depth, start = 0, self._at
        while self._at < len(self._pattern):
            if escape := _ESCAPE.match(self._pattern, self._at):
                self._at = escape.end()
                continue
            letter = self._pattern[self._at]
            self._at += 1
            depth += (letter == "[") - (letter == "]" and self._at - start > 2)
            if depth == 0:
                return
        raise _Refused("its brackets do not match")

    def _repeated(self, choice: bool) -> bool:
        """Read how often the last thing is repeated; returns whether there is a choice in that, or in the thing."""
        many = False
        while self._at < len(self._pattern):
            letter = self._pattern[self._at]
            count = _COUNT.match(self._pattern, self._at)
            if letter in "*+":
                many, varies, end = True, True, self._at + 1
            elif letter == "?":
                varies, end = True, self._at + 1
            elif count and (count[1] or count[3]):
                low, high = int(count[1] or 0), int(count[3] or count[1] or 0)
                if max(low, high) > MAX_COUNT:
                    raise _Refused(f"it repeats something {max(low, high):,} times")
                open_ended = bool(count[2]) and not count[3]
                many, varies, end = many or open_ended or high > 3, open_ended or low != high, count.end()
            else:
                return choice
            if many and choice:
                raise _Refused("it repeats a group that can match one text in several ways")
            choice |= varies
            self._at = end
            # lazy or possessive, which says in which order to try, not how often
            if self._pattern[end : end + 1] in {"?", *("+" if letter in "*+?" else "")}:
                self._at += 1
        return choice
