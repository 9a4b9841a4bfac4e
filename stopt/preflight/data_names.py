"""The names of the files that an .onnx file has its weights in, before these files are there to be checked."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

__all__ = ["data_names"]

# an entry of a tensor's external data in protocol buffers: key "location" (field 1), then its value (field 2)
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f])|\x0a\x08location\x12([\x80-\xff][\x00-\x7f])")


def data_names(file: Path) -> list[str]:
    """List the data files of an .onnx file as it names them; they are what is to be fetched, and nothing is said of them.

    Tensors are wherever a graph can have them, so their entries are looked for in the bytes, not in a structure; names
    are never guessed, as every exporter has its own.
    """
    if not file.stat().st_size:
        return []
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = []
        for match in _LOCATION.finditer(data):
            digits = match[1] or match[2]
            size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(digits))
            found.append(data[match.end() : match.end() + size].decode("utf-8", errors="replace"))
    return list(dict.fromkeys(found))
