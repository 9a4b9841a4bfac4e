"""What a cross-encoder adds to its transformer: how many labels, and the activation on their logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stopt.reading.files import Reading, section
from stopt.reading.modules import read_activation
from stopt.spec import Activation

__all__ = ["count_labels", "score_activation"]


def count_labels(reading: Reading, config: Mapping[str, Any]) -> int:
    """Tell how many labels the classifier of a transformer has.

    Args:
        reading: The model folder.
        config: The transformer's config.json. One that is not of a classifier gets one label, as in
            sentence-transformers; its weights then have to have that.
    """
    listed = config.get("architectures")
    names = listed if isinstance(listed, list) else []
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        return 1
    if labels := section(config, "id2label"):
        return len(labels)
    return reading.positive({"num_labels": 2, **config}, "num_labels")


def score_activation(
    reading: Reading, model: Mapping[str, Any], config: Mapping[str, Any], labels: int
) -> Activation:
    """Read the activation of a cross-encoder.

    Args:
        reading: The model folder.
        model: config_sentence_transformers.json.
        config: The transformer's config.json, where versions before 5.4 put it.
        labels: Number of labels; a single one is a sigmoid unless something else is said.

    Raises:
        UntrustedModel: If it is not a class of torch.nn.
    """
    own = section(config, "sentence_transformers")
    stated = model.get("activation_fn")
    if stated is None:
        stated = (
            own["activation_fn"]
            if "activation_fn" in own
            else config.get("sbert_ce_default_activation_function")
        )
    if stated is not None:
        return read_activation(reading, stated)
    return Activation.SIGMOID if labels == 1 else Activation.IDENTITY
