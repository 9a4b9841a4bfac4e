"""The files that a graph keeps its weights in, read out of the graph and never guessed from names."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from stopt.errors import CorruptModel

__all__ = ["data_files"]

# an entry of a tensor's external data in protocol buffers: key "location" (field 1), then its value (field 2)
_LOCATION = re.compile(rb"\x0a\x08location\x12")


def data_files(file: Path) -> list[str]:
    """List the data files of a graph, relative to its folder: of an .onnx file those that its tensors name.

    Tensors are wherever a graph can have them (initialisers, attributes, subgraphs, functions), so the entries are
    looked for in the bytes, not in a structure.

    Raises:
        CorruptModel: If a name is no text.
    """
    if file.suffix == ".xml":
        return [f"{file.stem}.bin"]
    if not file.stat().st_size:
        raise CorruptModel(f"{file} is empty", "convert it again")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = [_text(data, match.end(), file) for match in _LOCATION.finditer(data)]
    return list(dict.fromkeys(found))


def _text(data: mmap.mmap, position: int, file: Path) -> str:
    size = shift = 0
    while position < len(data):
        byte = data[position]
        size |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            break
    try:
        return data[position : position + size].decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptModel(f"{file} names a data file that is no text", "convert it again") from error
