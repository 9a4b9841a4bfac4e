"""What an encoding job is: its options, and what decides its bytes.

Frozen data. Two runs with the same :meth:`EncodeJob.identity` write the same rows in the same shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stopt.embeddings.call import CallRanges
from stopt.errors import OptionError
from stopt.scale.sources import STDIN, Columns, InputFile

__all__ = ["CHUNK", "SHARD", "EncodeJob", "Engine", "Format", "ModelOptions", "OnError", "versions"]

# rows that are encoded in one call: enough to sort by length, few enough that memory is none to speak of
CHUNK = 2048
# rows of a shard, which is what a killed job loses at most: 25 MB of 384-dimensional embeddings
SHARD = 8 * CHUNK


class OnError(StrEnum):
    """What becomes of a row that cannot be encoded."""

    STOP = "stop"
    REJECT = "reject"


class Format(StrEnum):
    """How results are written."""

    PARQUET = "parquet"
    NPY = "npy"
    NPZ = "npz"
    JSONL = "jsonl"

    @property
    def ending(self) -> str:
        """How its files' names end."""
        return f".{self.value}"


class Engine(StrEnum):
    """Who runs a job."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The model and how it encodes: all that a process needs to know that is to make vectors.

    Attributes:
        model: Model folder or Hub id.
        backend: Engine; None picks one whose plain file is there.
        file_name: File in the model folder.
        device: ``cpu``, ``cuda`` …, or several with commas; None leaves it to the engine.
        dtype: Precision of the arithmetic.
        threads: Threads of the CPU, of all processes together; None is all that this one may use. In Ray of each
            actor; None is 1.
        batch_size: Texts that are run together, at most.
        max_batch_tokens: Tokens that are run together, at most.
        prompt_name: Name of the prompt to put before each text.
        prompt: The prompt itself.
        role: ``query`` or ``document``, for models that treat them differently.
        precision: How embeddings are stored.
        ranges: Of a dense model: ranges for int8 and uint8; None is those in the model folder; ``"call"`` those of all
            texts, which are then held in memory.
        truncate_dim: Of a dense model: leading dimensions to keep.
        normalize_embeddings: Of a dense model: scale to unit length after that.
        max_active_dims: Of a sparse encoder: values to keep of each text.
    """

    model: str
    backend: str | None = None
    file_name: str | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    role: str | None = None
    precision: str = "float32"
    ranges: CallRanges = None
    truncate_dim: int | None = None
    normalize_embeddings: bool = False
    max_active_dims: int | None = None

    @property
    def devices(self) -> list[str | None]:
        """The devices, one at least."""
        return [None] if self.device is None else [each.strip() for each in self.device.split(",")]

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """The engine's options under the public classes' names."""
        asked = {"file_name": self.file_name, "dtype": self.dtype}
        return {key: value for key, value in asked.items() if value is not None}


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """A corpus to encode.

    Attributes:
        model: The model and how it encodes.
        inputs: Files, patterns such as ``data/*.jsonl``, folders, or ``-`` for standard input.
        output: A folder for shards, or a file: ``.parquet``, ``.npy``, ``.npz`` or ``.jsonl``.
        format: How shards of a folder are written; None is Parquet, and of a file what its name says.
        column: Column with the text, or two with a comma for pairs; empty is ``text``.
        id_column: Column with the rows' ids; None numbers them from 0.
        jsonl: Whether files that do not tell by their name are JSONL.
        shard_size: Rows of a shard.
        chunk_size: Rows that are encoded in one call.
        on_error: What becomes of a row that cannot be encoded.
        workers: Processes that encode, for each device; 1 of one device is this process. In Ray actors in all; None is as
            many as there is room for.
        engine: Who runs it.
        ray_address: Where the Ray cluster is; None starts one on this machine.
        resume: Whether to go on with what an interrupted job left.
        force: Whether to replace what is there.
    """

    model: ModelOptions
    inputs: Sequence[str | Path] = (STDIN,)
    output: Path | None = None
    format: Format | None = None
    column: str = ""
    id_column: str | None = None
    jsonl: bool = False
    shard_size: int = SHARD
    chunk_size: int = CHUNK
    on_error: OnError = OnError.STOP
    workers: int | None = None
    engine: Engine = Engine.LOCAL
    ray_address: str | None = None
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        counts = {"shard_size": self.shard_size, "chunk_size": self.chunk_size}
        if self.workers is not None:
            counts["workers"] = self.workers
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise OptionError(f"{name} is {count!r}", "a positive whole number")
        if self.ray_address is not None and self.engine is not Engine.RAY:
            raise OptionError("a Ray address is given, and the engine is not ray", "add --engine ray")

    def columns(self, *, pairs: bool) -> Columns:
        """The columns that are read."""
        return Columns(self.column, self.id_column, pairs)

    def identity(
        self, described: Mapping[str, Any], files: Sequence[InputFile], format_: Format
    ) -> dict[str, Any]:
        """Return all that decides what is written: plain values, for a file and to be compared.

        Args:
            described: What decides a vector: :class:`stopt.scale.encoder.About`.
            files: The inputs.
            format_: How shards are written.
        """
        options = asdict(replace(self.model, ranges=None))
        # where and by how many it is computed does not change what is
        for name in ("model", "threads", "device", "file_name", "ranges"):
            del options[name]
        return {
            "model": dict(described),
            "options": options,
            "output": {"format": format_.value, "shard_size": self.shard_size, "chunk_size": self.chunk_size},
            "rows": {"column": self.column, "id_column": self.id_column, "on_error": self.on_error.value},
            "inputs": [
                {"name": file.name, "format": file.format.value, "size_bytes": file.size_bytes}
                for file in files
            ],
        }


def versions(*packages: str) -> dict[str, str]:
    """Versions of packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
