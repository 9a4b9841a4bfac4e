"""The class people migrate to: sentence-transformers' ``SentenceTransformer`` without its torch stack."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stopt.embeddings.similarity import pairwise_similarity, similarity
from stopt.errors import OptionError, StoptWarning, suggest
from stopt.runtime.arrays import Array
from stopt.runtime.encoding import EncodeOptions, encode
from stopt.runtime.loading import LoadRequest, check_length, open_pipeline
from stopt.runtime.pipeline import Pipeline
from stopt.spec import Similarity, merge_prompts

__all__ = ["SentenceTransformer"]

logger = logging.getLogger("stopt")

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SentenceTransformer:
    """A dense embedding model, served by ONNX Runtime, OpenVINO or torch.

    Keywords and methods are sentence-transformers' own; the README lists the few differences, the main one being that
    nothing is replaced silently: a missing file, provider or device is an error.

    Args:
        model_name_or_path: A model folder, or a Hub id (``organisation/name[@revision]``).
        backend: ``"onnx"``, ``"openvino"`` or ``"torch"``; None picks a plain (unquantised) file that is there.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; None leaves it to the engine.
        model_kwargs: Options of the engine: ``file_name``, ``provider``, ``ov_config``, ``dtype``, ``export`` …; see
            :mod:`stopt.runtime.options`.
        processor_kwargs: Options of the tokenizer: ``model_max_length``, ``padding_side``, ``truncation_side``.
        prompts: Prompt texts by name; they win over the model's own.
        default_prompt_name: Prompt for calls that name none.
        similarity_fn_name: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``; None is the model's.
        truncate_dim: Leading dimensions of an embedding to keep.
        cache_folder: Where files from the Hub are kept.
        revision: Revision of a Hub repository.
        token: Hub token.
        local_files_only: Use cached files only.
        trust_remote_code: Accepted for compatibility; code from a model is never run.

    Raises:
        StoptError: If the model cannot be found, read or opened; see :mod:`stopt.errors`.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        backend: str | None = None,
        device: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        cache_folder: str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        if trust_remote_code:
            warnings.warn(
                "stopt never runs code from a model; trust_remote_code has no effect",
                StoptWarning,
                stacklevel=2,
            )
        request = LoadRequest(
            model_name_or_path,
            backend,
            device,
            model_kwargs,
            processor_kwargs,
            revision,
            token,
            cache_folder,
            local_files_only,
        )
        self._pipeline = open_pipeline(request)
        spec = self._pipeline.spec
        self.prompts = merge_prompts(prompts, spec.prompts, ("query", "document"))
        self.default_prompt_name = default_prompt_name or spec.default_prompt_name
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise OptionError(
                f"default_prompt_name {self.default_prompt_name!r} is not among the prompts",
                suggest(self.default_prompt_name, list(self.prompts)),
            )
        self.truncate_dim = spec.truncate_dim if truncate_dim is None else truncate_dim
        self._similarity = spec.similarity
        if similarity_fn_name is not None:
            self.similarity_fn_name = similarity_fn_name

    # -- encoding ------------------------------------------------------------------------------------------

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        sentences: Any = None,
    ) -> Any:
        """Turn texts into embeddings.

        Args:
            inputs: A text; or a list, tuple or array of texts and pairs of texts.
            prompt_name: Name of the prompt to put before each text.
            prompt: The prompt itself; wins over ``prompt_name``.
            batch_size: Texts that are run together, at most.
            show_progress_bar: Draw one; None does where logging is at INFO or finer.
            output_value: ``"sentence_embedding"``; ``"token_embeddings"`` for one (T, D) array per text, trailing
                padding cut; None for one dict per text with every feature.
            precision: ``float32``, or ``int8``, ``uint8``, ``binary``, ``ubinary``: quantised over the whole call.
            convert_to_numpy: Return an array.
            convert_to_tensor: Return a torch tensor; wins over ``convert_to_numpy``. With neither, a list of tensors.
            device: Only the device that the model is on; another is an error.
            normalize_embeddings: Scale embeddings to unit length, after truncation.
            truncate_dim: Leading dimensions to keep; None is the model's ``truncate_dim``.
            sentences: Older name of ``inputs``.

        Returns:
            (N, E) float32 (float16 from float16 models), or integers as ``precision`` says; (E,) for a single text;
            shape (0,) for an empty list.

        Raises:
            InputError: If something is not a text; says which.
            OptionError: If an option's value is wrong.
        """
        if sentences is not None:
            warnings.warn("sentences= is now called inputs=", DeprecationWarning, stacklevel=2)
            inputs = sentences if inputs is None else inputs
        if device is not None and not _names(str(device), self.device):
            raise OptionError(
                f"the model is on {self.device!r}, not on {device!r}",
                "give device= to the constructor instead",
            )
        options = EncodeOptions(
            prompt=self._prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress=logger.isEnabledFor(logging.INFO)
            if show_progress_bar is None
            else show_progress_bar,
            output_value=output_value,
            precision=precision,
            as_numpy=convert_to_numpy and not convert_to_tensor,
            as_tensor=convert_to_tensor,
            normalize=normalize_embeddings,
            truncate_dim=self.truncate_dim if truncate_dim is None else truncate_dim,
        )
        return encode(self._pipeline, inputs, options)

    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Encode with the prompt named ``query``, unless another is given; see :meth:`encode`."""
        if prompt is None and prompt_name is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
        )

    def encode_document(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Encode with the prompt named ``document``, ``passage`` or ``corpus``, unless another is given; see :meth:`encode`."""
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
        )

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if name is not None:
                warnings.warn("both prompt and prompt_name given; prompt is used", StoptWarning, stacklevel=3)
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise OptionError(f"there is no prompt named {name!r}", suggest(name, list(self.prompts)))
        return self.prompts[name]

    # -- comparing -----------------------------------------------------------------------------------------

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Compare every embedding with every other: (N, E) and (M, E) to (N, M); tensors if one is a tensor."""
        return similarity(embeddings1, embeddings2, self._similarity)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Compare row by row: (N, E) and (N, E) to (N,)."""
        return pairwise_similarity(embeddings1, embeddings2, self._similarity)

    @property
    def similarity_fn_name(self) -> str:
        """How embeddings are compared: ``cosine``, ``dot``, ``euclidean`` or ``manhattan``."""
        return self._similarity.value

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        known = [str(each) for each in Similarity]
        if name not in known:
            raise OptionError(f"similarity_fn_name {name!r} is unknown", suggest(str(name), known))
        self._similarity = Similarity(name)

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, special tokens included; None is no limit."""
        return self._pipeline.spec.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self._pipeline = self._pipeline.with_max_seq_length(check_length(length, self._pipeline.spec))

    def get_max_seq_length(self) -> int | None:
        """Return :attr:`max_seq_length`."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Return the width of an embedding, ``truncate_dim`` considered."""
        width = self._pipeline.spec.embedding_dimension
        return width if self.truncate_dim is None else min(width, self.truncate_dim)

    def get_sentence_embedding_dimension(self) -> int:
        """Return :meth:`get_embedding_dimension`, under its older name."""
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Let the prompt's tokens count in pooling, or not."""
        self._pipeline = self._pipeline.with_include_prompt(include_prompt)

    def get_backend(self) -> str:
        """Return the engine: ``torch``, ``onnx`` or ``openvino``."""
        return self._pipeline.session.backend.value

    @property
    def device(self) -> str:
        """Where the engine runs, in its own words."""
        return self._pipeline.session.device

    @property
    def file(self) -> Path:
        """The file that is served; for torch the folder of the weights."""
        return self._pipeline.session.file

    @property
    def pipeline(self) -> Pipeline:
        """The parts it is made of, for tools that need them."""
        return self._pipeline

    def __repr__(self) -> str:
        session = self._pipeline.session
        return (
            f"SentenceTransformer({session.file}, backend={session.backend.value!r}, device={session.device!r}, "
            f"precision={session.precision!r}, dimension={self.get_embedding_dimension()})"
        )


def _names(device: str, actual: str) -> bool:
    """Whether ``device`` names the device that an engine runs on: in its own words, or by kind (``cpu``)."""
    return device == actual or (":" not in device and actual.lower().startswith(device.lower()))
