"""H12 to H14: malformed safetensors, JSON that is not what it should be, and tokenizers that take for ever."""

import copy
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from victim import CONFIG, MODULES, POOLING, TOKENIZER, WIDTH, WORDS, table, write_json
from watched import Report, watch

from stopt.errors import CorruptModel, ResourceLimitError
from stopt.folder import MAX_JSON_BYTES
from stopt.preflight import vet_parts, vet_safetensors, vet_tokenizer
from stopt.preflight.patterns import _COMMON, is_common, why_unbounded

# ---- H12: safetensors -----------------------------------------------------------------------------------------------

GOOD = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}


def _file(header: Any, data: int = 32) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


SAFETENSORS: dict[str, bytes] = {
    "header of 2^63": struct.pack("<Q", 2**63) + bytes(100),
    "header over 100 MB": struct.pack("<Q", 100_000_001) + bytes(100),
    "header past the end": struct.pack("<Q", 5000) + b"{}",
    "overlap": _file({"linear.weight": GOOD, "b": {**GOOD, "data_offsets": [16, 48]}}, 48),
    "the same bytes twice": _file({"linear.weight": GOOD, "b": GOOD}),
    "hole": _file({"linear.weight": {**GOOD, "data_offsets": [8, 40]}}, 40),
    "bytes of nobody": _file({"linear.weight": GOOD}, 40),
    "a key twice": _file(b'{"a": %s, "a": %s}' % ((json.dumps(GOOD).encode(),) * 2)),
    "2^40 booleans": _file({"linear.weight": {"dtype": "BOOL", "shape": [2**40], "data_offsets": [0, 32]}}),
    "a shape that overflows": _file({"linear.weight": {**GOOD, "shape": [2**32, 2**32]}}),
    "end before start": _file({"linear.weight": {**GOOD, "data_offsets": [32, 0]}}),
    "an unknown type": _file({"linear.weight": {**GOOD, "dtype": "F33"}}),
    "a number of floats": _file({"linear.weight": {**GOOD, "shape": [2.0, 4]}}),
    "true as a number": _file({"linear.weight": {**GOOD, "shape": [True, 8]}}),
    "a list": _file([1]),
    "a deep header": _file(b"[" * 100_000),
    "metadata of objects": _file({"__metadata__": {"a": {}}, "linear.weight": GOOD}),
    "empty": b"",
    "7 bytes": bytes(7),
    "a pickle": b"\x80\x04\x95" + bytes(100),
}

# ---- H13: JSON ------------------------------------------------------------------------------------------------------

FILES: dict[str, Any] = {
    "modules.json": MODULES,
    "config.json": CONFIG,
    "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "q: "},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
        "truncate_dim": None,
        "__version__": {"sentence_transformers": "5.0"},
    },
    "tokenizer_config.json": {
        "model_max_length": 32,
        "padding_side": "right",
        "pad_token": "[PAD]",
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_input_names": ["input_ids"],
    },
    "1_Pooling/config.json": POOLING,
}
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut short": b'{"a": [1, 2',
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "a key twice": b'{"prompts": {}, "prompts": {}}',
    "NaN": b'{"hidden_size": NaN}',
    "infinity": b"[-Infinity]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "many lists": b"lists 2100000",
    "too large": b"size %d" % (MAX_JSON_BYTES + 1),
    "the other kind": b"",  # filled in per file
}
VALUES: list[Any] = [None, True, -1, 0, 10**12, 2**70, 1.5, "1", "\0", "../x", [], {}, [[]], {"a": {"b": 1}}]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return value


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (key,)
        yield from ((key, *rest) for rest in _paths(value[key]))


# ---- H14: tokenizers ------------------------------------------------------------------------------------------------


def _split(pattern: str) -> dict[str, Any]:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": part}


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _model(**changes: Any) -> dict[str, Any]:
    return {"model": {**TOKENIZER["model"], **changes}}


_BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "merges": ["a c"], "unk_token": "[UNK]"}
_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 1_000
    + [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
}
TOKENIZERS: dict[str, Any] = {
    "ReDoS": _split("(a+)+b"),
    "ReDoS by alternatives": _split("(?:a|a)*b"),
    "ReDoS by optional parts": _split("(a?){60}b"),
    "backreference": _split("(a*)\\1b"),
    "large count": _split("a{60000}"),
    "counts of counts": _split("((a{1,90}){1,90}){1,90}"),
    "ReDoS when normalising": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""}
    },
    "hidden key": json.dumps({**TOKENIZER, **_split("(a+)+b")}).replace('"Regex"', '"\\u0052egex"'),
    "doubling": {"normalizer": {"type": "Sequence", "normalizers": [_replace("e", "ee")] * 30}},
    "a letter that becomes a book": {"normalizer": _replace("e", "x" * 1_000_000)},
    "a long prefix": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
    "words of any length": _model(
        type="WordPiece", max_input_chars_per_word=10**9, continuing_subword_prefix="##"
    ),
    "ids past the table": _model(vocab={**TOKENIZER["model"]["vocab"], "quick": 5_000}),
    "merges of nothing": {"model": _BPE},
    "many special tokens": {"post_processor": _TEMPLATE},
    "a charsmap that is none": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "no model": {"model": None},
    "an unknown model": _model(type="Evil"),
    "cut short": json.dumps(TOKENIZER)[:-30],
    "a list": "[]",
    "deep": "[" * 100_000,
    "empty": "",
}


@pytest.fixture(scope="module")
def reports(
    harmless: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Path, Report]]:
    root = tmp_path_factory.mktemp("files")
    plain = shutil.copytree(harmless, root / "plain")
    dense = shutil.copytree(harmless, root / "dense")
    write_json(
        dense / "modules.json", [*MODULES, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    )
    write_json(dense / "2_Dense" / "config.json", {"in_features": 4, "out_features": 2, "bias": False})
    actions: dict[tuple[str, str], tuple[Path, str, bytes]] = {}
    for name, content in SAFETENSORS.items():
        actions["safetensors", name] = dense, "2_Dense/model.safetensors", content
    for file, good in FILES.items():
        for name, content in BROKEN.items():
            other = b"{}" if isinstance(good, list) else b"[]"
            actions[file, name] = plain, file, other if name == "the other kind" else content
        for path in _paths(good):
            for value in VALUES:
                changed = json.dumps(_replaced(good, path, value)).encode()
                actions[f"value in {file}", f"{path} {value!r}"] = plain, file, changed
    for name, change in TOKENIZERS.items():
        text = change if isinstance(change, str) else json.dumps({**TOKENIZER, **change})
        actions["tokenizer", name] = plain, "tokenizer.json", text.encode()
    requests = [("changed", [str(f), file, data.decode("latin-1")]) for f, file, data in actions.values()]
    found = watch(requests, harmless)
    return {case: (actions[case][0], report) for case, report in zip(actions, found, strict=True)}


@pytest.mark.scorecard("H12")
@pytest.mark.parametrize("name", SAFETENSORS)
def test_malformed_safetensors_are_corrupt(reports, refused, name) -> None:
    folder, report = reports["safetensors", name]
    refused(report, folder, "CorruptModel", match="is not a safetensors file, or cut short")


@pytest.mark.scorecard("H13")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", BROKEN)
def test_json_that_is_not_what_it_should_be_is_refused(reports, file, name) -> None:
    folder, report = reports[file, name]
    assert report.error in ("CorruptModel", "SourceError"), report
    assert report.code in (1, 4)
    assert report.hint
    assert str(folder) in report.message
    assert len(report.message) < 1500
    assert report.seconds < 3
    assert report.rss < 800_000_000


@pytest.mark.scorecard("H13")
@pytest.mark.parametrize("file", FILES)
def test_values_of_another_kind_are_errors_in_words(reports, file) -> None:
    wrong = {
        name: (report.error, report.message[:200])
        for (kind, name), (_, report) in reports.items()
        if kind == f"value in {file}"
        and (report.error is not None and (report.code is None or not report.hint))
    }
    assert wrong == {}
    found = [report for (kind, _), (_, report) in reports.items() if kind == f"value in {file}"]
    assert max(report.seconds for report in found) < 5
    assert len(found) >= 20


@pytest.mark.scorecard("H14")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_takes_for_ever_is_refused(reports, refused, name) -> None:
    folder, report = reports["tokenizer", name]
    refused(report, folder, "CorruptModel", "ResourceLimitError", seconds=2.0)


@pytest.mark.scorecard("H14")
def test_a_word_of_20_mb_is_cut(harmless: Path) -> None:
    report = watch([("long_word", str(harmless))])[0]
    assert report.error is None, report
    assert report.value[1] == watch([("onnx", str(harmless))])[0].value
    assert report.seconds < 10
    assert report.rss < 800_000_000


@pytest.mark.scorecard("H14")
def test_a_table_without_a_limit_takes_a_text_of_3_mb(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    write_json(
        folder / "modules.json", [{"path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    )
    write_json(folder / "tokenizer.json", TOKENIZER)
    save_file({"embedding.weight": table()}, folder / "model.safetensors")
    report = watch([("table", str(folder))])[0]
    assert report.error is None, report
    assert len(report.value) == WIDTH
    assert report.seconds < 20


# ---- the parts by themselves ----------------------------------------------------------------------------------------


def test_safetensors_without_a_fault_are_let_through(tmp_path: Path) -> None:
    for number, kind in enumerate((np.float64, np.float16, np.int8, np.bool_, np.uint64)):
        file = tmp_path / f"{number}.safetensors"
        save_file({"a": np.zeros((2, 3), kind), "b": np.zeros((), kind), "c": np.zeros((0, 5), kind)}, file)
        assert vet_safetensors(file).file == file


@pytest.mark.parametrize("pattern", sorted(_COMMON))
def test_patterns_in_wide_use_are_bounded(pattern: str) -> None:
    assert is_common(pattern)
    assert why_unbounded(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:\d{3})+",
        r"(?=(?:\d{3})*\b)\d{1,3}",
        r" ?[^(\s|[.,!?…])]+",
        r"[!-/\[\]]+[A-Za-z]++",
        r"[]a]+",
        r"(?i:ab|cd)?e*?",
        r"\x{1F600}+",
    ],
)
def test_patterns_without_a_choice_in_what_they_repeat_are_bounded(pattern: str) -> None:
    assert why_unbounded(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+", "several ways"),
        ("(a|b)*", "several ways"),
        ("((a?)b)*", "several ways"),
        ("(a*){9}", "several ways"),
        ("([a-z]+)*$", "several ways"),
        ("a{101}", "101 times"),
        (r"(a)\1", "does not follow"),
        ("(?<n>a)", "does not follow"),
        (r"\g<1>", "does not follow"),
        ("(?(1)a)", "does not follow"),
        ("(a", "do not match"),
        ("a)", "do not match"),
        ("[a", "do not match"),
        ("*a", "repeats nothing"),
        ("(" * 30 + ")" * 30, "nested more than"),
        ("a" * 2_001, "2,001 characters"),
    ],
)
def test_patterns_that_could_run_for_ever_are_not(pattern: str, why: str) -> None:
    assert why in str(why_unbounded(pattern))


def _written(tmp_path: Path, change: dict[str, Any]) -> Path:
    write_json(tmp_path / "tokenizer.json", {**TOKENIZER, **change})
    return tmp_path / "tokenizer.json"


def test_a_pattern_of_nobody_else_is_tried_first(tmp_path: Path) -> None:
    verdict = vet_tokenizer(_written(tmp_path, _split("[a-f]+|x")))
    assert verdict.doubts == ("it splits texts by the regular expression '[a-f]+|x'",)
    assert vet_tokenizer(_written(tmp_path, _split(r"\s+"))).doubts == ()


def test_a_token_that_looks_like_an_escape_is_none(tmp_path: Path) -> None:
    vocabulary = {**TOKENIZER["model"]["vocab"], "\\u0041": 9, '"Regex"': 10, "\x7f": 11}
    assert vet_tokenizer(_written(tmp_path, _model(vocab=vocabulary))).doubts == ()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_split("(a+)+"), ResourceLimitError, "a regular expression that text can make run for ever"),
        (_model(max_input_chars_per_word=1_001), ResourceLimitError, "looks up words of 1,001 characters"),
    ],
)
def test_refusing_a_tokenizer_says_why(tmp_path: Path, change, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        vet_tokenizer(_written(tmp_path, change))
    assert caught.value.hint == "do not use this model unless you trust its source"


def test_a_tokenizer_over_200_mb_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with file.open("wb") as sparse:
        sparse.truncate(200_000_001)
    with pytest.raises(CorruptModel, match="200,000,001 bytes, too many for a tokenizer"):
        vet_tokenizer(file)


@pytest.mark.parametrize(
    ("part", "grows"),
    [
        (None, False),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, _replace(" ", "▁")]}, False),
        ({"type": "Sequence", "normalizers": [_replace("a", "aa")] * 6}, False),
        ({"type": "Sequence", "normalizers": [_replace("a", "aa")] * 7}, True),
        (
            {
                "type": "Sequence",
                "normalizers": [{"type": "Sequence", "normalizers": [_replace("", "x" * 65)]}],
            },
            True,
        ),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}] * 300}, True),
    ],
)
def test_steps_may_not_make_a_text_much_longer(part: Any, grows: bool) -> None:
    if not grows:
        vet_parts(Path("tokenizer.json"), {"normalizer": part})
        return
    with pytest.raises(ResourceLimitError, match="its normalizer has") as caught:
        vet_parts(Path("tokenizer.json"), {"normalizer": part})
    assert caught.value.hint


def test_the_tokens_of_the_harmless_model_are_known() -> None:
    assert len(WORDS) == CONFIG["vocab_size"]
