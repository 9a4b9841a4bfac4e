"""Static checks of a model folder's files, before any parser of an engine sees them.

Standard library only: no engine, no model library, no native parser. What breaks a rule is an error that names the file and
the rule; nothing that a file names is opened to find that out.
"""

from __future__ import annotations

from stopt.preflight.code import NamedCode, named_code
from stopt.preflight.config import ATTENTIONS, AUTO_MAP, refuse_code
from stopt.preflight.data_names import data_names
from stopt.preflight.onnx import vet_onnx
from stopt.preflight.openvino import vet_openvino
from stopt.preflight.safetensors import vet_safetensors, vet_shards
from stopt.preflight.tokenizer import vet_parts, vet_tokenizer
from stopt.preflight.verdict import Verdict
from stopt.preflight.whole_folder import Survey, kind_of, survey

__all__ = [
    "ATTENTIONS",
    "AUTO_MAP",
    "NamedCode",
    "Survey",
    "Verdict",
    "data_names",
    "kind_of",
    "named_code",
    "refuse_code",
    "survey",
    "vet_onnx",
    "vet_openvino",
    "vet_parts",
    "vet_safetensors",
    "vet_shards",
    "vet_tokenizer",
]
