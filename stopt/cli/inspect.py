"""``stopt inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as members
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, fields, human_size, table

if TYPE_CHECKING:
    from pathlib import Path

    from stopt.artifact import Manifest
    from stopt.hub import Source
    from stopt.preflight import Survey
    from stopt.spec import ModelSpec

__all__ = ["inspect"]


@click.command()
@options.working_model
@options.hub_options
@click.option(
    "--deep",
    is_flag=True,
    help="Also open and run every graph and tokenizer, each in a process with little time and memory.",
)
@options.output_options
def inspect(model: str, revision: str | None, token: str | None, deep: bool, out: Output) -> None:
    """Show what MODEL is made of, and whether it is safe to open.

    Every file that stopt may come to open is checked without an engine: no weights are loaded and no code is run, so
    this is safe on any folder. One that breaks a rule ends it with exit code 4. Of a Hub repository only small files are
    fetched; its converted files are listed all the same.

    \b
    Example:
      stopt inspect ./my-model
      stopt inspect sentence-transformers/all-MiniLM-L6-v2
    """
    from stopt import hub
    from stopt.artifact import Manifest
    from stopt.parts import parts_of
    from stopt.preflight import survey
    from stopt.reading import read_spec
    from stopt.spec import ModelKind
    from stopt.trust import configurations_with_code, trusted_code

    source = hub.fetch(model, (), revision=revision, token=token)
    root = source.folder
    found = survey(root)
    found.raise_if_refused()
    spec = read_spec(root)
    if deep:
        _open_all(found, out)
    manifest = Manifest.read(root)
    code = configurations_with_code(root, parts_of(spec))
    tokenizer = spec.tokenizer
    described = {
        "model": f"{source.name}{f' at {source.revision}' if source.revision else ''}",
        "kind": spec.kind.value,
        **_parts(spec),
        "max tokens": str(tokenizer.max_seq_length or "no limit"),
        "padding": tokenizer.padding_side,
        **({} if spec.kind is ModelKind.CROSS_ENCODER else {"similarity": spec.similarity.value}),
        "prompts": ", ".join(f"{name}={text!r}" for name, text in spec.prompts.items()) or "none",
        "default prompt": spec.default_prompt_name or "none",
        **_verdict(found, deep, code),
        **({"code trusted": told} if (told := trusted_code(manifest)) else {}),
    }
    files = _converted(source, spec, manifest)
    listing = _listing(files, spec) if files else _none(model, source)
    data = {"source": source.name, "revision": source.revision, "spec": _described(spec), "files": files}
    data["preflight"] = {**_preflight(found, root, deep), "code_ignored": code}
    data["trust"] = dict(manifest.trust) if manifest else {}
    out.result(f"{fields(described)}\n\n{listing}", data, spec.kind.value)


def _converted(source: Source, spec: ModelSpec, manifest: Manifest | None) -> list[dict[str, Any]]:
    """The converted files of a folder; of a repository also those that were not fetched."""
    from stopt.artifact import engine_files, engine_files_among
    from stopt.parts import parts_of
    from stopt.spec import Backend

    root, listed = source.folder, source.listed
    names = dict.fromkeys(
        name
        for part in parts_of(spec)
        for backend in (Backend.ONNX, Backend.OPENVINO)
        for name in (
            *engine_files_among(listed, backend, part.front.path),
            *engine_files(root, backend, part.front.path),
        )
    )
    files = []
    for name in names:
        record = manifest.files.get(name) if manifest else None
        weights = f"{name.removesuffix('.xml')}.bin"
        parts = list(record.parts) if record else [name, *([weights] if name.endswith(".xml") else [])]
        here = (root / name).is_file()
        sizes = [
            (root / each).stat().st_size if (root / each).is_file() else listed.get(each, 0) for each in parts
        ]
        files.append(
            {
                "file": name,
                "size_bytes": sum(sizes),
                "here": here,
                "parity": dict(record.parity) if record else None,
                "options": dict(record.options) if record else None,
            }
        )
    return files


def _listing(files: Sequence[Mapping[str, Any]], spec: ModelSpec) -> str:
    """The converted files as a table, with the columns that have something in them."""
    from stopt.spec import ModelKind

    what = "error of a score" if spec.kind is ModelKind.CROSS_ENCODER else "cosine to torch"
    columns = {
        "file": [each["file"] for each in files],
        "size": [human_size(each["size_bytes"]) for each in files],
        what: [_figure(each["parity"]) if each["parity"] else "not checked by stopt" for each in files],
        "kept in float": [_kept(each["options"] or {}) for each in files],
        "fetched": [
            "" if all(each["here"] for each in files) else "yes" if each["here"] else "no" for each in files
        ],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    return table(list(zip(*shown.values(), strict=True)), list(shown))


def _none(model: str, source: Source) -> str:
    """What to say of a model without converted files."""
    if source.revision is not None and not source.listed:
        return f"no converted files fetched so far; the Hub may have some, else: stopt export {model}"
    return f"no converted files; make one: stopt export {model}"


def _open_all(found: Survey, out: Output) -> None:
    """Try every file that an engine or the tokenizer would open, in processes with limits."""
    from stopt.preflight import kind_of
    from stopt.runtime.trial import try_file

    for verdict in found.checked:
        kind = kind_of(verdict.file)
        if kind is not None and kind != "safetensors":
            out.step(f"opening {verdict.file.name} in a process with limits")
            try_file(verdict, kind)


def _verdict(found: Survey, deep: bool, code: Sequence[str]) -> dict[str, str]:
    """What the check of the files found, in words."""
    lines = {
        "verdict": f"safe to open ({len(found.checked)} files checked{', opened and run' if deep else ''})"
    }
    if doubts := [
        f"{each.file.name}, because {doubt}" for each in found.checked for doubt in each.doubts[:1]
    ]:
        lines["tried first"] = "; ".join(doubts[:3])
    if found.ignored:
        more = f" and {len(found.ignored) - 6} more" if len(found.ignored) > 6 else ""
        lines["never opened"] = ", ".join(found.ignored[:6]) + more
    if code:
        lines["code ignored"] = (
            f"the model's own classes (auto_map in {' and '.join(code)}); converted files need none of them, torch does"
        )
    return lines


def _preflight(found: Survey, root: Path, deep: bool) -> dict[str, Any]:
    """The same for JSON."""
    checked = {each.file.relative_to(root).as_posix(): list(each.doubts) for each in found.checked}
    return {"checked": checked, "ignored": list(found.ignored), "opened": deep}


def _parts(spec: ModelSpec) -> dict[str, str]:
    """What the model consists of, in words; as many lines as its kind has parts."""
    from stopt.spec import Activation, ModelKind

    lines = {_FRONT_LINES.get(type(spec.front).__name__, "table"): _front(spec)}
    lines["modules"] = " -> ".join(
        [type(spec.front).__name__.removesuffix("Spec"), *map(_short, spec.modules)]
    )
    if spec.kind is ModelKind.CROSS_ENCODER:
        lines["labels"] = str(spec.embedding_dimension)
        lines["activation"] = str(spec.activation or Activation.IDENTITY)
        return lines
    truncated = f", truncated to {spec.truncate_dim}" if spec.truncate_dim is not None else ""
    lines["dimension"] = f"{spec.embedding_dimension}{truncated}"
    for name, route in spec.routes.items():
        default = ", the default" if name == spec.default_route else ""
        chain = " -> ".join([type(route.front).__name__.removesuffix("Spec"), *map(_short, route.modules)])
        lines[f"route {name}"] = f"{chain} ({_front(route)}{default})"
    return lines


_FRONT_LINES = {"TransformerSpec": "transformer"}


def _front(spec: ModelSpec) -> str:
    """What stands at the front: a transformer, or a table and its size."""
    from stopt.spec import StaticEmbedding, TransformerSpec

    match spec.front:
        case TransformerSpec(model_type=kind, hidden_size=width, task=task):
            return f"{kind}, {width} values per token" + (f", {task}" if task != "feature-extraction" else "")
        case StaticEmbedding(tokens=tokens, width=width):
            return f"{tokens} tokens x {width} values, {4 * tokens * width / 1e6:.1f} MB in float32"
        case front:
            return f"a weight for each of {front.width} tokens"


def _described(spec: ModelSpec) -> dict[str, Any]:
    """The whole spec for JSON: what stands at the front under ``transformer``, or ``front`` if it is a table."""
    from stopt.spec import TransformerSpec

    plain: dict[str, Any] = _plain(spec)
    if isinstance(spec.front, TransformerSpec):
        plain["transformer"] = plain.pop("front")
    return plain


def _plain(value: Any) -> Any:
    """Data classes, and the mappings that may not be changed in them, as what JSON can write."""
    if is_dataclass(value):
        return {member.name: _plain(getattr(value, member.name)) for member in members(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _figure(parity: Mapping[str, Any]) -> str:
    """The figure that a file is judged by first."""
    if "min_cosine" in parity:
        return f"{parity['min_cosine']:.6f}"
    return f"{parity['max_abs']:.1e}" if parity.get("max_abs") is not None else "unknown"


def _kept(options: Mapping[str, Any]) -> str:
    """How much of the graph was left in float."""
    kept = options.get("kept_float") or ()
    return f"{len(kept)} products before the logits" if kept else ""


def _short(module: object) -> str:
    """A module in a few characters: ``Pooling(mean)``, ``Dense(384 -> 128, Tanh)``."""
    from stopt.spec import Dense, Pooling, SparseAutoEncoder, SpladePooling

    match module:
        case Pooling(modes=modes, include_prompt=include):
            return f"Pooling({' + '.join(modes)}{'' if include else ', without prompt'})"
        case Dense(in_features=width, out_features=out, activation=activation):
            return f"Dense({width} -> {out}, {activation})"
        case SpladePooling(maximum=maximum, double_log=double):
            return f"SpladePooling({'max' if maximum else 'sum'}, {'log1p_relu' if double else 'relu'})"
        case SparseAutoEncoder(input_dim=width, hidden_dim=out, k=k):
            return f"SparseAutoEncoder({width} -> {out}, {k} active)"
        case _:
            return type(module).__name__
