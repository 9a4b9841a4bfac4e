"""Tables that stand in a transformer's place: what their safetensors header says, and how their text is tokenised.

The header alone is read; the values stay on the disk until a session wants them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from stopt.errors import CorruptModel, SourceError
from stopt.folder import MAX_TOKENIZER_BYTES, read_json_object
from stopt.preflight import vet_safetensors
from stopt.reading.files import Reading
from stopt.reading.tokenizer import read_tokenizer
from stopt.spec import SparseStaticEmbedding, StaticEmbedding, TokenizerSpec

__all__ = [
    "TABLE_FILE",
    "TensorHeader",
    "read_header",
    "read_sparse_static_embedding",
    "read_sparse_static_tokenizer",
    "read_static_embedding",
    "read_static_tokenizer",
]

TABLE_FILE = "model.safetensors"

# sentence-transformers' name of the table, and model2vec's
_TABLES = ("embedding.weight", "embeddings")
# what model2vec may put beside it; sentence-transformers would leave them out and give other vectors
_MODEL2VEC_EXTRAS = {
    "mapping": "tokens that share rows (model2vec's vocabulary quantisation)",
    "weights": "a weight per token beside the table (model2vec)",
}
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # and their bytes
_MAX_HEADER = 10_000_000  # bytes; a header of a table has a few hundred


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor of a safetensors file.

    Attributes:
        dtype: safetensors' name of it, such as ``"F32"``.
        shape: Its shape.
        offset: First byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_header(reading: Reading, path: str) -> dict[str, TensorHeader]:
    """Read the header of a table's safetensors file.

    Args:
        reading: The model folder.
        path: Folder of the table in it.

    Returns:
        The tensors by name; empty, with a reason noted, if there is only a pickle.

    Raises:
        SourceError: If there are no weights.
        CorruptModel: If the file is cut short or is no safetensors file.
    """
    file = reading.file(path, TABLE_FILE)
    if not file.is_file():
        if file.with_name("pytorch_model.bin").is_file():
            reading.reasons.append(
                f"{path or 'it'} has its weights only as a pickle (pytorch_model.bin), which can run code when opened; "
                "a current sentence-transformers saves them as safetensors"
            )
            return {}
        raise SourceError(f"{file} is missing", "fetch the model again, weights included")
    vet_safetensors(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, _MAX_HEADER):
            raise CorruptModel(f"{file} is not a safetensors file, or cut short", "fetch the file again")
        text = stream.read(length)
    try:
        header = json.loads(text)
        return {
            name: _tensor(value, first=8 + length, size=size)
            for name, value in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptModel(
            f"{file} is not a safetensors file, or cut short: {error}", "fetch the file again"
        ) from error


def _tensor(value: Mapping[str, Any], *, first: int, size: int) -> TensorHeader:
    begin, end = value["data_offsets"]
    dtype, shape = str(value["dtype"]), tuple(value["shape"])
    whole = all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape))
    bytes_of_each = _FLOATS.get(dtype)
    if (
        not whole
        or first + max(begin, end) > size
        or prod(shape) * (bytes_of_each or 0) not in (0, end - begin)
    ):
        raise ValueError(f"a tensor of shape {value['shape']!s:.60} is not all there")
    return TensorHeader(dtype, shape, first + begin)


def read_static_embedding(reading: Reading, path: str) -> StaticEmbedding | None:
    """Describe a table of token embeddings; None, with a reason noted, if it cannot be read.

    Raises:
        CorruptModel: If the file has no such table.
    """
    header = read_header(reading, path)
    if not header:
        return None
    name = next((name for name in _TABLES if name in header), None)
    if name is None or len(header[name].shape) != 2 or 0 in header[name].shape:
        raise CorruptModel(
            f"{reading.file(path, TABLE_FILE)} has no table {' or '.join(_TABLES)}; it has {', '.join(sorted(header))}",
            "is it the file of another kind of model?",
        )
    table = header[name]
    found = [what for extra, what in _MODEL2VEC_EXTRAS.items() if extra in header]
    if table.dtype not in _FLOATS:
        found.append(f"a table of {table.dtype} values, which sentence-transformers cannot average either")
    reading.reasons.extend(found)
    return StaticEmbedding(path, name, *table.shape)


def read_static_tokenizer(reading: Reading, path: str) -> TokenizerSpec:
    """Describe the tokenizer of a :class:`StaticEmbedding`: tokenizer.json as it is, without special tokens.

    A text has no limit but the one that tokenizer.json itself may have.
    """
    file = reading.file(path, "tokenizer.json")
    if not file.is_file():
        raise SourceError(f"{file} is missing", "fetch the model again")
    truncation = read_json_object(file, MAX_TOKENIZER_BYTES).get("truncation") or {}
    if not isinstance(truncation, dict):
        raise CorruptModel(f"{file}: 'truncation' is {truncation!r:.80}, expected an object")
    if truncation.get("strategy") == "OnlySecond":
        reading.reasons.append("tokenizer.json cuts the second text of a pair only")
    return TokenizerSpec(
        path,
        reading.positive(truncation, "max_length") if truncation else None,
        truncation_side="left" if truncation.get("direction") == "Left" else "right",
        token_types=False,
        add_special_tokens=False,
    )


def read_sparse_static_embedding(reading: Reading, path: str) -> SparseStaticEmbedding | None:
    """Describe a weight per token; None, with a reason noted, if it cannot be read.

    Raises:
        CorruptModel: If the file has no such weights.
    """
    if reading.optional(path, "config.json").get("path") is not None:
        reading.reasons.append(
            f"{path or 'it'} has its weights in a JSON file elsewhere ('path' in its config.json); "
            "a current sentence-transformers saves them as safetensors"
        )
        return None
    header = read_header(reading, path)
    if not header:
        return None
    weight = header.get("weight")
    if weight is None or len(weight.shape) != 1 or 0 in weight.shape or weight.dtype not in _FLOATS:
        what = f"is {weight.dtype} {weight.shape}" if weight else "is missing"
        raise CorruptModel(
            f"{reading.file(path, TABLE_FILE)}: tensor weight {what}, expected one float per token",
            "is it the file of another kind of model?",
        )
    return SparseStaticEmbedding(path, weight.shape[0])


def read_sparse_static_tokenizer(reading: Reading, path: str) -> TokenizerSpec:
    """Describe the tokenizer of a :class:`SparseStaticEmbedding`: a transformers one, without special tokens."""
    own = read_tokenizer(reading, path, {}, {}, lower_case=False, position_limit=None)
    return replace(own, token_types=False, add_special_tokens=False)
