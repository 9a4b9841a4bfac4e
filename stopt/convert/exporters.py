"""The transformer of a model as an ONNX or OpenVINO graph, through optimum.

Exported is the transformer alone, from ``input_ids``, ``attention_mask`` and, where the architecture has them,
``token_type_ids``, to ``last_hidden_state``, or to the ``logits`` of a masked language model or a classifier, as
sentence-transformers expects of such files. optimum's own
configurations supply the patches that an architecture needs to be traced; inputs and outputs are set here, because an
encoder needs no decoder's inputs (T5), and positions that follow from the mask (Gemma, Qwen) are better computed in the
graph than fed.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stopt.errors import ConversionError
from stopt.interrupts import postponed
from stopt.runtime.sessions.torch import quiet
from stopt.spec import Backend, Task

__all__ = ["export_graph", "silent"]

# optimum's name of the task, the output, and its axes that may have any length
_TASKS: Mapping[Task, tuple[str, str, tuple[str, ...]]] = {
    Task.FEATURES: ("feature-extraction", "last_hidden_state", ("batch_size", "sequence_length")),
    Task.MASKED_LM: ("fill-mask", "logits", ("batch_size", "sequence_length")),
    Task.CLASSIFICATION: ("text-classification", "logits", ("batch_size",)),
}


def export_graph(
    model: Any, backend: Backend, file: Path, *, task: Task = Task.FEATURES, token_types: bool
) -> None:
    """Write the graph of a transformer.

    Args:
        model: The transformer, in float32 on the CPU, as :func:`~stopt.runtime.sessions.torch.load_transformer`
            returns it.
        backend: ONNX or OpenVINO.
        file: Where to; its data files (.onnx_data, .bin) go beside it.
        task: What the last layer gives.
        token_types: Whether the model's tokenizer has token types to feed.

    Raises:
        ConversionError: If the exporter fails, for an architecture that it cannot trace above all.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with postponed(), silent():
            _EXPORTERS[backend](model, file, task, token_types)
    except OSError:
        raise
    except Exception as error:  # exporters raise whatever their tracer met
        raise ConversionError(
            f"{model.config.model_type!r} cannot be exported to {backend.value}: {type(error).__name__}: {error}",
            # of C++ streams, in which OpenVINO writes
            "is the disk full?" if "iostream error" in str(error) else "try the other backend",
        ) from error


def _export_onnx(model: Any, file: Path, task: Task, token_types: bool) -> None:
    import optimum.exporters.onnx.model_configs  # noqa: F401  (registers the architectures)
    from optimum.exporters.onnx.convert import export

    export(model, _encoder_config(model, "onnx", task, token_types), file)


def _export_openvino(model: Any, file: Path, task: Task, token_types: bool) -> None:
    import optimum.exporters.openvino.model_configs  # noqa: F401  (registers the architectures)
    from optimum.exporters.openvino.convert import export

    config = _encoder_config(model, "openvino", task, token_types)
    own = dict(vars(model))
    try:
        export(model, config, file, stateful=False, library_name="transformers")
    except AttributeError:
        # a patch that fails half-way leaves its forward behind
        for name in vars(model).keys() - own.keys():
            delattr(model, name)
        vars(model).update(own)
        # optimum-intel's patches of decoders look for layers of the language model, which the bare model has not;
        # ONNX needs no such patches, and OpenVINO reads it
        _export_openvino_through_onnx(model, file, task, token_types)


def _export_openvino_through_onnx(model: Any, file: Path, task: Task, token_types: bool) -> None:
    import openvino

    with TemporaryDirectory(dir=file.parent, prefix=".onnx-") as folder:
        graph = Path(folder) / "model.onnx"
        _export_onnx(model, graph, task, token_types)
        converted = openvino.convert_model(graph)
        converted.set_rt_info("onnx", ["stopt", "exported_through"])
        openvino.save_model(converted, file, compress_to_fp16=False)
        del converted


_EXPORTERS: Mapping[Backend, Callable[[Any, Path, Task, bool], None]] = {
    Backend.ONNX: _export_onnx,
    Backend.OPENVINO: _export_openvino,
}


def _encoder_config(model: Any, exporter: str, task: Task, token_types: bool) -> Any:
    """Optimum's configuration for the architecture, or its generic one, with an encoder's inputs and output."""
    from optimum.exporters.onnx.config import TextEncoderOnnxConfig
    from optimum.exporters.tasks import TasksManager
    from optimum.utils import NormalizedTextConfig

    base = TextEncoderOnnxConfig
    name, output, output_axes = _TASKS[task]
    # optimum knows T5 and its kin with their decoders only
    if not type(model).__name__.endswith("EncoderModel"):
        with suppress(
            KeyError, ValueError
        ):  # it does not know the architecture: whether it traces, the check shows
            base = TasksManager.get_exporter_config_constructor(
                exporter, model_type=model.config.model_type, task=name, library_name="transformers"
            ).func
    names = ["input_ids", "attention_mask"]
    if token_types and "token_type_ids" in signature(model.forward).parameters:
        names.append("token_type_ids")
    axes = {0: "batch_size", 1: "sequence_length"}
    members = {
        "NORMALIZED_CONFIG_CLASS": getattr(base, "NORMALIZED_CONFIG_CLASS", None) or NormalizedTextConfig,
        "inputs": property(lambda _: {name: dict(axes) for name in names}),
        "outputs": property(lambda _: {output: dict(enumerate(output_axes))}),
    }
    return type("EncoderConfig", (base,), members)(model.config, task=name)


@contextmanager
def silent() -> Iterator[None]:
    """Keep exporters, optimisers and quantisers from printing, logging, warning, and reporting home.

    What they would say is measured afterwards. OpenVINO and nncf tell a statistics service of their use unless they
    believe to run in continuous integration, so that is what they are told.
    """
    disabled, environment = logging.root.manager.disable, os.environ.get("CI")
    logging.disable(logging.ERROR)
    os.environ["CI"] = "true"
    try:
        with warnings.catch_warnings(), quiet(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if environment is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = environment
