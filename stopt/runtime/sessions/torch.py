"""torch: the original weights through transformers, the reference that converted files are held against."""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from stopt.errors import CorruptModel, ForkError, OptionError, SourceError, UnsupportedModel
from stopt.folder import contained, read_json_object
from stopt.preflight import NamedCode, named_code, refuse_code, vet_shards
from stopt.runtime.accelerators import first_torch_device, torch_devices
from stopt.runtime.arrays import Array
from stopt.runtime.batching import BatchLimits
from stopt.runtime.modules import Features
from stopt.runtime.opened import OpenedFiles
from stopt.runtime.options import TorchOptions
from stopt.runtime.sessions import tokens_within
from stopt.runtime.sessions.packing import FLASH, Packed, check_flash, takes_packed
from stopt.runtime.tokenizer import Batch
from stopt.spec import Backend, ModelSpec, Task, TransformerSpec

__all__ = ["TorchSession", "load_transformer"]

logger = logging.getLogger("stopt")

# of these, only the encoder makes embeddings
_ENCODER_CLASSES = {
    "longt5": "LongT5EncoderModel",
    "mt5": "MT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
    "t5gemma": "T5GemmaEncoderModel",
    "umt5": "UMT5EncoderModel",
}
_HEAD_CLASSES = {
    Task.MASKED_LM: "AutoModelForMaskedLM",
    Task.CLASSIFICATION: "AutoModelForSequenceClassification",
}

_ATTENTION_ERROR = re.compile(
    r"does not support (Flash|an attention)|has been toggled on|requirements in Transformers are not met"
)
# takes flash attention unasked where it is installed, in float32 too, which it then computes in bfloat16
_FLASH_UNASKED = {"modernbert"}

CPU_BATCH_TOKENS = 2048
CPU_RUN_COST = 30  # by measurement: 60 is as fast, none at all 1.6 times as slow for calls of few texts
ACCELERATOR_BATCH_TOKENS = 32_768


class TorchSession:
    """The original weights in torch.

    Args:
        root: The model folder.
        spec: The model.
        options: dtype and attention.
        device: torch device; None is the first there is of cuda, mps, npu, xpu, hpu, cpu.
    """

    backend = Backend.TORCH
    fused = 0

    def __init__(self, root: Path, spec: ModelSpec, options: TorchOptions, device: str | None) -> None:
        _check_process()
        self.file = contained(root, spec.transformer.path)
        self.files = OpenedFiles.now(
            root, [self.file / "config.json", *sorted(self.file.glob("model*.safetensors*"))]
        )
        self._task, self._target = spec.transformer.task, spec.transformer.target
        self._device = _choose_device(device)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.attn_implementation in FLASH:  # before a long load
            check_flash(options.attn_implementation, self._device.type, options.dtype or "float32")
        model = load_transformer(
            root,
            spec,
            dtype=options.dtype or "float32",
            attn_implementation=options.attn_implementation,
            trust_remote_code=options.trust_remote_code,
        )
        self.model = model.to(self._device).eval()
        self._forward = torch.compile(self.model, dynamic=True) if options.compile else self.model
        self._dtype: torch.dtype = self.model.dtype
        self.device = str(self._device)
        self.precision = str(self._dtype).removeprefix("torch.")
        on_cpu = self._device.type == "cpu"
        self.limits = BatchLimits(
            tokens=tokens_within(CPU_BATCH_TOKENS if on_cpu else ACCELERATOR_BATCH_TOKENS, spec),
            padding_free=self._is_padding_free(),
            run_cost=CPU_RUN_COST if on_cpu else None,
        )
        accepted = inspect.signature(self.model.forward).parameters
        self._settings: dict[str, Any] = {"return_dict": True}
        if "use_cache" in accepted:  # keys and values for a text that goes on: memory for nothing
            self._settings["use_cache"] = False
        self._inputs = {"input_ids", "attention_mask"}
        if spec.tokenizer.token_types and "token_type_ids" in accepted:
            self._inputs.add("token_type_ids")
        # padded on the left, positions must be told; on the right, counting from 0 is what every model does itself
        if spec.tokenizer.padding_side == "left" and "position_ids" in accepted:
            self._inputs.add("position_ids")

    def _is_padding_free(self) -> bool:
        """Whether batches are run without padding; says so in the log where it is a question."""
        attention = self.model.config._attn_implementation
        if attention not in FLASH:
            return False
        check_flash(attention, self._device.type, self.precision)
        free = takes_packed(attention, self.model.config.model_type, self._task)
        given = "batches without padding" if free else "padded batches"
        logger.info("%s: %s, the model is given %s", self.file, attention, given)
        return free

    def run(self, batch: Batch) -> Features:
        """Run one batch; see :class:`~stopt.runtime.sessions.Session`."""
        if self.limits.padding_free:
            return self._run_packed(batch)
        inputs = {name: self._tensor(getattr(batch, name)) for name in sorted(self._inputs)}
        with torch.inference_mode():
            outputs = self._forward(**inputs, **self._settings)
        values = outputs.last_hidden_state if self._task is Task.FEATURES else outputs.logits
        return {self._target: values, "attention_mask": inputs["attention_mask"]}

    def _run_packed(self, batch: Batch) -> Features:
        packed = Packed.of(batch)
        starts = self._tensor(packed.starts)
        with torch.inference_mode():
            outputs = self._forward(
                input_ids=self._tensor(packed.input_ids),
                position_ids=self._tensor(packed.position_ids),
                cu_seq_lens_q=starts,
                cu_seq_lens_k=starts,
                max_length_q=packed.longest,
                max_length_k=packed.longest,
                **self._settings,
            )
            values = packed.unpacked(outputs.last_hidden_state, self._tensor(packed.places))
        return {self._target: values, "attention_mask": self._tensor(batch.attention_mask)}

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def map(self, batches: Iterable[Batch]) -> Iterator[Features]:
        """Run many batches, one after the other; see :class:`~stopt.runtime.sessions.Session`."""
        return map(self.run, batches)

    def constant(self, array: npt.NDArray[np.float32]) -> Array:
        """Weights for torch modules, in the model's dtype and on its device."""
        return torch.from_numpy(array).to(self._device, self._dtype)


def _check_process() -> None:
    """Raise in a forked copy of a process that has run a model: torch would wait for that one's threads."""
    first = _processes.setdefault("first", os.getpid())
    if first != os.getpid():
        raise ForkError(
            f"torch has run a model in process {first}, and this is a copy of that made by fork",
            "start the process with 'spawn', or serve an ONNX or OpenVINO file, which can be opened in a copy",
        )


_processes: dict[str, int] = {}


def load_transformer(
    root: Path,
    spec: ModelSpec,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load the transformer of a model folder: safetensors only, no network, and no code of the folder unasked.

    Args:
        root: The model folder.
        spec: The model.
        dtype: dtype of the weights in memory, or ``"auto"`` for the checkpoint's.
        attn_implementation: Attention of transformers; None is its default.
        trust_remote_code: Run the code that config.json names, if it is in the folder.

    Raises:
        UntrustedModel: If config.json names code that was not trusted, or that is not in the folder.
        SourceError: If there are no weights.
        UnsupportedModel: If transformers does not know the architecture, or the weights are a pickle.
        OptionError: If the model has no such attention.
        CorruptModel: If the weights cannot be read or do not fit config.json.
    """
    folder = _checked_folder(root, spec, trust_remote_code=trust_remote_code)
    task = spec.transformer.task
    arguments = {"dtype": dtype, **_arguments(spec.transformer, attn_implementation)}
    code = named_code(root, spec.transformer.path) if trust_remote_code else None
    if code is not None:
        code.require_here(root)
        arguments["trust_remote_code"] = True
    class_name = _class_name(spec.transformer, code)
    try:
        with quiet(), nullcontext() if code is None else _copies_of_code():
            model, report = getattr(transformers, class_name).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **arguments
            )
    except (ValueError, KeyError, ImportError) as error:
        if "model_type" in str(error) or "does not recognize" in str(error):
            raise UnsupportedModel(
                str(root),
                [
                    f"transformers {transformers.__version__} has no architecture {spec.transformer.model_type!r}"
                ],
            ) from error
        if attn_implementation is not None and _ATTENTION_ERROR.search(str(error)):
            raise _attention_error(str(error), attn_implementation, spec.transformer) from error
        raise CorruptModel(f"{folder}: transformers cannot load the model: {error}") from error
    except Exception as error:  # safetensors and torch raise their own, and RuntimeError for shapes
        raise CorruptModel(
            f"{folder}: the weights cannot be loaded: {error}", "fetch the model again"
        ) from error
    # the pooler of a bare encoder is not run
    missing = [key for key in report["missing_keys"] if task is not Task.FEATURES or "pooler" not in key]
    if missing:
        raise CorruptModel(
            f"{folder}: the weights lack {len(missing)} tensors that config.json calls for, such as {missing[0]}",
            "config.json and model.safetensors come from different models, or the download is incomplete",
        )
    return model


def _checked_folder(root: Path, spec: ModelSpec, *, trust_remote_code: bool) -> Path:
    """The transformer's folder, in which nothing is that could have transformers run or fetch anything unasked."""
    folder = contained(root, spec.transformer.path)
    config = read_json_object(contained(folder, "config.json"))
    refuse_code(folder / "config.json", config, unread=trust_remote_code)
    if (tokenizer := contained(root, spec.tokenizer.path, "tokenizer_config.json")).is_file():
        refuse_code(tokenizer, read_json_object(tokenizer), unread=trust_remote_code)
    if config.get("quantization_config"):
        raise UnsupportedModel(
            str(root),
            ["its weights are quantised already (quantization_config)"],
            "use the model that it was made of",
        )
    if (
        folder / "adapter_config.json"
    ).is_file():  # where peft is installed, transformers would fetch what it names
        raise UnsupportedModel(
            str(root),
            ["it is a PEFT adapter (adapter_config.json)"],
            "merge it into its base model (merge_and_unload) and save that",
        )
    _require_safetensors(folder)
    return folder


def _class_name(spec: TransformerSpec, code: NamedCode | None) -> str:
    """The class of transformers that loads a model; one that stands for a class of the model's own where that is trusted."""
    if spec.task in _HEAD_CLASSES:
        return _HEAD_CLASSES[spec.task]
    own = code is not None and "AutoModel" in code.classes
    return "AutoModel" if own else _ENCODER_CLASSES.get(spec.model_type, "AutoModel")


def _arguments(spec: TransformerSpec, attn_implementation: str | None) -> dict[str, Any]:
    """What from_pretrained is told beside the dtype."""
    arguments: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if spec.task is Task.CLASSIFICATION:
        arguments["num_labels"] = spec.head_size
    if attn_implementation is None and spec.model_type in _FLASH_UNASKED:
        attn_implementation = "sdpa"
    if attn_implementation is not None:
        arguments["attn_implementation"] = attn_implementation
    return arguments


def _attention_error(text: str, asked: str, spec: TransformerSpec) -> OptionError:
    """What transformers says of an attention, less its advice."""
    return OptionError(
        f"transformers {transformers.__version__} cannot run a {spec.model_type} with {asked!r}: {text.partition('. ')[0]}",
        f"attn_implementation={'eager' if asked == 'sdpa' else 'sdpa'!r} in model_kwargs, or leave it out",
    )


@contextmanager
def _copies_of_code() -> Iterator[None]:
    """Have transformers import a model's code from copies that this process alone has, and that end with it.

    Its own place for them (``HF_MODULES_CACHE``) stays behind, and processes that convert at the same time share it.
    """
    modules = transformers.dynamic_module_utils
    usual = modules.HF_MODULES_CACHE
    modules.HF_MODULES_CACHE = _place_of_code().name
    try:
        yield
    finally:
        modules.HF_MODULES_CACHE = usual


@cache
def _place_of_code() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="stopt-code-", ignore_cleanup_errors=True)


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("model*.safetensors")) or (folder / "model.safetensors.index.json").is_file():
        vet_shards(folder)
        return
    if (folder / "pytorch_model.bin").is_file() or (folder / "pytorch_model.bin.index.json").is_file():
        raise UnsupportedModel(
            str(folder),
            ["its weights are a pickle (pytorch_model.bin), which can run code when opened"],
            "save the model again with a current transformers or sentence-transformers, which write safetensors",
        )
    raise SourceError(
        f"{folder} has no weights (model.safetensors)",
        "an exported folder without the original weights can be served with backend='onnx' or 'openvino' only",
    )


def _choose_device(device: str | None) -> torch.device:
    if device is None:
        return torch.device(first_torch_device())
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:
        here = ", ".join(torch_devices())
        raise OptionError(f"torch has no device {device!r} here: {error}", f"it has {here}") from error
    return chosen


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from logging, warning and drawing bars; what matters is checked and raised."""
    logger = logging.getLogger("transformers")
    level = logger.level
    bars = transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
