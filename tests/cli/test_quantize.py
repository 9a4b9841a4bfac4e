"""``stopt quantize`` as a command: its flags, what it prints, what it refuses."""

import json
import shutil

import pytest

DYNAMIC = {
    "arm64": "onnx/model_qint8_arm64.onnx",
    "avx2": "onnx/model_quint8_avx2.onnx",
    "avx512": "onnx/model_qint8_avx512.onnx",
    "avx512_vnni": "onnx/model_qint8_avx512_vnni.onnx",
}


@pytest.fixture
def model(served, tmp_path):
    """A tiny model with both plain files, to be changed at will."""
    return shutil.copytree(served, tmp_path / "model")


def options_of(model, file):
    return json.loads((model / "stopt.json").read_text("utf-8"))["files"][file]["options"]


# ---- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", DYNAMIC)
@pytest.mark.parametrize("spelling", ["--{}", "--target={}"])
def test_every_target_has_a_flag(run, model, few, target, spelling) -> None:
    result = run("quantize", model, spelling.format(target), "--check-texts", few, "-q")
    assert (result.exit_code, result.stdout) == (0, f"{model / DYNAMIC[target]}\n")


def test_the_processor_here_is_found_and_named(run, model, few) -> None:
    result = run("quantize", model, "--target", "auto", "--check-texts", few)
    assert result.exit_code == 0
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("target auto is "))
    target = line.split()[3]
    assert (model / DYNAMIC[target]).is_file()
    assert f"target={target}" in result.stderr


@pytest.mark.parametrize(
    ("args", "file"),
    [
        (["--static", "--num-samples", "16"], "onnx/model_qint8_quantized.onnx"),
        (
            ["--static", "--backend", "openvino", "--num-samples", "16"],
            "openvino/openvino_model_qint8_quantized.xml",
        ),
        (["--weight-format", "int8"], "openvino/openvino_model_int8.xml"),
        (["--weight-format", "fp16", "--backend", "openvino"], "openvino/openvino_model_fp16.xml"),
        (["--weight-format", "fp16", "--backend", "onnx"], "onnx/model_fp16.onnx"),
    ],
)
def test_the_other_kinds(run, model, few, args, file) -> None:
    result = run("quantize", model, *args, "--check-texts", few)
    assert result.exit_code == 0
    assert str(model / file) in result.stdout
    # only dynamic int8 has something to say about batches
    assert "depend" not in result.stdout
    assert ("calibrating with 16 texts (texts that ship with stopt)" in result.stderr) == ("--static" in args)


def test_dynamic_int8_says_that_vectors_depend_on_the_batch(run, model) -> None:
    result = run("quantize", model, "--avx512_vnni")
    assert result.exit_code == 0
    assert "onnx/model_qint8_avx512_vnni.onnx: vectors depend on the batch they are in" in result.stdout
    assert "static int8 has no such effect" in result.stdout


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--per-channel", True),
        ("--per_channel", True),
        ("--no-per-channel", False),
        ("--no-per_channel", False),
    ],
)
def test_both_spellings_of_per_channel(run, model, few, flag, value) -> None:
    result = run("quantize", model, "--avx2", flag, "--check-texts", few)
    assert result.exit_code == 0
    assert f"per_channel={value}" in result.stderr
    assert options_of(model, DYNAMIC["avx2"])["per_channel"] is value


def test_effective_values_are_printed_and_recorded(run, model, few) -> None:
    args = ["--reduce-range", "--op-types-to-exclude", "Gather", "--op-types-to-exclude", "Attention"]
    result = run("quantize", model, "--avx512", *args, "--check-texts", few)
    assert result.exit_code == 0
    assert "target=avx512, source_file=onnx/model.onnx, per_channel=True, reduce_range=True" in result.stderr
    options = options_of(model, DYNAMIC["avx512"])
    assert (options["reduce_range"], options["op_types_to_exclude"]) == (True, ["Gather", "Attention"])


def test_own_calibration_texts(run, model, few, tmp_path) -> None:
    file = tmp_path / "queries.csv"
    file.write_text("id,query\n" + "".join(f"{i},query number {i}\n" for i in range(30)), encoding="utf-8")
    args = ["--static", "--texts", file, "--column", "query", "--num-samples", 20, "--seed", 1]
    result = run("quantize", model, *args, "--check-texts", few)
    assert result.exit_code == 0
    assert "calibrating with 20 texts (queries.csv)" in result.stderr
    options = options_of(model, "onnx/model_qint8_quantized.onnx")
    assert (
        f"reduce_range={options['reduce_range']}," in result.stderr
    )  # what was decided, not that it was left open
    found = options["calibration"]
    assert (found["source"], found["samples"]) == ("queries.csv", 20)


def test_an_optimised_file_to_start_from(run, model, few) -> None:
    assert run("optimize", model, "-O3", "--check-texts", few).exit_code == 0
    result = run("quantize", model, "--avx2", "--from", "onnx/model_O3.onnx", "--check-texts", few, "-q")
    assert result.stdout == f"{model / 'onnx/model_O3_quint8_avx2.onnx'}\n"


def test_json_has_the_figures(run, model, few, one_document) -> None:
    result = run("quantize", model, "--avx2", "--check-texts", few, "--format", "json")
    (made,) = one_document(result)["result"]
    assert made["file"] == DYNAMIC["avx2"]
    assert {"min_cosine", "rank_overlap", "batch_cosine"} <= set(made["parity"])


def test_the_source_is_left_alone(run, model, few) -> None:
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert run("quantize", model, "--static", "--num-samples", 16, "--check-texts", few).exit_code == 0
    assert {path for path, content in before.items() if path.read_bytes() != content} == {
        model / "stopt.json"
    }


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (
            [],
            "one of target, static and weight_format; given: none of them",
            "static = int8 with calibration",
        ),
        (
            ["--static", "--avx2"],
            "one of target, static and weight_format; given: static and target",
            "target = ",
        ),
        (
            ["--static", "--weight-format", "fp16"],
            "given: static and weight_format",
            "weight_format = smaller",
        ),
        (["--avx2", "--arm64"], "several targets: arm64, avx2", "a file is made for one kind of processor"),
        (["--avx2", "--target", "avx512"], "several targets: avx2, avx512", "one kind of processor"),
        (["--avx2", "--backend", "openvino"], "dynamic int8 is for ONNX", "use static"),
        (["--avx2", "--texts", "a.txt"], "dynamic quantisation has no option 'texts'", "known: "),
        (["--static", "--preset", "mixed"], "static quantisation for ONNX has no option 'preset'", "known: "),
        (
            ["--static", "--backend", "openvino", "--method", "minmax"],
            "static quantisation for OpenVINO has no option 'method'",
            "known: ",
        ),
        (
            ["--weight-format", "int8", "--backend", "onnx"],
            "weights of ONNX files can be stored as fp16 only",
            "use --static or a --target",
        ),
        (["--static", "--num-samples", "4"], "4 calibration texts are too few", "use 16 at least"),
        (
            ["--static", "--texts", "a.txt", "--dataset", "b"],
            "calibration texts come from a file or from a data set, not from both",
            "leave one of them out",
        ),
        (["--static", "--texts", "nowhere.txt"], "nowhere.txt cannot be read", "name a text file"),
        (["--avx2", "--nodes-to-exclude", "nonsense"], "has no node 'nonsense'", "known: "),
        (
            ["--avx2", "--from", "onnx/modle.onnx"],
            "has no onnx/modle.onnx",
            "did you mean 'onnx/model.onnx'?",
        ),
        (["--avx2", "--from", "openvino/openvino_model.xml"], "is no .onnx file", "such as onnx/model.onnx"),
        (
            ["--static", "--backend", "openvino", "--from", "onnx/model.onnx"],
            "onnx/model.onnx is no .xml file",
            "such as openvino/openvino_model.xml",
        ),
    ],
)
def test_what_is_refused(run, served, args, message, hint) -> None:
    result = run("quantize", served, *args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert hint in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--target", "avx3"], "'avx3' is not one of 'arm64', 'avx2', 'avx512', 'avx512_vnni', 'auto'"),
        (["--avx3"], "No such option"),
        (["--weight-format", "int4"], "'int4' is not one of 'fp16', 'int8'"),
        (["--static", "--percentile", "101"], "101"),
    ],
)
def test_wrong_usage(run, served, args, message) -> None:
    result = run("quantize", served, *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_that_is_off_ends_with_3_and_is_not_kept(run, model, few, one_document) -> None:
    args = ["--avx2", "--check-texts", few, "--min-cosine", "0.9999999", "--format", "json"]
    result = run("quantize", model, *args)
    assert result.exit_code == 3
    error = one_document(result)["error"]
    assert error["type"] == "ParityError"
    assert "smallest cosine" in error["message"]
    assert error["hint"]
    assert not (model / DYNAMIC["avx2"]).exists()
    assert not list(model.glob(".*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt has 0 texts to calibrate with"),
        ("one.txt", b"one line\n", "one.txt has 1 texts to calibrate with"),
        ("a.csv", b"id,body\n1,b\n", "has no column 'text'; it has id, body"),
        ("a.parquet", b"PAR1 no more", "a.parquet cannot be read as Parquet"),
        ("latin.txt", b"Gr\xfc\xdfe\n", "latin.txt is not UTF-8 text"),
    ],
)
def test_calibration_texts_that_are_not_usable(run, model, tmp_path, few, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    before = {path.name for path in model.rglob("*")}
    result = run("quantize", model, "--static", "--texts", tmp_path / name, "--check-texts", few)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Hint: ")
    assert {path.name for path in model.rglob("*")} == before
