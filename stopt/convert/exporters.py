"""The transformer of a model as an ONNX or OpenVINO graph, through optimum.

Exported is the transformer alone, from ``input_ids``, ``attention_mask`` (and ``token_type_ids``, ``position_ids``
where the architecture has them) to ``last_hidden_state``, as sentence-transformers expects of such files.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stopt.errors import ConversionError, UnsupportedModel
from stopt.runtime.sessions.torch import quiet
from stopt.spec import Backend

__all__ = ["export_graph"]

_TASK = "feature-extraction"


def export_graph(model: Any, backend: Backend, file: Path) -> None:
    """Write the graph of a transformer.

    Args:
        model: The transformer, in float32 on the CPU, as :func:`~stopt.runtime.sessions.torch.load_transformer`
            returns it.
        backend: ONNX or OpenVINO.
        file: Where to; its data files (.onnx_data, .bin) go beside it.

    Raises:
        UnsupportedModel: If optimum has no configuration for the architecture.
        ConversionError: If the exporter fails.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _silent():
            _EXPORTERS[backend](model, file)
    except (UnsupportedModel, OSError):
        raise
    except Exception as error:  # exporters raise whatever their tracer met
        raise ConversionError(
            f"the exporter for {backend.value} failed: {type(error).__name__}: {error}",
            "try the other backend, or report the architecture to stopt",
        ) from error


def _config(model: Any, exporter: str) -> Any:
    """Optimum's export configuration for the model's architecture."""
    from optimum.exporters.tasks import TasksManager

    model_type = model.config.model_type.replace("_", "-")
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            exporter, model_type=model_type, task=_TASK, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise UnsupportedModel(
            f"exporting {model.config.model_type!r} to {exporter}",
            ["optimum has no export configuration for it"],
        ) from error
    return constructor(model.config, task=_TASK)


def _export_onnx(model: Any, file: Path) -> None:
    import optimum.exporters.onnx.model_configs  # noqa: F401  (registers the architectures)
    from optimum.exporters.onnx.convert import export

    export(model, _config(model, "onnx"), file)


def _export_openvino(model: Any, file: Path) -> None:
    import optimum.exporters.openvino.model_configs  # noqa: F401  (registers the architectures)
    from optimum.exporters.openvino.convert import export

    export(model, _config(model, "openvino"), file, stateful=False, library_name="transformers")


_EXPORTERS: Mapping[Backend, Callable[[Any, Path], None]] = {
    Backend.ONNX: _export_onnx,
    Backend.OPENVINO: _export_openvino,
}


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporters from logging and warning; what they would say is measured afterwards."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
