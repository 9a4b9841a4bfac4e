"""sentence-transformers' ``SparseEncoder`` without its torch stack: SPLADE, inference-free and autoencoder models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stopt.counts import require_count
from stopt.errors import OptionError, suggest
from stopt.runtime.arrays import Array
from stopt.runtime.loading import LoadRequest
from stopt.runtime.model import Model
from stopt.runtime.options import TorchOptions
from stopt.runtime.sparse_arrays import read_embeddings
from stopt.runtime.sparse_encoding import SparseOptions, autoencoder, encode_sparse
from stopt.runtime.sparse_similarity import intersect, sparse_pairwise_similarity, sparse_similarity
from stopt.runtime.workers import WorkerPool
from stopt.spec import ModelKind, Similarity

__all__ = ["SparseEncoder"]


class SparseEncoder(Model):
    """A sparse embedding model, served by ONNX Runtime, OpenVINO or torch.

    Keywords and methods are sentence-transformers' own. The one difference is that nothing needs torch: unless it is
    asked for, by ``backend="torch"`` or ``convert_to_tensor=True``, results are SciPy's ``csr_array`` and numpy arrays.
    A vocabulary's logits stay inside of the engine, a few texts at a time, so long batches need no more memory.

    Args:
        model_name_or_path: A model folder, or a Hub id (``organisation/name[@revision]``).
        backend: ``"onnx"``, ``"openvino"`` or ``"torch"``; None picks a plain (unquantised) file that is there.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; None leaves it to the engine.
        model_kwargs: Options of the engine: ``file_name``, ``provider``, ``ov_config``, ``dtype``, ``export`` …; see
            :mod:`stopt.runtime.options`.
        processor_kwargs: Options of the tokenizer: ``model_max_length``, ``padding_side``, ``truncation_side``.
        prompts: Prompt texts by name; they win over the model's own.
        default_prompt_name: Prompt for calls that name none.
        similarity_fn_name: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``; None is the model's, dot if it
            has none.
        max_active_dims: Values to keep of each embedding, the largest in absolute value; None keeps all, and of a
            sparse autoencoder as many as it was made for.
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

    kind = ModelKind.SPARSE

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
        max_active_dims: int | None = None,
        cache_folder: str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        _check_count("max_active_dims", max_active_dims)
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
        auto = autoencoder(self._pipeline)
        self.max_active_dims = auto.k if max_active_dims is None and auto is not None else max_active_dims
        self._chunk_size: int | None = None
        self._similarity = self._pipeline.spec.similarity
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
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
        task: str | None = None,
        sentences: Any = None,
    ) -> Any:
        """Turn texts into sparse embeddings.

        Args:
            inputs: A text; or a list, tuple or array of texts and pairs of texts.
            prompt_name: Name of the prompt to put before each text.
            prompt: The prompt itself; wins over ``prompt_name``.
            batch_size: Texts that are run together, at most; None leaves it to ``max_batch_tokens``.
            show_progress_bar: Draw one; None does where logging is at INFO or finer.
            convert_to_tensor: True returns a torch tensor, False a list with one embedding per text. None, the default,
                is a tensor from ``backend="torch"`` and a SciPy matrix from the others, which need no torch; in
                sentence-transformers it is True.
            convert_to_sparse_tensor: False returns dense arrays: tensors or numpy's.
            save_to_cpu: Move tensors to the CPU.
            device: Several, to start a pool with a worker on each for this call alone; or the one that the model is on.
            max_active_dims: Values to keep of each embedding; None is the model's ``max_active_dims``.
            pool: Worker processes of :meth:`start_multi_process_pool` to spread the texts over.
            chunk_size: Texts that a worker gets at a time; None leaves it to their lengths.
            max_batch_tokens: Tokens that are run together, padding included, at most; None is what suits the engine.
            task: Route to take, of a model with a Router.
            sentences: Older name of ``inputs``.

        Returns:
            (N, V): ``scipy.sparse.csr_array`` of float32; or, as tensor, coalesced COO in the model's dtype. (V,) for a
            single text. For an empty list (0, V), and as tensor shape (0,), as in sentence-transformers.

        Raises:
            InputError: If something is not a text; says which.
            OptionError: If an option's value is wrong.
            WorkerError: If two of a pool's workers died or failed on the same texts.
            MissingExtra: If SciPy, or torch where it was asked for, is not installed.
        """
        if sentences is not None:
            warnings.warn("sentences= is now called inputs=", DeprecationWarning, stacklevel=2)
            inputs = sentences if inputs is None else inputs
        limit = self.max_active_dims if max_active_dims is None else max_active_dims
        _check_count("max_active_dims", limit)
        in_torch = isinstance(self._pipeline.options, TorchOptions)
        options = SparseOptions(
            run=self._run_options(prompt_name, prompt, batch_size, max_batch_tokens, show_progress_bar),
            limit=limit,
            as_tensor=bool(convert_to_tensor) or in_torch,
            sparse=convert_to_sparse_tensor,
            listed=convert_to_tensor is False,
            device=self.device if in_torch and not save_to_cpu else "cpu",
        )
        route = self._route(task)
        with self._spread(pool, device, chunk_size, route) as spread:
            return encode_sparse(route, inputs, options, spread)

    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
    ) -> Any:
        """Encode with the prompt named ``query``, unless another is given, and a Router's query route; see :meth:`encode`."""
        return self.encode(
            inputs,
            prompt_name=self._query_prompt(prompt, prompt_name),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            convert_to_tensor=convert_to_tensor,
            convert_to_sparse_tensor=convert_to_sparse_tensor,
            save_to_cpu=save_to_cpu,
            device=device,
            max_active_dims=max_active_dims,
            pool=pool,
            chunk_size=chunk_size,
            max_batch_tokens=max_batch_tokens,
            task="query" if self._pipeline.routes else None,
        )

    def encode_document(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
    ) -> Any:
        """Encode with the prompt named ``document``, ``passage`` or ``corpus``, and a Router's document route; see :meth:`encode`."""
        return self.encode(
            inputs,
            prompt_name=self._document_prompt(prompt, prompt_name),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            convert_to_tensor=convert_to_tensor,
            convert_to_sparse_tensor=convert_to_sparse_tensor,
            save_to_cpu=save_to_cpu,
            device=device,
            max_active_dims=max_active_dims,
            pool=pool,
            chunk_size=chunk_size,
            max_batch_tokens=max_batch_tokens,
            task="document" if self._pipeline.routes else None,
        )

    # -- looking at embeddings -----------------------------------------------------------------------------

    def decode(self, embeddings: Any, top_k: int | None = None) -> list[Any]:
        """Say which tokens an embedding has, and with which weights.

        Args:
            embeddings: (V,) or (N, V), as :meth:`encode` returned them.
            top_k: Tokens to name at most, the heaviest; None names all.

        Returns:
            (token, weight) pairs, the heaviest first, of equal ones the one with the lower id; a list of such lists for
            several embeddings. A token is None where the vector is wider than the vocabulary. The values of an
            autoencoder are no tokens, whatever sentence-transformers and this say they are called.

        Raises:
            OptionError: If ``top_k`` is not positive.
            InputError: If it is not embeddings.
        """
        _check_count("top_k", top_k)
        given = read_embeddings(embeddings)
        tokenizer = self._pipeline.tokenizer
        decoded = [
            list(zip(map(tokenizer.token, columns[:top_k].tolist()), weights[:top_k].tolist(), strict=True))
            for columns, weights in given.rows.strongest_first()
        ]
        return decoded[0] if given.single else decoded

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """Count the values that are not zero.

        Args:
            embeddings: (V,) or (N, V).

        Returns:
            ``active_dims``: their mean number per embedding; ``sparsity_ratio``: the share of those that are zero.

        Raises:
            InputError: If it is not embeddings.
        """
        rows = read_embeddings(embeddings).rows
        if not len(rows) or not rows.width:
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        active = float(np.mean(rows.counts))
        return {"active_dims": active, "sparsity_ratio": 1.0 - active / rows.width}

    @staticmethod
    def intersection(embeddings_1: Any, embeddings_2: Any) -> Any:
        """Multiply one embedding (V,) with (V,) or (N, V) others and keep what is positive; for :meth:`decode`.

        Returns:
            Of the second's shape: a COO tensor if that is a tensor, else ``scipy.sparse.csr_array``.

        Raises:
            InputError: If the shapes do not fit, or it is not embeddings.
        """
        return intersect(embeddings_1, embeddings_2)

    # -- comparing -----------------------------------------------------------------------------------------

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Compare every embedding with every other: (N, V) and (M, V) to (N, M), dense; a tensor if one is a tensor."""
        return sparse_similarity(embeddings1, embeddings2, self._similarity)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Array:
        """Compare row by row: (N, V) and (N, V) to (N,), dense."""
        return sparse_pairwise_similarity(embeddings1, embeddings2, self._similarity)

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

    def get_embedding_dimension(self) -> int:
        """Return the width V of an embedding: the vocabulary's size, or that of an autoencoder."""
        return self._pipeline.spec.embedding_dimension

    def get_sentence_embedding_dimension(self) -> int:
        """Return :meth:`get_embedding_dimension`, under its older name."""
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Let the prompt's tokens count in the pooling before an autoencoder, or not."""
        self._pipeline = self._pipeline.with_include_prompt(include_prompt)

    @property
    def splade_pooling_chunk_size(self) -> int | None:
        """Tokens that sentence-transformers pools at a time. Kept for its callers, without effect.

        Vectors do not depend on it, and memory need not be saved by it: pooling is inside of the engine's graph, and
        batches are cut where logits over the vocabulary would get large.
        """
        return self._chunk_size

    @splade_pooling_chunk_size.setter
    def splade_pooling_chunk_size(self, size: int | None) -> None:
        _check_count("splade_pooling_chunk_size", size)
        self._chunk_size = size


def _check_count(name: str, value: Any) -> None:
    if value is not None:
        require_count(value, name, "a positive number, or None")
