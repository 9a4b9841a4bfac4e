"""Engines that run the transformer, behind one protocol.

:func:`open_session` is the only place that chooses between them; each engine's package is imported by its own
module alone, when it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, assert_never

import numpy as np
import numpy.typing as npt

from stopt.artifact import locate
from stopt.errors import CorruptModel, MissingExtra, OptionError
from stopt.runtime.arrays import Array
from stopt.runtime.modules import Features
from stopt.runtime.options import EngineOptions, OnnxOptions, OpenVinoOptions, TorchOptions
from stopt.runtime.tokenizer import Batch
from stopt.spec import Backend, ModelSpec

__all__ = ["Session", "feed", "open_file", "open_session", "result_names"]


class Session(Protocol):
    """An engine with a model in it. Fully usable once built; may be shared between threads."""

    @property
    def backend(self) -> Backend:
        """The engine."""

    @property
    def file(self) -> Path:
        """The file that is run; for torch the folder of the weights."""

    @property
    def device(self) -> str:
        """Where it runs, in the engine's own words."""

    @property
    def precision(self) -> str:
        """Dtype of the arithmetic, as far as the engine tells."""

    def run(self, batch: Batch) -> Features:
        """Run one batch.

        Returns:
            ``token_embeddings`` (B, T, D) or, from a graph with pooling in it, ``sentence_embedding`` (B, E); and
            ``attention_mask`` (B, T); all in the engine's own array type.
        """

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Turn weights into an array that fits what :meth:`run` returns: its type, dtype and device."""


def open_session(root: Path, spec: ModelSpec, options: EngineOptions, device: str | None = None) -> Session:
    """Open the file that ``options`` name with the engine that they belong to.

    Args:
        root: The model folder.
        spec: The model.
        options: One of the engines' options.
        device: ``cpu``, ``cuda``, ``cuda:1`` …; None leaves it to the options and the engine.

    Raises:
        MissingExtra: If the engine is not installed.
        ArtifactError: If there is no such file; lists those that are.
        CorruptModel: If the engine cannot read it.
        OptionError: If the provider or device is not there.
    """
    if isinstance(options, TorchOptions):
        require("torch", "torch")
        require("transformers", "torch")
        from stopt.runtime.sessions.torch import TorchSession

        return TorchSession(root, spec, options, device)
    backend = Backend.ONNX if isinstance(options, OnnxOptions) else Backend.OPENVINO
    return open_file(locate(root, backend, options.file_name, options.subfolder), options, device)


def open_file(file: Path, options: OnnxOptions | OpenVinoOptions, device: str | None = None) -> Session:
    """Open a converted file, wherever it is; otherwise as :func:`open_session`."""
    match options:
        case OnnxOptions():
            require("onnxruntime", "onnx")
            from stopt.runtime.sessions.onnx import OnnxSession

            return OnnxSession(file, options, device)
        case OpenVinoOptions():
            require("openvino", "openvino")
            from stopt.runtime.sessions.openvino import OpenVinoSession

            return OpenVinoSession(file, options, device)
        case _:
            assert_never(options)


def require(package: str, extra: str) -> None:
    """Raise :class:`MissingExtra` unless ``package`` is installed; does not import it."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtra(package, extra)


def feed(batch: Batch, inputs: Sequence[str], file: Path) -> dict[str, npt.NDArray[Any]]:
    """Choose from a batch what a graph asks for.

    Raises:
        CorruptModel: If it asks for something that is not known.
        OptionError: If it has no use for token types that matter.
    """
    if "token_type_ids" not in inputs and batch.token_type_ids.any():
        raise OptionError(
            f"{file} has no input for token types, which tell the two texts of a pair apart",
            "export the model with `stopt export`, whose graphs have it",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in inputs:
        match name:
            case "input_ids":
                arrays[name] = batch.input_ids
            case "attention_mask":
                arrays[name] = batch.attention_mask
            case "token_type_ids":
                arrays[name] = batch.token_type_ids
            case "position_ids":
                arrays[name] = batch.position_ids
            case _:
                raise CorruptModel(
                    f"{file} wants the input {name!r}, which an encoder has no values for",
                    "export the model again with `stopt export --force`",
                )
    return arrays


def result_names(outputs: Sequence[str], file: Path) -> dict[str, str]:
    """Map a graph's output to the feature that it is.

    Token embeddings are preferred where a graph has both: pooling is then ours, prompts and all.

    Raises:
        CorruptModel: If neither is there.
    """
    for name in ("last_hidden_state", "token_embeddings"):
        if name in outputs:
            return {name: "token_embeddings"}
    if "sentence_embedding" in outputs:
        return {"sentence_embedding": "sentence_embedding"}
    raise CorruptModel(
        f"{file} has the outputs {', '.join(outputs)}; expected last_hidden_state, token_embeddings or sentence_embedding",
        "is it the graph of another kind of model?",
    )


def cpu_only(device: str | None, backend: Backend, hint: str) -> None:
    """Raise unless ``device`` is the CPU or not given."""
    if device not in (None, "cpu"):
        raise OptionError(f"backend {backend.value!r} cannot run on device {device!r} here", hint)
