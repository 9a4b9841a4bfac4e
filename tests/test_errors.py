"""Errors: what each carries, and the tree that documents them."""

import re

import pytest

from stopt import errors
from stopt.errors import (
    ArtifactError,
    ConversionError,
    CorruptModel,
    ForkError,
    InputError,
    MissingExtra,
    OptionError,
    ParityError,
    PushError,
    ResourceLimitError,
    SourceError,
    SpaceError,
    StoptError,
    UnsupportedModel,
    UntrustedModel,
    VectorError,
    WorkerError,
    suggest,
)

EXIT_CODES = {
    StoptError: 1,
    SourceError: 1,
    UnsupportedModel: 1,
    OptionError: 1,
    InputError: 1,
    ArtifactError: 1,
    ConversionError: 1,
    PushError: 1,
    MissingExtra: 1,
    WorkerError: 1,
    ForkError: 1,
    VectorError: 1,
    ParityError: 3,
    SpaceError: 3,
    UntrustedModel: 4,
    CorruptModel: 4,
    ResourceLimitError: 4,
}


def subclasses(of: type) -> set[type]:
    found = set(of.__subclasses__())
    return found.union(*map(subclasses, found))


def test_every_class_has_its_exit_code() -> None:
    ours = {each for each in subclasses(StoptError) | {StoptError} if each.__module__ == "stopt.errors"}
    assert {each: each.exit_code for each in ours} == EXIT_CODES


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^ +(?:[├└]── )?(\w+)  +(?:exit (\d))?", errors.__doc__ or "", re.MULTILINE)
    assert {name: int(code or 1) for name, code in drawn} == {
        each.__name__: code for each, code in EXIT_CODES.items()
    }


@pytest.mark.parametrize(
    "error", [each for each in EXIT_CODES if each not in (UnsupportedModel, MissingExtra, ParityError)]
)
def test_the_hint_is_part_of_the_text(error) -> None:
    assert str(error("it broke", "mend it")) == "it broke (mend it)"
    own = "" if error is not CorruptModel else f" ({CorruptModel('').hint})"
    assert str(error("it broke")) == f"it broke{own}"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (OptionError("x"), ValueError),
        (InputError("x"), ValueError),
        (MissingExtra("torch", "torch"), ImportError),
    ],
)
def test_errors_are_caught_as_what_callers_expect(error, builtin) -> None:
    assert isinstance(error, StoptError)
    assert isinstance(error, builtin)


def test_one_reason_stands_in_the_line_and_several_in_a_list() -> None:
    one = UnsupportedModel("the model", ["it is sparse"], "use another")
    several = UnsupportedModel("the model", ["it is sparse", "it runs code"])
    assert str(one) == "the model is not supported: it is sparse (use another)"
    assert several.message == "the model is not supported: \n  - it is sparse\n  - it runs code"
    assert several.hint.startswith("stopt runs Transformer")  # where there is nothing more precise to say
    assert several.reasons == ("it is sparse", "it runs code")


def test_data_comes_as_attributes() -> None:
    assert InputError("x", index=3).index == 3
    assert InputError("x").index is None
    missing = MissingExtra("onnxruntime", "onnx")
    assert (missing.package, missing.extra, missing.hint) == (
        "onnxruntime",
        "onnx",
        "pip install 'stopt[onnx]'",
    )
    report = object()
    assert ParityError("off", "", report).report is report


@pytest.mark.parametrize(
    ("word", "expected"),
    [("onxx", "did you mean 'onnx'?"), ("tensorrt", "known: onnx, torch"), ("", "known: onnx, torch")],
)
def test_suggest_names_the_closest_or_all(word, expected) -> None:
    assert suggest(word, ["torch", "onnx"]) == expected


def test_suggest_is_not_thrown_by_what_is_no_known_word() -> None:
    assert suggest("anything", []) == "known: "
