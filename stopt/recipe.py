"""Recipes: a model's whole conversion as a TOML file, in the words of the commands.

    [source]
    repo = "sentence-transformers/all-MiniLM-L6-v2"

    [[step]]
    kind = "export"
    backend = "openvino"

    [[step]]
    kind = "quantize"
    backend = "openvino"
    static = true

    [check]
    min_cosine = 0.95

A step is its verb's options object; :func:`step_options` builds it for the command line as well.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from stopt.errors import OptionError, SourceError, suggest
from stopt.examples import read_examples
from stopt.overlap import require_apart
from stopt.spec import Backend
from stopt.steps import (
    CalibrationOptions,
    ConversionOptions,
    DynamicOptions,
    ExportOptions,
    OptimizeOptions,
    QuantizeOptions,
    StaticOnnxOptions,
    StaticOpenVinoOptions,
    WeightOptions,
)

__all__ = ["Recipe", "StepOptions", "describe_step", "read_recipe", "step_options"]

StepOptions = ExportOptions | OptimizeOptions | QuantizeOptions

# what recipes and commands call a field, where Python cannot
_SPELLINGS = {"source_file": "from", "backends": "backend"}
_SHARED = {field.name for field in fields(ConversionOptions)}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A conversion.

    Attributes:
        name: Name of the file, without its ending.
        model: Hub id or folder of the model.
        revision: Revision of a Hub repository.
        steps: What is done, in order.
    """

    name: str
    model: str
    revision: str | None
    steps: tuple[StepOptions, ...]

    def of(self, model: str) -> Recipe:
        """Return the same steps for another model: a folder or a Hub id, ``organisation/name[@revision]``."""
        steps = tuple(replace(step, revision=None) for step in self.steps)
        return replace(self, model=model, revision=None, steps=steps)


def read_recipe(
    file: Path,
    *,
    output: Path | None = None,
    force: bool = False,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> Recipe:
    """Read a recipe.

    Args:
        file: The TOML file.
        output: Folder to copy the model to first.
        force: Replace files that are there.
        token: Hub token.
        trust_remote_code: Run the code that the model's config.json names; a recipe cannot say that itself.

    Raises:
        SourceError: If the file cannot be read.
        OptionError: If it is not TOML, or a key or value in it is not known; says which line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}", "name a recipe: a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(
            f"{file} is not TOML: {error}", "strings are in quotes, tables in brackets"
        ) from error
    try:
        shared = {"output": output, "force": force, "token": token, "trust_remote_code": trust_remote_code}
        return _recipe(file, document, shared)
    except _KeyProblem as problem:
        line = _line_of(text, problem)
        raise OptionError(
            f"{file}{f', line {line}' if line else ''}: {problem.message}", problem.hint
        ) from problem


def _recipe(file: Path, document: Mapping[str, Any], shared: Mapping[str, Any]) -> Recipe:
    _known(document, {"source", "step", "check"}, "a recipe")
    source, check = document.get("source", {}), document.get("check", {})
    with _within("source"):
        _known(source, {"repo", "revision"}, "[source]")
        if "repo" not in source:
            raise _KeyProblem("", "[source] needs repo, a Hub id or a folder", 'repo = "organisation/name"')
        origin = {key: _coerce(key, value, str) for key, value in source.items()}
    with _within("check"):
        common = {**shared, "revision": origin.get("revision"), **_thresholds(check, file.parent)}
    steps = document.get("step", [])
    if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise _KeyProblem(
            "step",
            "a recipe needs at least one table [[step]]",
            'kind = "export", "optimize" or "quantize"',
        )
    if shared["output"] is not None:
        named = (check.get("texts"), *(step.get("texts") for step in steps))
        beside = (file.parent / each for each in named if isinstance(each, str))
        require_apart(shared["output"], (file, *beside))
    built = []
    for number, step in enumerate(steps, start=1):
        values = dict(step)
        if isinstance(values.get("texts"), str):
            values["texts"] = file.parent / values["texts"]
        with _within("step", number):
            built.append(step_options(str(values.pop("kind", "")), values, common))
    return Recipe(file.stem, origin["repo"], origin.get("revision"), tuple(built))


def _thresholds(check: Any, folder: Path) -> dict[str, Any]:
    """The fields of ConversionOptions that ``[check]`` has; its texts are beside the recipe: both travel together."""
    _known(check, {"min_cosine", "max_abs", "min_agreement", "texts"}, "[check]")
    found = {key: _coerce(key, value, str if key == "texts" else float) for key, value in check.items()}
    for key in ("min_cosine", "min_agreement"):
        if not -1 <= found.get(key, 0) <= 1:
            raise _KeyProblem(key, f"{key} is {found[key]:g}, expected -1 to 1")
    if not found.get("max_abs", 0) >= 0:
        raise _KeyProblem("max_abs", f"max_abs is {found['max_abs']:g}, expected 0 or more")
    if texts := found.pop("texts", None):
        found["check_texts"] = read_examples(folder / texts)
        if not found["check_texts"]:
            raise _KeyProblem("texts", f"{folder / texts} has no text in it", "one text per line")
    return found


def step_options(kind: str, values: Mapping[str, Any], shared: Mapping[str, Any]) -> StepOptions:
    """Build the options of a verb from words and numbers.

    Args:
        kind: ``export``, ``optimize`` or ``quantize``.
        values: The verb's own options, spelled as on the command line with ``_`` for ``-``; None is not given.
        shared: Fields of :class:`~stopt.steps.ConversionOptions`, as they are.

    Raises:
        OptionError: If a key or a value is not known, or two contradict each other.
    """
    given = {key: value for key, value in values.items() if value is not None}
    options: StepOptions
    match kind:
        case "export":
            if isinstance(given.get("backend"), str):
                given["backend"] = [given["backend"]]
            options = _build(ExportOptions, given, shared)
        case "optimize":
            options = _build(OptimizeOptions, given, shared)
        case "quantize":
            options = _build(_quantization(given), given, shared)
        case _:
            raise _KeyProblem(
                "kind",
                f"step kind {kind!r} is unknown" if kind else "the step has no kind",
                suggest(kind, ["export", "optimize", "quantize"]),
            )
    return options


def describe_step(options: StepOptions) -> dict[str, Any]:
    """Return the step of a recipe that ``options`` are built from; :func:`step_options` is the way back.

    Options that have their default are left out, and of files the folder, which is nobody's business.
    """
    kinds: dict[type[Any], dict[str, Any]] = {
        ExportOptions: {"kind": "export"},
        OptimizeOptions: {"kind": "optimize"},
        DynamicOptions: {"kind": "quantize"},
        StaticOnnxOptions: {"kind": "quantize", "static": True, "backend": "onnx"},
        StaticOpenVinoOptions: {"kind": "quantize", "static": True, "backend": "openvino"},
        WeightOptions: {"kind": "quantize"},
    }
    calibration = getattr(options, "calibration", None)
    words = {**_words(options), **(_words(calibration) if calibration else {}), **kinds[type(options)]}
    match options:  # what says which kind of quantisation it is, default or not
        case ExportOptions():
            words["backend"] = [each.value for each in options.backends]
        case DynamicOptions():
            words["target"] = options.target.value
        case WeightOptions():
            words |= {"weight_format": options.weight_format.value, "backend": options.backend.value}
    return words


def _words(options: Any) -> dict[str, Any]:
    """Options that do not have their default, as words and numbers."""
    changed = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in {*_SHARED, "calibration"} and getattr(options, field.name) != field.default
    }
    return {_SPELLINGS.get(name, name): _word(value) for name, value in changed.items()}


def _word(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_word(each) for each in value]
    return value.name if isinstance(value, Path) else value.value if isinstance(value, Enum) else value


def _quantization(given: dict[str, Any]) -> type[Any]:
    """The kind of quantisation that options ask for; takes out those that only say so."""
    kinds = (DynamicOptions, StaticOnnxOptions, StaticOpenVinoOptions, WeightOptions, CalibrationOptions)
    names = {_SPELLINGS.get(field.name, field.name) for kind in kinds for field in fields(kind)}
    _known(given, (names - _SHARED - {"calibration"}) | {"static", "backend"}, "quantisation")
    static = _coerce("static", given.pop("static", False), bool)
    backend = (
        Backend(given.get("backend", "onnx")) if given.get("backend") in (None, "onnx", "openvino") else None
    )
    if backend is None:
        raise _KeyProblem(
            "backend", f"backend {given['backend']!r} cannot be quantised for", "onnx or openvino"
        )
    chosen = [
        name
        for name, there in (
            ("static", static),
            ("weight_format", "weight_format" in given),
            ("target", "target" in given),
        )
        if there
    ]
    if len(chosen) != 1:
        found = " and ".join(chosen) if chosen else "none of them"
        raise _KeyProblem(
            chosen[-1] if chosen else "kind",
            f"a quantisation is one of target, static and weight_format; given: {found}",
            "target = dynamic int8 (avx512_vnni, avx2, avx512, arm64); static = int8 with calibration; weight_format = smaller file only",
        )
    if chosen == ["weight_format"]:
        return WeightOptions
    given.pop("backend", None)
    if chosen == ["target"]:
        if backend is Backend.OPENVINO:
            raise _KeyProblem(
                "target", "dynamic int8 is for ONNX; OpenVINO has static int8 and weight_format", "use static"
            )
        return DynamicOptions
    return StaticOnnxOptions if backend is Backend.ONNX else StaticOpenVinoOptions


def _build(cls: type[Any], given: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    """Build an options object, calibration options inside it included."""
    own = {
        _SPELLINGS.get(field.name, field.name): field.name
        for field in fields(cls)
        if field.name not in _SHARED
    }
    nested = {field.name for field in fields(CalibrationOptions)} if own.pop("calibration", None) else set()
    _known(given, {*own, *nested}, _verb(cls))
    hints, calibration_hints = get_type_hints(cls), get_type_hints(CalibrationOptions)
    arguments = {own[key]: _coerce(key, given[key], hints[own[key]]) for key in given if key in own}
    if nested:
        inner = {key: _coerce(key, given[key], calibration_hints[key]) for key in given if key in nested}
        arguments["calibration"] = CalibrationOptions(**inner)
    return cls(**arguments, **shared)


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Turn a word or number into a field's type."""
    if isinstance(hint, UnionType):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise _KeyProblem(key, f"{key} is {value!r}, expected a list", f'{key} = ["..."]')
        return tuple(_coerce(key, each, inner) for each in value)
    if issubclass(hint, Enum):
        known = [str(each.value) for each in hint if each is not Backend.NUMPY]  # which makes no files
        if value not in known:
            raise _KeyProblem(key, f"{key} {value!r} is unknown", suggest(str(value), known))
        return hint(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _KeyProblem(key, f"{key} is {value!r}, expected {hint.__name__}")
    return value


def _known(given: Any, known: set[str], place: str) -> None:
    if not isinstance(given, Mapping):
        raise _KeyProblem("", f"{place} is not a table")
    for key in given:
        if key not in known:
            raise _KeyProblem(key, f"{place} has no option {key!r}", suggest(key, sorted(known)))


def _verb(cls: type[Any]) -> str:
    names = {
        DynamicOptions: "dynamic quantisation",
        StaticOnnxOptions: "static quantisation for ONNX",
        StaticOpenVinoOptions: "static quantisation for OpenVINO",
        WeightOptions: "weight compression",
    }
    return names.get(cls, cls.__name__.removesuffix("Options").lower())


class _KeyProblem(OptionError):
    """An option is wrong; knows which and in which table, so that a recipe's reader can say where."""

    def __init__(self, key: str, message: str, hint: str = "", table: str = "", number: int = 1) -> None:
        super().__init__(message, hint)
        self.key = key
        self.table = table
        self.number = number


@contextmanager
def _within(table: str, number: int = 1) -> Iterator[None]:
    """Say of every wrong option in the block which table of the recipe it is in, and which of several."""
    try:
        yield
    except OptionError as error:
        key = error.key if isinstance(error, _KeyProblem) else ""
        raise _KeyProblem(key, error.message, error.hint, table, number) from error


def _line_of(text: str, problem: _KeyProblem) -> int | None:
    """The line of the key in its table, else that of the table."""
    assigned = re.compile(rf'\s*(["\']?){re.escape(problem.key)}\1\s*=') if problem.key else None
    wanted, inside, head = problem.table, not problem.table, None
    count = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if table := re.match(r"\s*\[+\s*([^\]]*?)\s*\]", line):
            count += table[1] == wanted
            inside = table[1] == wanted and count == problem.number
            if inside or (not wanted and table[1] == problem.key):
                head = head or number
        elif inside and assigned and assigned.match(line):
            return number
    return head
