"""Reading a model folder safely: paths that stay inside it, JSON that is what it claims to be.

Imports nothing but the standard library and :mod:`stopt.errors`; everything that opens a small file of a model
folder goes through here.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from stopt.errors import CorruptModel, SourceError, UntrustedModel

__all__ = [
    "MAX_TOKENIZER_BYTES",
    "contained",
    "parse_json",
    "parse_json_object",
    "parse_texts",
    "read_json",
    "read_json_object",
    "read_texts",
    "stream_texts",
]

# config.json with the names of 100,000 labels, or tokenizer_config.json with as many added tokens, have about 8 MB
MAX_JSON_BYTES = 20_000_000
# tokenizer.json of the largest multilingual vocabularies (256k entries) is about 35 MB
MAX_TOKENIZER_BYTES = 200_000_000
# objects and lists in a file: parsed, each takes 100 bytes or more, of two in the file
MAX_CONTAINERS = 2_000_000
# beyond these, file systems answer with an error of their own
MAX_PATH, MAX_NAME = 1_000, 250


def contained(root: Path, *parts: str) -> Path:
    """Return ``root`` joined with ``parts`` after making sure that it cannot leave ``root``.

    A snapshot in the Hugging Face cache is a folder of links into a ``blobs`` folder beside it; such links are
    followed, any other link that leaves the folder is not.

    Args:
        root: The model folder.
        parts: A path that the model's own files name, with ``/`` between folders, in one or several pieces; empty
            ones are left out, so that ``""`` is the root itself.

    Raises:
        UntrustedModel: If the path is absolute, has ``..`` in it, or is a link to somewhere else.
        CorruptModel: If it is longer than any file system allows.
    """
    relative = "/".join(part for part in parts if part)
    posix, windows = PurePosixPath(relative), PureWindowsPath(relative)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in relative:
        raise UntrustedModel(
            f"{root}: the path {relative!r} leaves the model folder",
            "a model may only name files inside its own folder; do not use this one unless you trust its source",
        )
    path = root / relative
    if len(relative) > MAX_PATH or max(map(len, posix.parts), default=0) > MAX_NAME:
        raise CorruptModel(f"{root}: the path {relative!r:.120} is too long to be one")
    real_root = os.path.realpath(root)
    homes = [real_root]
    if Path(real_root).parent.name == "snapshots":
        homes.append(str(Path(real_root).parent.parent / "blobs"))
    real = os.path.realpath(path)
    if not any(real == home or real.startswith(home + os.sep) for home in homes):
        raise UntrustedModel(
            f"{path} is a link to {real}, outside the model folder",
            "copy the file into the folder if it belongs to the model",
        )
    return path


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file strictly: no duplicate keys, no NaN, bounded size and depth.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        SourceError: If the file is missing or cannot be read.
        CorruptModel: If it is not JSON, or JSON that two readers would understand differently.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(
            status.st_mode
        ):  # a pipe would be waited for
            raise CorruptModel(f"{path} is not a regular file", "is this the folder of a model?")
        if status.st_size > most:
            raise CorruptModel(
                f"{path} has {status.st_size:,} bytes, too many for a JSON file of a model",
                f"the most that stopt reads are {most:,}",
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(
            f"{path} is missing", "is this the folder of a sentence-transformers model?"
        ) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, name: str) -> Any:
    """Parse JSON as :func:`read_json` does.

    Args:
        data: UTF-8 text.
        name: What to call it in messages.

    Raises:
        CorruptModel: If it is not JSON, or JSON that two readers would understand differently.
    """
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise CorruptModel(
            f"{name} has more than {MAX_CONTAINERS:,} lists and objects", "fetch the file again"
        )
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        # a lone surrogate is no text, and fails only where it is written or used as a path
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise CorruptModel(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}", "fetch the file again"
        ) from error
    except UnicodeEncodeError as error:
        raise CorruptModel(f"{name} has a lone surrogate in a text", "fetch the file again") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.300}"
        raise CorruptModel(f"{name} is not valid JSON: {reason}", "fetch the file again") from error
    return value


def read_json_object(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Like :func:`read_json`, for a file that must hold an object.

    Raises:
        CorruptModel: Also if the file holds something else than an object.
    """
    return _object(read_json(path, most), str(path))


def parse_json_object(text: str, name: str) -> dict[str, Any]:
    """Like :func:`read_json_object`, for text that is no file here; ``name`` is what errors call it.

    Raises:
        CorruptModel: If it is not JSON, or something else than an object.
    """
    return _object(parse_json(text.encode(errors="surrogatepass"), name), name)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorruptModel(f"{name} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_texts(file: Path, column: str = "text", *, jsonl: bool | None = None) -> list[str]:
    """Read all of :func:`stream_texts`."""
    return list(stream_texts(file, column, jsonl=jsonl))


def stream_texts(file: Path, column: str = "text", *, jsonl: bool | None = None) -> Iterator[str]:
    """Yield the texts of a file: one per line, or the member ``column`` of each line of JSONL.

    Args:
        file: The file, UTF-8. Only a line feed ends a line, as for ``wc -l`` and JSONL itself.
        column: Member of the JSON objects that has the text.
        jsonl: Whether it is JSONL; None goes by its name, ``.jsonl`` or ``.ndjson``.

    Raises:
        SourceError: If the file cannot be read, is not UTF-8, or a line has no such member; says which line.
    """
    jsonl = file.suffix in (".jsonl", ".ndjson") if jsonl is None else jsonl
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            yield from parse_texts(lines, jsonl=jsonl, column=column, name=str(file))
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}", "name a text file") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}", "convert it: iconv -t utf-8"
        ) from error


def parse_texts(lines: Iterable[str], *, jsonl: bool, column: str, name: str) -> Iterator[str]:
    """Yield the text of each line; see :func:`read_texts`."""
    for number, line in enumerate(lines, start=1):
        if not jsonl:
            yield line.rstrip("\r\n")
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise SourceError(
                f"line {number} of {name} is not JSON: {error}", "JSONL has one object per line"
            ) from error
        text = record.get(column) if isinstance(record, dict) else None
        if not isinstance(text, str):
            members = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise SourceError(
                f"line {number} of {name} has no text {column!r}; it has: {members or 'nothing'}",
                "name another member with --column, where the command has it",
            )
        yield text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.120} appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
