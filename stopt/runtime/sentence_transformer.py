"""The class people migrate to: sentence-transformers' ``SentenceTransformer`` without its torch stack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stopt.counts import require_count
from stopt.embeddings.call import CallRanges
from stopt.embeddings.similarity import pairwise_similarity, similarity
from stopt.errors import OptionError, suggest
from stopt.runtime.arrays import Array
from stopt.runtime.encoding import KEPT_DIMENSIONS, EncodeOptions, encode
from stopt.runtime.loading import LoadRequest
from stopt.runtime.model import Model
from stopt.runtime.workers import WorkerPool
from stopt.spec import ModelKind, Similarity

__all__ = ["SentenceTransformer"]


class SentenceTransformer(Model):
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
        threads: Threads of the CPU; None is all that this process may use, a container's quota respected.
        verify: Whether files are held against the hashes in the folder's ``stopt.json``, if it has one.

    Raises:
        StoptError: If the model cannot be found, read or opened; see :mod:`stopt.errors`.
    """

    kind = ModelKind.DENSE

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
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
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
            threads,
            verify=verify,
        )
        super().__init__(request, prompts, default_prompt_name, trust_remote_code=trust_remote_code)
        spec = self._pipeline.spec
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
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
        task: str | None = None,
        ranges: CallRanges = None,
        sentences: Any = None,
    ) -> Any:
        """Turn texts into embeddings.

        Args:
            inputs: A text; or a list, tuple or array of texts and pairs of texts.
            prompt_name: Name of the prompt to put before each text.
            prompt: The prompt itself; wins over ``prompt_name``.
            batch_size: Texts that are run together, at most; None leaves it to ``max_batch_tokens``.
            show_progress_bar: Draw one; None does where logging is at INFO or finer.
            output_value: ``"sentence_embedding"``; ``"token_embeddings"`` for one (T, D) array per text, trailing
                padding cut; None for one dict per text with every feature.
            precision: ``float32``, or ``int8``, ``uint8``, ``binary``, ``ubinary``: quantised over the whole call.
            convert_to_numpy: Return an array.
            convert_to_tensor: Return a torch tensor; wins over ``convert_to_numpy``. With neither, a list of tensors.
            device: Several, to start a pool with a worker on each for this call alone; or the one that the model is on.
            normalize_embeddings: Scale embeddings to unit length, after truncation.
            truncate_dim: Leading dimensions to keep; None is the model's ``truncate_dim``.
            pool: Worker processes of :meth:`start_multi_process_pool` to spread the texts over.
            chunk_size: Texts that a worker gets at a time; None leaves it to their lengths.
            max_batch_tokens: Tokens that are run together, padding included, at most; None is what suits the engine.
            task: Route to take, of a model with a Router.
            ranges: :class:`~stopt.Ranges` of the dimensions for int8 and uint8, or their array (2, E); None is those
                that ``stopt calibrate`` stored with the model, else those of this call's embeddings if they are 100
                or more; ``"call"`` is those of this call's, however few, as in sentence-transformers.
            sentences: Older name of ``inputs``.

        Returns:
            (N, E) float32 (float16 from float16 models), or integers as ``precision`` says; (E,) for a single text;
            shape (0,) for an empty list.

        Raises:
            InputError: If something is not a text; says which.
            OptionError: If an option's value is wrong, or there are no ranges that hold for such embeddings.
            WorkerError: If two of a pool's workers died or failed on the same texts.
        """
        if sentences is not None:
            warnings.warn("sentences= is now called inputs=", DeprecationWarning, stacklevel=2)
            inputs = sentences if inputs is None else inputs
        options = EncodeOptions(
            run=self._run_options(prompt_name, prompt, batch_size, max_batch_tokens, show_progress_bar),
            output_value=output_value,
            precision=precision,
            as_numpy=convert_to_numpy and not convert_to_tensor,
            as_tensor=convert_to_tensor,
            normalize=normalize_embeddings,
            truncate_dim=self.truncate_dim if truncate_dim is None else truncate_dim,
            ranges=ranges,
        )
        route = self._route(task)
        with self._spread(pool, device, chunk_size, route) as spread:
            return encode(route, inputs, options, spread)

    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
        ranges: CallRanges = None,
    ) -> Any:
        """Encode with the prompt named ``query``, unless another is given; see :meth:`encode`."""
        return self.encode(
            inputs,
            prompt_name=self._query_prompt(prompt, prompt_name),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            max_batch_tokens=max_batch_tokens,
            task="query" if self._pipeline.routes else None,
            ranges=ranges,
        )

    def encode_document(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
        ranges: CallRanges = None,
    ) -> Any:
        """Encode with the prompt named ``document``, ``passage`` or ``corpus``, unless another is given; see :meth:`encode`."""
        return self.encode(
            inputs,
            prompt_name=self._document_prompt(prompt, prompt_name),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            max_batch_tokens=max_batch_tokens,
            task="document" if self._pipeline.routes else None,
            ranges=ranges,
        )

    def encode_multi_process(
        self,
        sentences: Any,
        pool: WorkerPool,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: str | None = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Older name of :meth:`encode` with ``pool=``."""
        warnings.warn("encode_multi_process is now encode(..., pool=)", DeprecationWarning, stacklevel=2)
        return self.encode(
            sentences,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
        )

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
    def truncate_dim(self) -> int | None:
        """Leading dimensions of an embedding to keep; None keeps all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, dimension: int | None) -> None:
        self._truncate_dim = (
            None if dimension is None else require_count(dimension, "truncate_dim", KEPT_DIMENSIONS)
        )

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

    def _dimension(self) -> int:
        return self.get_embedding_dimension()
