"""``CrossEncoder``: pairs of texts to scores, under sentence-transformers' names and without its torch stack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stopt.counts import require_count
from stopt.errors import InputError, OptionError
from stopt.runtime.arrays import numpy_array
from stopt.runtime.inputs import read_inputs, read_pairs
from stopt.runtime.loading import LoadRequest
from stopt.runtime.model import Model
from stopt.runtime.pipeline import RunOptions
from stopt.runtime.scoring import ActivationFunction, ScoreOptions, parse_activation, score
from stopt.runtime.workers import WorkerPool
from stopt.spec import Activation, ModelKind

__all__ = ["CrossEncoder"]


class CrossEncoder(Model):
    """A model that reads two texts together and scores them, served by ONNX Runtime, OpenVINO or torch.

    Keywords and methods are sentence-transformers' own, apart from those that train a model.

    Args:
        model_name_or_path: A model folder, or a Hub id (``organisation/name[@revision]``).
        backend: ``"onnx"``, ``"openvino"`` or ``"torch"``; None picks a plain (unquantised) file that is there.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; None leaves it to the engine.
        num_labels: Labels that the model must have; None takes any number.
        max_length: Tokens that a pair is cut to; None is the model's limit.
        activation_fn: What is done to the logits; None is what the model's files say. A name of ``torch.nn``
            (``"Sigmoid"``, ``"Identity"`` …), or a function. A function is called once a call, with all logits
            (N, labels), and gives a row per pair. Modules and functions of torch are given tensors; other functions the
            engine's arrays: tensors with ``backend="torch"``, else numpy's.
        model_kwargs: Options of the engine: ``file_name``, ``provider``, ``ov_config``, ``dtype``, ``export`` …; see
            :mod:`stopt.runtime.options`.
        processor_kwargs: Options of the tokenizer: ``model_max_length``, ``padding_side``, ``truncation_side``.
        prompts: Prompt texts by name; they win over the model's own.
        default_prompt_name: Prompt for calls that name none.
        cache_folder: Where files from the Hub are kept.
        revision: Revision of a Hub repository.
        token: Hub token.
        local_files_only: Use cached files only.
        trust_remote_code: Accepted for compatibility; code from a model is never run.
        threads: Threads of the CPU; None is all that this process may use, a container's quota respected.
        verify: Whether files are held against the hashes in the folder's ``stopt.json``, if it has one.

    Raises:
        StoptError: If the model cannot be found, read or opened, or is no cross-encoder; see :mod:`stopt.errors`.
    """

    kind = ModelKind.CROSS_ENCODER
    width_name = "labels"
    prompt_names = ()

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        backend: str | None = None,
        device: str | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: ActivationFunction | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        if max_length is not None:
            processor_kwargs = {**(processor_kwargs or {}), "model_max_length": max_length}
        own = None if activation_fn is None else parse_activation(activation_fn)
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
        self._activation = own or self._pipeline.spec.activation or Activation.IDENTITY
        if num_labels is not None and num_labels != self.num_labels:
            raise OptionError(
                f"num_labels is {num_labels!r}, but the model's classifier has {self.num_labels}",
                "leave num_labels out; stopt runs trained models and makes no new classifiers",
            )

    # -- scoring ---------------------------------------------------------------------------------------------

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: ActivationFunction | str | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
        sentences: Any = None,
        activation_fct: ActivationFunction | str | None = None,
        num_workers: int | None = None,
    ) -> Any:
        """Score pairs of texts.

        Args:
            inputs: A pair of texts (a list or tuple of two); or a list, tuple or array of pairs.
            prompt_name: Name of the prompt to put before the first text of each pair.
            prompt: The prompt itself; wins over ``prompt_name``.
            batch_size: Pairs that are run together, at most; None leaves it to ``max_batch_tokens``.
            show_progress_bar: Draw one; None does where logging is at INFO or finer.
            activation_fn: What is done to the logits in this call; None is the model's :attr:`activation_fn`.
            apply_softmax: Scale the scores of each pair, after the activation, to a sum of 1.
            convert_to_numpy: Return an array.
            convert_to_tensor: Return a torch tensor; wins over ``convert_to_numpy``. With neither, a list of tensors.
            device: Several, to start a pool with a worker on each for this call alone; or the one that the model is on.
            pool: Worker processes of :meth:`start_multi_process_pool` to spread the pairs over.
            chunk_size: Pairs that a worker gets at a time; None leaves it to their lengths.
            max_batch_tokens: Tokens that are run together, padding included, at most; None is what suits the engine.
            sentences: Older name of ``inputs``.
            activation_fct: Older name of ``activation_fn``.
            num_workers: Accepted for compatibility; has no effect.

        Returns:
            (N,) float32 of a model with one label, else (N, labels); tensors have the model's dtype. Without the first
            dimension for a single pair; shape (0,) for an empty list.

        Raises:
            InputError: If something is not a pair of texts; says which.
            OptionError: If an option's value is wrong.
            WorkerError: If two of a pool's workers died or failed on the same pairs.
        """
        inputs = _renamed(inputs, sentences, "sentences", "inputs")
        activation_fn = _renamed(activation_fn, activation_fct, "activation_fct", "activation_fn")
        _unused(num_workers)
        pairs, single = read_pairs(inputs)
        run = self._run_options(prompt_name, prompt, batch_size, max_batch_tokens, show_progress_bar)
        options = self._options(run, activation_fn, apply_softmax, convert_to_numpy, convert_to_tensor)
        with self._spread(pool, device, chunk_size, self._pipeline) as spread:
            scores = score(self._pipeline, pairs, options, spread)
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: Any,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: ActivationFunction | str | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        *,
        max_batch_tokens: int | None = None,
        activation_fct: ActivationFunction | str | None = None,
        num_workers: int | None = None,
    ) -> list[dict[str, Any]]:
        """Order documents by their score with a query; of a model with one label.

        Args:
            query: The query, first text of every pair.
            documents: A list, tuple or array of texts.
            top_k: Documents to return, at most; None is all.
            return_documents: Give each document's text too.
            prompt_name: As in :meth:`predict`, like all that follow.
            prompt: The prompt itself.
            batch_size: Pairs that are run together, at most.
            show_progress_bar: Draw one.
            activation_fn: What is done to the logits in this call.
            apply_softmax: As in :meth:`predict`; makes 1 of every score here, as in sentence-transformers.
            convert_to_numpy: Give scores as ``numpy.float32``.
            convert_to_tensor: Give scores as torch tensors; so they are with neither.
            device: As in :meth:`predict`.
            pool: Worker processes to spread the pairs over.
            chunk_size: Pairs that a worker gets at a time.
            max_batch_tokens: Tokens that are run together, padding included, at most.
            activation_fct: Older name of ``activation_fn``.
            num_workers: Accepted for compatibility; has no effect.

        Returns:
            One dict per document: ``corpus_id``, its position, ``score`` and, if asked for, ``text``; highest score
            first, equal ones in the order of the documents.

        Raises:
            InputError: If the query or a document is not a text; says which.
            OptionError: If the model has more than one label, or an option's value is wrong.
        """
        activation_fn = _renamed(activation_fn, activation_fct, "activation_fct", "activation_fn")
        _unused(num_workers)
        if self.num_labels != 1:
            raise OptionError(
                f"rank needs a model with one label; this one has {self.num_labels}",
                "use predict with (query, document) pairs, and sort by the label that matters",
            )
        if top_k is not None:
            require_count(top_k, "top_k", "a number of documents, or None for all", least=0)
        pairs = _with_query(query, documents)
        run = self._run_options(prompt_name, prompt, batch_size, max_batch_tokens, show_progress_bar)
        options = self._options(run, activation_fn, apply_softmax, convert_to_numpy, convert_to_tensor)
        with self._spread(pool, device, chunk_size, self._pipeline) as spread:
            scores = score(self._pipeline, pairs, options, spread)
        order = np.argsort(-_sortable(scores), kind="stable")[:top_k].tolist()
        texts = [{"text": document} if return_documents else {} for _, document in pairs]
        return [{"corpus_id": row, "score": scores[row], **texts[row]} for row in order]

    def _options(
        self,
        run: RunOptions,
        activation: ActivationFunction | str | None,
        apply_softmax: bool | None,
        convert_to_numpy: bool,
        convert_to_tensor: bool,
    ) -> ScoreOptions:
        chosen = self.activation_fn if activation is None else parse_activation(activation)
        return ScoreOptions(run, chosen, bool(apply_softmax), convert_to_numpy, convert_to_tensor)

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def num_labels(self) -> int:
        """Scores that the model gives a pair."""
        return self._pipeline.spec.embedding_dimension

    @property
    def activation_fn(self) -> ActivationFunction:
        """What is done to the logits: an :class:`~stopt.spec.Activation`, or the function that was given."""
        return self._activation

    @activation_fn.setter
    def activation_fn(self, function: ActivationFunction | str) -> None:
        self._activation = parse_activation(function)

    @property
    def max_length(self) -> int | None:
        """Older name of :attr:`max_seq_length`."""
        warnings.warn("max_length is now called max_seq_length", DeprecationWarning, stacklevel=2)
        return self.max_seq_length

    @max_length.setter
    def max_length(self, length: int) -> None:
        warnings.warn("max_length is now called max_seq_length", DeprecationWarning, stacklevel=2)
        self.max_seq_length = length


def _renamed(value: Any, given: Any, old: str, new: str) -> Any:
    """The value of a keyword that also goes by an older name."""
    if given is None:
        return value
    warnings.warn(f"{old}= is now called {new}=", DeprecationWarning, stacklevel=3)
    return given if value is None else value


def _unused(num_workers: int | None) -> None:
    if num_workers is not None:
        warnings.warn("num_workers= has no effect", DeprecationWarning, stacklevel=3)


def _with_query(query: Any, documents: Any) -> list[tuple[str, str]]:
    """A pair of the query and each document."""
    if not isinstance(query, str):
        raise InputError(
            f"the query is {type(query).__name__}, expected a text", "rank takes one query; call it for each"
        )
    texts, single = read_inputs(documents)
    if single:
        raise InputError("documents is one text, expected a list of texts", "wrap it: [document]")
    pairs = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"document {index} is a pair, expected a text",
                "rank puts the query before each document itself; for pairs of your own use predict",
                index=index,
            )
        pairs.append((str(query), text))
    return pairs


def _sortable(scores: Any) -> Any:
    """(N,) float64 of scores in whichever form the caller wants them."""
    values = np.array([*map(numpy_array, scores)]) if isinstance(scores, list) else numpy_array(scores)
    if values.ndim != 1:
        raise OptionError(
            f"activation_fn makes an array of shape {values.shape[1:]} of each pair",
            "rank needs one value to sort by",
        )
    return values.astype(np.float64)
