"""Make every contender's files of one model, each with its own library's tools.

    python benchmarks/prepare.py MODEL WORK                                   # a SentenceTransformer: minutes
    python benchmarks/prepare.py MODEL WORK --kind cross-encoder
    python benchmarks/prepare.py MODEL WORK --kind sparse

MODEL is a folder. sentence-transformers exports, optimises and quantises with its own functions and their defaults, except
that its static quantisation takes benchmarks/data/calibration.jsonl.gz instead of fetching GLUE; stopt follows its recipes
for all-MiniLM-L6-v2, and its commands' defaults for other models; CTranslate2 converts; fastembed, which only downloads, gets
sentence-transformers' ONNX files. A step that is done is not done again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import ONNX, ONNX_INT8, ONNX_O3, OURS, OV, OV_INT8, THEIRS, max_length
from harness import DATA, ROOT, say

from stopt.runtime.devices import describe_machine

KINDS = {"dense": "SentenceTransformer", "cross-encoder": "CrossEncoder", "sparse": "SparseEncoder"}
RECIPES = ("all-MiniLM-L6-v2-openvino-int8",)
SIDECARS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", type=Path)
    made.add_argument("work", type=Path)
    made.add_argument("--kind", choices=list(KINDS), default="dense")
    made.add_argument("--only", choices=list(STEPS), nargs="*", default=list(STEPS))
    options = made.parse_args(argv)
    for name in (THEIRS, OURS):
        copy = options.work / name
        if not copy.exists():
            shutil.copytree(options.model, copy, ignore=shutil.ignore_patterns("onnx", "openvino"))
            for path in (copy, *copy.rglob("*")):  # the model may be read-only
                path.chmod(path.stat().st_mode | 0o200)
    for name in options.only:
        if options.kind == "dense" or name in (THEIRS, OURS):
            say(f"== {name}")
            STEPS[name](options)


def sentence_transformers(options: argparse.Namespace) -> None:
    import sentence_transformers as library

    folder = options.work / THEIRS
    model_class = getattr(library, KINDS[options.kind])

    def load(backend: str, file: str | None) -> Any:
        kwargs = {"file_name": file} if file else {"export": True}
        return model_class(str(folder), backend=backend, device="cpu", model_kwargs=kwargs)

    def save(backend: str, file: str) -> None:
        # its own save writes the converted file beside copies of all the others
        temporary = options.work / "saving"
        load(backend, None).save_pretrained(str(temporary))
        shutil.copytree(temporary / backend, folder / backend, dirs_exist_ok=True)
        shutil.rmtree(temporary)

    def optimise() -> None:
        library.export_optimized_onnx_model(load("onnx", ONNX), "O3", str(folder))

    def quantise_onnx() -> None:
        suffix = Path(ONNX_INT8).stem.removeprefix("model_")
        library.export_dynamic_quantized_onnx_model(
            load("onnx", ONNX), target(), str(folder), file_suffix=suffix
        )

    def quantise_openvino() -> None:
        data = options.work / "calibration"
        data.mkdir(exist_ok=True)
        with gzip.open(DATA / "calibration.jsonl.gz", "rb") as texts:
            (data / "train.jsonl").write_bytes(texts.read())
        library.export_static_quantized_openvino_model(
            load("openvino", OV), None, str(folder), str(data), "default", "train", "text"
        )

    for file, make in (
        (ONNX, lambda: save("onnx", ONNX)),
        (ONNX_O3, optimise),
        (ONNX_INT8, quantise_onnx),
        (OV, lambda: save("openvino", OV)),
        (OV_INT8, quantise_openvino),
    ):
        _make(folder / file, make)


def target() -> str:
    """The set of instructions that dynamic int8 is made for."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm64"
    return "avx512_vnni" if "avx512_vnni" in describe_machine().features else "avx2"


def stopt(options: argparse.Namespace) -> None:
    folder = options.work / OURS

    def command(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "stopt", *arguments], check=True, cwd=ROOT)

    def quantise() -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # the product that the recipe leaves in float is one of this model's
        is_minilm = options.kind == "dense" and (config["num_hidden_layers"], config["hidden_size"]) == (
            6,
            384,
        )
        if is_minilm:
            from stopt.convert.run import run
            from stopt.recipe import read_recipe

            for name in RECIPES:
                recipe = read_recipe(ROOT / "recipes" / f"{name}.toml", output=folder, force=True)
                run(replace(recipe, model=str(options.model)), say)
        else:
            command("quantize", str(folder), "--static", "--backend", "openvino")

    _make(folder / ONNX, lambda: command("export", str(folder), "--backend", "onnx"))
    _make(folder / OV, lambda: command("export", str(folder), "--backend", "openvino"))
    _make(folder / OV_INT8, quantise)


def ctranslate2(options: argparse.Namespace) -> None:
    from ctranslate2.converters import TransformersConverter

    for precision in ("float32", "int8"):
        folder = options.work / f"ctranslate2-{precision}"
        converter = TransformersConverter(str(options.work / THEIRS))
        quantization = None if precision == "float32" else precision
        _make(folder, lambda: converter.convert(str(folder), quantization=quantization))  # noqa: B023


def fastembed(options: argparse.Namespace) -> None:
    theirs = options.work / THEIRS
    for precision, file in (("float32", ONNX), ("int8", ONNX_INT8)):
        folder = options.work / f"fastembed-{precision}"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(theirs / file, folder / "model.onnx")
        for name in SIDECARS:
            if (theirs / name).is_file():
                shutil.copyfile(theirs / name, folder / name)
        # it cuts where this file says, and is to cut where the others do
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config["model_max_length"] = max_length(theirs)
        config.pop("max_length", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _make(file: Path, make: Callable[[], None]) -> None:
    if file.exists():
        say(f"{file} is there")
        return
    say(f"making {file}")
    make()
    if not file.exists():
        sys.exit(f"{file} was not made")


STEPS: dict[str, Callable[[argparse.Namespace], None]] = {
    THEIRS: sentence_transformers,
    OURS: stopt,
    "ctranslate2": ctranslate2,
    "fastembed": fastembed,
}

if __name__ == "__main__":
    main()
