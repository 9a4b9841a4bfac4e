"""Who takes part: each library with each kind of file that it has, in the folder that prepare.py fills."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stopt.runtime.devices import describe_machine

TORCH = "sentence-transformers torch"
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")

OV = "openvino/openvino_model.xml"
OV_INT8 = "openvino/openvino_model_qint8_quantized.xml"
ONNX = "onnx/model.onnx"
ONNX_O3 = "onnx/model_O3.onnx"
ONNX_INT8 = "onnx/model_int8_dynamic.onnx"
# what every prepared folder has, and in which place
THEIRS, OURS = "sentence-transformers", "stopt"


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of a table.

    Attributes:
        name: Library, engine and precision.
        loader: Function in loaders.py.
        options: Its arguments.
        packages: What must be installed.
        paths: What must be there.
        inputs: ``texts`` or ``pairs``.
        bfloat16: Whether it needs a processor with bfloat16.
    """

    name: str
    loader: str
    options: dict[str, Any]
    packages: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    inputs: str = "texts"
    bfloat16: bool = field(default=False)

    def missing(self) -> str:
        """Why it cannot take part; empty if it can."""
        for package in self.packages:
            if not find_spec(package):
                return f"{package} is not installed"
        for path in self.paths:
            if not path.exists():
                return f"prepare.py has not made {path.parent.name}/{path.name}"
        if self.bfloat16 and not set(describe_machine().features) & set(BFLOAT16):
            return "this processor has no bfloat16"
        return ""


def dense(work: Path) -> list[Contender]:
    """Every library that turns texts into embeddings."""
    theirs, ours = work / THEIRS, work / OURS
    return [
        *_sentence_transformers(theirs, "sentence_transformers", "texts"),
        *_ctranslate2(work),
        *[
            Contender(
                f"fastembed {precision}",
                "fastembed",
                {"folder": str(work / f"fastembed-{precision}"), "dimension": dimension(theirs)},
                ("fastembed",),
                (work / f"fastembed-{precision}",),
            )
            for precision in ("float32", "int8")
        ],
        *_stopt(ours, theirs, "stopt", "texts"),
    ]


def in_pools(work: Path, workers: int) -> list[Contender]:
    """sentence-transformers' torch and ours, each in one process and in a pool."""
    found = []
    for each in dense(work):
        if each.name != TORCH and not each.name.startswith("stopt "):
            continue
        found.append(each)
        sizes = {f", pool of {workers}": ["cpu"] * workers}
        if each.name == TORCH:
            sizes[", its default pool"] = []
        for suffix, devices in sizes.items():
            found.append(replace(each, name=each.name + suffix, options={**each.options, "devices": devices}))
    return found


def cross_encoders(work: Path) -> list[Contender]:
    """Cross-encoders: sentence-transformers' and ours."""
    return [
        *_sentence_transformers(work / THEIRS, "sentence_transformers_cross_encoder", "pairs"),
        *_stopt(work / OURS, work / THEIRS, "stopt_cross_encoder", "pairs"),
    ]


def sparse_encoders(work: Path) -> list[Contender]:
    """SPLADE models: sentence-transformers' and ours."""
    return [
        *_sentence_transformers(work / THEIRS, "sentence_transformers_sparse_encoder", "texts"),
        *_stopt(work / OURS, work / THEIRS, "stopt_sparse_encoder", "texts"),
    ]


def _sentence_transformers(folder: Path, loader: str, inputs: str) -> Iterator[Contender]:
    for name, backend, options, file, package in (
        ("torch", "torch", {}, "config.json", "torch"),
        ("torch bf16", "torch", {"torch_dtype": "bfloat16"}, "config.json", "torch"),
        ("onnx", "onnx", {"file_name": ONNX}, ONNX, "optimum.onnxruntime"),
        ("onnx O3", "onnx", {"file_name": ONNX_O3}, ONNX_O3, "optimum.onnxruntime"),
        ("onnx int8", "onnx", {"file_name": ONNX_INT8}, ONNX_INT8, "optimum.onnxruntime"),
        ("openvino", "openvino", {"file_name": OV}, OV, "optimum.intel"),
        (
            "openvino f32",
            "openvino",
            {"file_name": OV, "ov_config": {"INFERENCE_PRECISION_HINT": "f32"}},
            OV,
            "optimum.intel",
        ),
        ("openvino int8", "openvino", {"file_name": OV_INT8}, OV_INT8, "optimum.intel"),
    ):
        yield Contender(
            f"sentence-transformers {name}",
            loader,
            {"folder": str(folder), "init": {"backend": backend, "model_kwargs": options}},
            ("sentence_transformers", package.partition(".")[0]),
            (folder / file,),
            inputs,
            name == "torch bf16",
        )


def _stopt(ours: Path, theirs: Path, loader: str, inputs: str) -> Iterator[Contender]:
    for name, folder, backend, options, file, package in (
        ("torch", ours, "torch", {"dtype": "float32"}, "config.json", "torch"),
        ("torch bf16", ours, "torch", {"dtype": "bfloat16"}, "config.json", "torch"),
        ("onnx", ours, "onnx", {"file_name": ONNX}, ONNX, "onnxruntime"),
        # the very file that sentence-transformers made
        ("onnx int8", theirs, "onnx", {"file_name": ONNX_INT8}, ONNX_INT8, "onnxruntime"),
        ("openvino f32", ours, "openvino", {"file_name": OV, "dtype": "float32"}, OV, "openvino"),
        ("openvino bf16", ours, "openvino", {"file_name": OV, "dtype": "bfloat16"}, OV, "openvino"),
        ("openvino int8", ours, "openvino", {"file_name": OV_INT8}, OV_INT8, "openvino"),
        # what is not int8 in bfloat16, as it is in sentence-transformers' row
        (
            "openvino int8 bf16",
            ours,
            "openvino",
            {"file_name": OV_INT8, "dtype": "bfloat16"},
            OV_INT8,
            "openvino",
        ),
    ):
        given: dict[str, Any] = {"folder": str(folder), "init": {"backend": backend, "model_kwargs": options}}
        if loader == "stopt":
            given["encode"] = {}
        yield Contender(
            f"stopt {name}", loader, given, (package,), (folder / file,), inputs, name.endswith("bf16")
        )


def _ctranslate2(work: Path) -> Iterator[Contender]:
    tokenizer = work / THEIRS / "tokenizer.json"
    # it has no batch size of its own for encoders: sentence-transformers' 32, and what suits its int8 better
    for name, precision, batch_size in (
        ("float32", "float32", 32),
        ("int8", "int8", 32),
        ("int8, batches of 8", "int8", 8),
    ):
        folder = work / f"ctranslate2-{precision}"
        options = {
            "folder": str(folder),
            "tokenizer": str(tokenizer),
            "compute_type": precision,
            "max_length": max_length(work / THEIRS),
            "batch_size": batch_size,
        }
        yield Contender(f"CTranslate2 {name}", "ctranslate2", options, ("ctranslate2",), (folder, tokenizer))


def bare_engines(work: Path) -> list[Contender]:
    """The engines alone, on the files that stopt serves."""
    ours, theirs = work / OURS, work / THEIRS
    tokenizer = ours / "tokenizer.json"
    return [
        Contender(
            f"bare {name}",
            "bare",
            {"file": str(file), "tokenizer": str(tokenizer), "precision": precision},
            (package,),
            (file, tokenizer),
            bfloat16=precision == "bf16",
        )
        for name, file, precision, package in (
            ("onnx", ours / ONNX, None, "onnxruntime"),
            ("onnx int8", theirs / ONNX_INT8, None, "onnxruntime"),
            ("openvino f32", ours / OV, "f32", "openvino"),
            ("openvino bf16", ours / OV, "bf16", "openvino"),
            ("openvino int8", ours / OV_INT8, "f32", "openvino"),
            ("openvino int8 bf16", ours / OV_INT8, "bf16", "openvino"),
        )
    ]


def ceiling(work: Path) -> Contender:
    """The int8 products of a model's width, for how much of the machine a pipeline uses."""
    config = read_config(work / OURS)
    options = {"rows": 1024, "hidden": config["hidden_size"], "intermediate": config["intermediate_size"]}
    return Contender("int8 products", "products", options, ("openvino",))


def choose(contenders: Sequence[Contender], only: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """Those that can take part, and why the others cannot.

    Args:
        contenders: All there are.
        only: Names, or how names begin, to leave the others out; none takes all.

    Raises:
        SystemExit: If nobody has such a name.
    """
    names = [each.name for each in contenders]
    wanted: set[str] = set()
    for name in only:
        found = [name] if name in names else [each for each in names if each.startswith(name)]
        if not found:
            raise SystemExit(f"nobody is called {name!r}; there are: {', '.join(names)}")
        wanted.update(found)
    named = [each for each in contenders if not only or each.name in wanted]
    reasons = {each.name: each.missing() for each in named}
    return [each for each in named if not reasons[each.name]], {
        name: why for name, why in reasons.items() if why
    }


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def dimension(folder: Path) -> int:
    return int(read_config(folder)["hidden_size"]) if (folder / "config.json").is_file() else 0


def max_length(folder: Path) -> int:
    """Tokens of a text at most: sentence-transformers' setting, else the model's positions."""
    settings = folder / "sentence_bert_config.json"
    if settings.is_file():
        limit = json.loads(settings.read_text(encoding="utf-8")).get("max_seq_length")
        if limit:
            return int(limit)
    return (
        int(read_config(folder).get("max_position_embeddings", 512))
        if (folder / "config.json").is_file()
        else 512
    )
