"""Recipes: every option arrives as its type, every mistake is named with its line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stopt.convert.run import plan
from stopt.errors import OptionError, SourceError
from stopt.recipe import Recipe, read_recipe, step_options
from stopt.spec import Backend
from stopt.steps import (
    CalibrationMethod,
    CalibrationOptions,
    DynamicOptions,
    ExportOptions,
    Level,
    OptimizeOptions,
    Preset,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    Target,
    WeightFormat,
    WeightOptions,
)

SHIPPED = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
SOURCE = '[source]\nrepo = "organisation/name"\n'
EXPORT = '[[step]]\nkind = "export"\n'


def read(folder: Path, text: str) -> Recipe:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return read_recipe(file)


def only_step(folder: Path, text: str) -> Any:
    (step,) = read(folder, f"{SOURCE}[[step]]\n{text}").steps
    return step


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_source_and_steps(tmp_path) -> None:
    text = SOURCE + 'revision = "v1"\n' + EXPORT + '[[step]]\nkind = "optimize"\nlevel = "O2"\n'
    recipe = read(tmp_path, text)
    assert (recipe.name, recipe.model, recipe.revision) == ("mine", "organisation/name", "v1")
    assert recipe.steps == (
        ExportOptions(revision="v1"),
        OptimizeOptions(Level.O2, revision="v1"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('kind = "export"', ExportOptions()),
        ('kind = "export"\nbackend = "openvino"', ExportOptions((Backend.OPENVINO,))),
        (
            'kind = "export"\nbackend = ["onnx", "openvino"]',
            ExportOptions((Backend.ONNX, Backend.OPENVINO)),
        ),
        ('kind = "optimize"\nlevel = "O1"', OptimizeOptions(Level.O1)),
        ('kind = "optimize"\nfrom = "onnx/b.onnx"', OptimizeOptions(source_file="onnx/b.onnx")),
        ('kind = "quantize"\ntarget = "arm64"', DynamicOptions(Target.ARM64)),
        (
            'kind = "quantize"\ntarget = "avx2"\nfrom = "onnx/b.onnx"\nper_channel = false\nreduce_range = true\n'
            'nodes_to_exclude = ["a", "b"]\nop_types_to_exclude = ["Gather"]',
            DynamicOptions(Target.AVX2, "onnx/b.onnx", False, True, ("a", "b"), ("Gather",)),
        ),
        ('kind = "quantize"\ntarget = "avx512"\nbackend = "onnx"', DynamicOptions(Target.AVX512)),
        ('kind = "quantize"\nstatic = true', StaticOnnxOptions()),
        (
            'kind = "quantize"\nstatic = true\nbackend = "onnx"\nmethod = "percentile"\npercentile = 99\n'
            "smooth_quant_alpha = 0.5\nper_channel = false\nnum_samples = 20\nseed = 7",
            StaticOnnxOptions(
                calibration=CalibrationOptions(num_samples=20, seed=7),
                method=CalibrationMethod.PERCENTILE,
                percentile=99.0,
                smooth_quant_alpha=0.5,
                per_channel=False,
            ),
        ),
        (
            'kind = "quantize"\nstatic = true\nbackend = "openvino"\npreset = "performance"\nsmooth_quant_alpha = 1\n'
            'ignored_scope = ["a"]\ndataset = "glue"\ndataset_config = "sst2"\nsplit = "test"\ncolumn = "sentence"',
            StaticOpenVinoOptions(
                calibration=CalibrationOptions(
                    dataset="glue", dataset_config="sst2", split="test", column="sentence"
                ),
                preset=Preset.PERFORMANCE,
                smooth_quant_alpha=1.0,
                ignored_scope=("a",),
            ),
        ),
        ('kind = "quantize"\nweight_format = "int8"', WeightOptions()),
        (
            'kind = "quantize"\nweight_format = "fp16"\nbackend = "onnx"\nfrom = "onnx/b.onnx"',
            WeightOptions(Backend.ONNX, WeightFormat.FP16, "onnx/b.onnx"),
        ),
        ('kind = "quantize"\nstatic = false\ntarget = "avx2"', DynamicOptions(Target.AVX2)),
    ],
)
def test_every_option_of_a_step(tmp_path, text, expected) -> None:
    step = only_step(tmp_path, text)
    assert step == expected
    assert type(step) is type(expected)


def test_numbers_are_of_the_right_type(tmp_path) -> None:
    step = only_step(tmp_path, 'kind = "quantize"\nstatic = true\npercentile = 99')
    assert isinstance(step.percentile, float)


def test_files_are_beside_the_recipe(tmp_path) -> None:
    (tmp_path / "check.txt").write_text("one text\n\nanother\n", encoding="utf-8")
    text = f'{SOURCE}[[step]]\nkind = "quantize"\nstatic = true\ntexts = "calibration.txt"\n[check]\ntexts = "check.txt"\n'
    (step,) = read(tmp_path, text).steps
    assert step.calibration.texts == tmp_path / "calibration.txt"
    assert step.check_texts == ["one text", "another"]


def test_thresholds_are_every_steps(tmp_path) -> None:
    text = f"{SOURCE}{EXPORT}{EXPORT}[check]\nmin_cosine = 1\nmax_abs = 0.5\n"
    assert read(tmp_path, text).steps == (ExportOptions(min_cosine=1.0, max_abs=0.5),) * 2


def test_what_the_command_line_adds_is_every_steps(tmp_path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SOURCE + EXPORT, encoding="utf-8")
    (step,) = read_recipe(file, output=tmp_path / "out", force=True, token="secret").steps
    assert step == ExportOptions(output=tmp_path / "out", force=True, token="secret")


def test_options_of_the_command_line_are_the_same(tmp_path) -> None:
    values: Mapping[str, Any] = {
        "target": "avx2",
        "from": None,
        "per_channel": False,
        "nodes_to_exclude": ("a",),
        "texts": None,
    }
    options = step_options("quantize", values, {"force": True, "output": tmp_path})
    assert options == DynamicOptions(
        Target.AVX2, per_channel=False, nodes_to_exclude=("a",), force=True, output=tmp_path
    )
    options = step_options("quantize", {"static": True, "texts": tmp_path / "a.csv", "column": "b"}, {})
    assert options == StaticOnnxOptions(calibration=CalibrationOptions(texts=tmp_path / "a.csv", column="b"))
    with pytest.raises(OptionError, match=r"^static quantisation for ONNX has no option 'preset'"):
        step_options("quantize", {"static": True, "preset": "mixed"}, {})


# ---- the recipes of the repository ----------------------------------------------------------------------------------


def test_there_are_recipes() -> None:
    assert len(SHIPPED) >= 3


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_recipe_can_be_planned(file) -> None:
    recipe = read_recipe(file)
    products = plan(recipe.steps)
    made: set[str] = set()
    for product in products:
        assert set(product.needs) <= made, "a recipe is complete: it starts from the original weights"
        made.add(product.name)
    assert len(made) == len(products)
    assert f"{recipe.model.rpartition('/')[2]}-" in file.name


# ---- mistakes -------------------------------------------------------------------------------------------------------

KINDS = "known: export, optimize, quantize"
ONE_OF = "a quantisation is one of target, static and weight_format; given: "


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("[sourse]\n", 1, "a recipe has no option 'sourse'", "did you mean 'source'?"),
        (EXPORT, None, "[source] needs repo, a Hub id or a folder", 'repo = "organisation/name"'),
        ("[source]\n" + EXPORT, 1, "[source] needs repo, a Hub id or a folder", 'repo = "organisation/name"'),
        ('[source]\nrepos = "a"\n', 2, "[source] has no option 'repos'", "did you mean 'repo'?"),
        ("[source]\nrepo = 4\n", 2, "repo is 4, expected str", ""),
        (SOURCE + "revision = 4\n" + EXPORT, 3, "revision is 4, expected str", ""),
        ("source = 4\n" + EXPORT, None, "[source] is not a table", ""),
        (SOURCE, None, "a recipe needs at least one table [[step]]", 'kind = "export"'),
        (SOURCE + '[step]\nkind = "export"\n', 3, "a recipe needs at least one table [[step]]", "kind = "),
        ('step = ["export"]\n' + SOURCE, 1, "a recipe needs at least one table [[step]]", "kind = "),
        (SOURCE + "[[step]]\n", 3, "the step has no kind", KINDS),
        (
            SOURCE + '[[step]]\nkind = "exprot"\n',
            4,
            "step kind 'exprot' is unknown",
            "did you mean 'export'?",
        ),
        (SOURCE + EXPORT + "per_channel = true\n", 5, "export has no option 'per_channel'", "known: backend"),
        (SOURCE + EXPORT + '"odd key" = true\n', 5, "export has no option 'odd key'", "known: backend"),
        (
            SOURCE + EXPORT + 'backend = "tensorrt"\n',
            5,
            "backend 'tensorrt' is unknown",
            "known: onnx, openvino, torch",
        ),
        (SOURCE + EXPORT + "backend = 4\n", 5, "backend is 4, expected a list", 'backend = ["..."]'),
        (
            SOURCE + EXPORT + 'backend = "torch"\n',
            3,
            "a model is exported to onnx, openvino or both",
            "torch",
        ),
        (SOURCE + EXPORT + "backend = []\n", 3, "a model is exported to onnx, openvino or both", "torch"),
        (
            SOURCE + EXPORT + '[check]\nmin_cosine = "high"\n',
            6,
            "min_cosine is 'high', expected float",
            "",
        ),
        (SOURCE + EXPORT + "[check]\nmin_cosine = 95\n", 6, "min_cosine is 95, expected -1 to 1", ""),
        (SOURCE + EXPORT + "[check]\nmax_abs = -1\n", 6, "max_abs is -1, expected 0 or more", ""),
        (SOURCE + EXPORT + "[check]\nmax_abs = nan\n", 6, "max_abs is nan, expected 0 or more", ""),
        (SOURCE + EXPORT + "[check]\ntexts = 4\n", 6, "texts is 4, expected str", ""),
        (SOURCE + EXPORT + "[check]\nmin_cosin = 1\n", 6, "[check] has no option 'min_cosin'", "min_cosine"),
        (SOURCE + EXPORT + "[check]\nmin_cosine = true\n", 6, "min_cosine is True, expected float", ""),
    ],
)
def test_mistake_is_named_with_its_line(tmp_path, text, line, message, hint) -> None:
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    place = f"{tmp_path / 'mine.toml'}{f', line {line}' if line else ''}"
    assert caught.value.message == f"{place}: {message}"
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("", 4, ONE_OF + "none of them", "target = dynamic int8"),
        (
            'target = "avx2"\nstatic = true\n',
            5,
            ONE_OF + "static and target",
            "static = int8 with calibration",
        ),
        ('weight_format = "int8"\nstatic = true\n', 5, ONE_OF + "static and weight_format", "smaller file"),
        ('static = "yes"\n', 5, "static is 'yes', expected bool", ""),
        ("static = true\nforce = true\n", 6, "quantisation has no option 'force'", "known: backend, column"),
        ("static = true\ncalibration = 4\n", 6, "quantisation has no option 'calibration'", "known: backend"),
        ('target = "avx3"\n', 5, "target 'avx3' is unknown", "did you mean 'avx2'?"),
        ('target = ["avx2"]\n', 5, "target ['avx2'] is unknown", "avx2"),
        (
            'target = "avx2"\nper_chanel = true\n',
            6,
            "quantisation has no option 'per_chanel'",
            "'per_channel'?",
        ),
        ('target = "avx2"\nper_channel = 1\n', 6, "per_channel is 1, expected bool", ""),
        (
            'target = "avx2"\nnodes_to_exclude = "a"\n',
            6,
            "nodes_to_exclude is 'a', expected a list",
            '["..."]',
        ),
        ('target = "avx2"\nnodes_to_exclude = [4]\n', 6, "nodes_to_exclude is 4, expected str", ""),
        (
            'target = "avx2"\nnum_samples = 20\n',
            6,
            "dynamic quantisation has no option 'num_samples'",
            "target",
        ),
        (
            'target = "avx2"\nbackend = "openvino"\n',
            5,
            "dynamic int8 is for ONNX; OpenVINO has static int8 and weight_format",
            "use static",
        ),
        (
            'static = true\nbackend = "torch"\n',
            6,
            "backend 'torch' cannot be quantised for",
            "onnx or openvino",
        ),
        ('static = true\nbackend = ["onnx"]\n', 6, "backend ['onnx'] cannot be quantised for", "onnx or"),
        (
            'static = true\nmethod = "mean"\n',
            6,
            "method 'mean' is unknown",
            "known: entropy, minmax, percentile",
        ),
        ("static = true\nseed = 1.5\n", 6, "seed is 1.5, expected int", ""),
        ("static = true\nnum_samples = true\n", 6, "num_samples is True, expected int", ""),
        ("static = true\nfrom = 4\n", 6, "from is 4, expected str", ""),
        (
            'static = true\npreset = "mixed"\n',
            6,
            "static quantisation for ONNX has no option 'preset'",
            "known",
        ),
        (
            'static = true\nbackend = "openvino"\nmethod = "minmax"\n',
            7,
            "static quantisation for OpenVINO has no option 'method'",
            "ignored_scope",
        ),
        ("static = true\nnum_samples = 3\n", 3, "3 calibration texts are too few", "use 16 at least"),
        (
            'static = true\ntexts = "a"\ndataset = "b"\n',
            3,
            "calibration texts come from a file or from a data set, not from both",
            "leave one of them out",
        ),
        (
            'weight_format = "int8"\nbackend = "onnx"\n',
            3,
            "weights of ONNX files can be stored as fp16 only",
            "--static",
        ),
        ('weight_format = "int4"\n', 5, "weight_format 'int4' is unknown", "did you mean 'int8'?"),
    ],
)
def test_mistake_in_a_quantisation(tmp_path, text, line, message, hint) -> None:
    with pytest.raises(OptionError) as caught:
        only_step(tmp_path, f'kind = "quantize"\n{text}')
    assert caught.value.message == f"{tmp_path / 'mine.toml'}, line {line}: {message}"
    assert hint in caught.value.hint


def test_line_is_that_of_the_step_at_fault(tmp_path) -> None:
    good = '[[step]]\nkind = "optimize"  # level = "O9"\nlevel = "O1"\n\n'
    with pytest.raises(OptionError, match=r"mine\.toml, line 13: level 'O5' is unknown"):
        read(tmp_path, SOURCE + good + good + ' [[ step ]]\nkind = "optimize"\n  level = "O5"\n' + good)


def test_line_of_a_key_that_another_table_has_too(tmp_path) -> None:
    step = '[[step]]\nkind = "quantize"\nstatic = true\ntexts = "a.txt"\n'
    with pytest.raises(OptionError, match=r"mine\.toml, line 8: texts is 4, expected str"):
        read(tmp_path, SOURCE + step + "[check]\ntexts = 4\n")


def test_what_is_no_toml(tmp_path) -> None:
    with pytest.raises(OptionError, match=r"mine\.toml is not TOML: .*at line 4, column") as caught:
        read(tmp_path, SOURCE + '[[step]]\nkind = "export\n')
    assert caught.value.hint
    (tmp_path / "latin.toml").write_bytes("# Grüße\n".encode("latin-1"))
    with pytest.raises(OptionError, match=r"latin\.toml is not TOML: .*utf-8"):
        read_recipe(tmp_path / "latin.toml")


def test_recipe_that_is_not_there(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.toml cannot be read: No such file") as caught:
        read_recipe(tmp_path / "nowhere.toml")
    assert caught.value.hint == "name a recipe: a TOML file"
    with pytest.raises(SourceError, match="cannot be read: Is a directory"):
        read_recipe(tmp_path)


def test_texts_to_check_with_that_are_not_there(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.txt cannot be read"):
        read(tmp_path, SOURCE + EXPORT + '[check]\ntexts = "nowhere.txt"\n')
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"mine\.toml, line 6: .*empty\.txt has no text in it") as caught:
        read(tmp_path, SOURCE + EXPORT + '[check]\ntexts = "empty.txt"\n')
    assert caught.value.hint == "one text per line"
