"""A tokenizer's folder as transformers may be given it.

Its tokenizer_config.json can name files anywhere on the disk (``tokenizer_file``, ``vocab_file``, ``gguf_file``), and
transformers opens them. So it gets a folder with what a fast tokenizer needs, and without such keys.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stopt.folder import contained, read_json_object

__all__ = ["plain_tokenizer"]

_COPIED = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_CONFIGS = ("config.json", "tokenizer_config.json")
_DROPPED = {
    "auto_map",
    "chat_template",
    "fast_tokenizer_files",
    "from_slow",
    "name_or_path",
    "tokenizer_object",
}


@contextmanager
def plain_tokenizer(folder: Path) -> Iterator[Path]:
    """Give a folder with a copy of the tokenizer in ``folder`` that names no files; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stopt-tokenizer-") as name:
        copy = Path(name)
        for each in _COPIED:
            if (source := contained(folder, each)).is_file():
                shutil.copyfile(source, copy / each)
        for each in _CONFIGS:
            if (config := contained(folder, each)).is_file():
                kept = {
                    key: value
                    for key, value in read_json_object(config).items()
                    if key not in _DROPPED and not key.endswith("_file")
                }
                (copy / each).write_text(json.dumps(kept), encoding="utf-8")
        yield copy
