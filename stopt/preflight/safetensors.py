"""A safetensors file before anything maps its weights: the header describes every byte of it, once.

The rules are those of the format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from stopt.errors import CorruptModel, UntrustedModel
from stopt.folder import contained, parse_json, read_json_object
from stopt.preflight.verdict import Verdict

__all__ = ["vet_safetensors", "vet_shards"]

MAX_HEADER_BYTES = 100_000_000  # the format's own limit; a model's has about 100 bytes per tensor

_BITS = {"BOOL": 8, "BF16": 16, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8}
_BITS |= {"F8_E8M0": 8} | {f"{kind}{bits}": bits for kind in "IUF" for bits in (8, 16, 32, 64)}
_KEYS = {"data_offsets", "dtype", "shape"}
_AGAIN = "fetch the file again"


def vet_safetensors(file: Path) -> Verdict:
    """Check a safetensors file; its weights are not read.

    Raises:
        CorruptModel: If it is none, a tensor is not all there, or bytes belong to two or to none.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise _corrupt(file, f"its {size:,} bytes begin with a header of {length:,}")
        header = parse_json(
            stream.read(length), f"{file} is not a safetensors file, or cut short: its header"
        )
    if not isinstance(header, dict):
        raise _corrupt(file, "its header is no object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _corrupt(file, "its metadata are not texts")
    expected = 0
    places = sorted((*_place(file, name, tensor), name) for name, tensor in header.items())
    for begin, end, name in places:
        if begin != expected:
            what = "with another" if begin < expected else "that belong to none before them"
            raise _corrupt(file, f"tensor {name!r:.100} shares bytes {what}")
        expected = end
    if expected != size - 8 - length:
        raise _corrupt(
            file, f"it has {size - 8 - length:,} bytes of weights, its header describes {expected:,}"
        )
    return Verdict(file)


def _place(file: Path, name: str, tensor: Any) -> tuple[int, int]:
    """First byte of a tensor and the byte after it."""
    try:
        (begin, end), shape, kind = tensor["data_offsets"], tensor["shape"], tensor["dtype"]
        whole = all(type(number) is int and 0 <= number < 1 << 63 for number in (begin, end, *shape))
        fits = whole and len(shape) <= 64 and prod(shape) * _BITS[kind] == 8 * (end - begin)
        if fits and tensor.keys() == _KEYS:
            return begin, end
    except (KeyError, TypeError, ValueError):
        pass
    raise _corrupt(file, f"tensor {name!r:.100} is {json.dumps(tensor)[:160]}")


def _corrupt(file: Path, why: str) -> CorruptModel:
    return CorruptModel(f"{file} is not a safetensors file, or cut short: {why}", _AGAIN)


def vet_shards(folder: Path, stem: str = "model") -> list[Path]:
    """Check the weights in a folder, in one file or in several that an index names; return the files.

    Args:
        folder: The folder.
        stem: Name of the weights without its ending.

    Raises:
        UntrustedModel: If the index names a file that is not one of the folder.
        CorruptModel: If one of them is missing, or is no safetensors file.
    """
    index = folder / f"{stem}.safetensors.index.json"
    names = {f"{stem}.safetensors"}
    if index.is_file() and not (folder / f"{stem}.safetensors").is_file():
        weights = read_json_object(index).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
            raise CorruptModel(f"{index} has no weight_map from tensors to files", _AGAIN)
        names = set(weights.values())
    files = []
    for name in sorted(names):
        file = contained(folder, name)
        if "/" in name or not name.endswith(".safetensors"):
            raise UntrustedModel(
                f"{index} has weights in {name!r:.120}, which is no safetensors file of its folder",
                "do not use this model unless you trust its source",
            )
        if not file.is_file():
            raise CorruptModel(f"{file} is missing, a part of the weights", "fetch the model again")
        vet_safetensors(file)
        files.append(file)
    return files
