"""What people read about pushed files: a section of the model card, a pull request's text, a commit's title.

The section lies between two marks, and only what is between them is ever replaced; of the card's metadata, what the user
wrote stays as it is, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from stopt.artifact import FileRecord, Manifest, is_plain
from stopt.errors import PushError
from stopt.spec import Backend, ModelKind
from stopt.trust import trusted_code

__all__ = ["About", "Shown", "Speed", "commit_text", "pull_request", "section", "title", "write"]

BEGIN, END = "<!-- stopt:begin -->", "<!-- stopt:end -->"

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_ENGINES = {Backend.ONNX.value: "ONNX", Backend.OPENVINO.value: "OpenVINO"}
_CLASSES = {
    ModelKind.DENSE: "SentenceTransformer",
    ModelKind.SPARSE: "SparseEncoder",
    ModelKind.CROSS_ENCODER: "CrossEncoder",
}
_TASKS = {
    ModelKind.DENSE: "sentence-similarity",
    ModelKind.SPARSE: "feature-extraction",
    ModelKind.CROSS_ENCODER: "text-ranking",
}
_USES = {
    ModelKind.DENSE: """\
embeddings = model.encode(["That is a happy person", "That is a very happy person", "Today is a sunny day"])
print(model.similarity(embeddings, embeddings))
""",
    ModelKind.SPARSE: """\
embeddings = model.encode(["That is a happy person", "That is a very happy person", "Today is a sunny day"])
print(model.similarity(embeddings, embeddings))
""",
    ModelKind.CROSS_ENCODER: """\
scores = model.predict([
    ("Who is happy?", "That is a very happy person"),
    ("Who is happy?", "Today is a sunny day"),
])
print(scores)
""",
}
_VERSIONS = (
    "stopt",
    "torch",
    "transformers",
    "optimum-onnx",
    "onnxruntime",
    "optimum-intel",
    "openvino",
    "nncf",
)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a file was.

    Attributes:
        texts_per_second: Texts encoded per second.
        over_torch: Times the speed of torch; None if that was not measured.
        where: On what, and with which texts.
    """

    texts_per_second: float
    over_torch: float | None
    where: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A converted file that is pushed.

    Attributes:
        name: Its path.
        record: What is known of it.
        checked: Whether it passed a comparison with torch.
        speed: How fast it was, if that was measured.
    """

    name: str
    record: FileRecord
    checked: bool
    speed: Speed | None = None

    @property
    def size_bytes(self) -> int:
        """Its size, data files included."""
        return sum(int(part["size_bytes"]) for part in self.record.parts.values())


@dataclass(frozen=True, slots=True)
class About:
    """What is told.

    Attributes:
        repository: Where the files go.
        kind: What the model turns text into.
        manifest: Where the files come from.
        files: The files.
        revision: Branch they go to; None is main.
        card: Whether the model card gains a section.
    """

    repository: str
    kind: ModelKind
    manifest: Manifest
    files: Sequence[Shown]
    revision: str | None = None
    card: bool = True

    @property
    def engines(self) -> str:
        """The engines that the files are for, in words."""
        return " and ".join(dict.fromkeys(_ENGINES[each.record.backend] for each in self.files))

    @property
    def base_model(self) -> str | None:
        """Hub id of the model that the files were made from, where that is another repository."""
        name = self.manifest.source.get("name")
        known = self.manifest.source.get("revision") is not None and name and "/" in name
        return name if known and name != self.repository else None


def title(about: About) -> str:
    """Return the first line of a commit."""
    if len(about.files) == 1:
        only = about.files[0]
        return f"Add exported {_ENGINES[only.record.backend]} model '{PurePosixPath(only.name).name}'"
    if not about.files:
        return "Update the model"
    return f"Add {len(about.files)} exported {about.engines} models"


def commit_text(about: About) -> str:
    """Return the description of a commit: the files with their figures."""
    return f"{_table(about)}\n\n{_origin(about)}" if about.files else ""


def pull_request(about: About, number: int | None) -> str:
    """Return the text of a pull request: what it adds, what was measured, how to try it before it is merged.

    Args:
        about: What is told.
        number: Its number; None where it is not known yet.
    """
    if not about.files:
        return "Hello!\n\nThis pull request updates the files of the model."
    count = len(about.files)
    noun = f"an exported {about.engines} model" if count == 1 else f"{count} exported {about.engines} models"
    best = _example(about)
    return f"""\
Hello!

This pull request adds {noun} to this repository. Nothing that is here is changed\
{", except that the model card gains a section and tags" if about.card else ""}.

{_table(about)}

{_origin(about)}

## Try it before you merge

```python
{_snippet(about, best, "sentence_transformers", f'revision="refs/pr/{number or "N"}"')}```

`from stopt import {_CLASSES[about.kind]}` opens the same files without torch.
"""


def section(about: About) -> str:
    """Return the section of the model card, marks included."""
    best = _example(about)
    revision = f'revision="{about.revision}"' if about.revision else ""
    return f"""\
{BEGIN}
## {about.engines} files

{_table(about)}

{_origin(about)}

```python
{_snippet(about, best, "sentence_transformers", revision)}```

`from stopt import {_CLASSES[about.kind]}` opens the same files without torch.
{END}"""


def write(card: str, about: About) -> str:
    """Return a model card with the section in it, new or in the place of the old one.

    Args:
        card: The card as it is; empty if there is none.
        about: What the section tells.

    Raises:
        PushError: If the card has one of the two marks only, or metadata that is no YAML.
    """
    if not about.files:
        return card
    text = _with_section(card or _new_card(about), section(about))
    tags = ["sentence-transformers", *dict.fromkeys(each.record.backend for each in about.files)]
    missing: dict[str, Any] = (
        {} if card else {"library_name": "sentence-transformers", "pipeline_tag": _TASKS[about.kind]}
    )
    if about.base_model:
        missing["base_model"] = about.base_model
    return _with_metadata(text, tags, missing)


def _new_card(about: About) -> str:
    name = about.repository.rpartition("/")[2]
    origin = (
        f"Made from [{about.base_model}](https://huggingface.co/{about.base_model}).\n"
        if about.base_model
        else ""
    )
    return f"# {name}\n\n{origin}"


def _with_section(card: str, new: str) -> str:
    begins, ends = card.count(BEGIN), card.count(END)
    if (begins, ends) == (0, 0):
        return f"{card.rstrip()}\n\n{new}\n"
    start, end = card.find(BEGIN), card.find(END)
    if (begins, ends) != (1, 1) or end < start:
        raise PushError(
            f"the model card has {begins} times {BEGIN} and {ends} times {END}",
            "leave each once, or none of them",
        )
    return card[:start] + new + card[end + len(END) :]


def _with_metadata(card: str, tags: Sequence[str], missing: Mapping[str, Any]) -> str:
    """Add tags and keys that are not there; what is there stays, letter by letter, wherever that is possible."""
    import yaml

    block = _FRONT.match(card)
    old = block[1] if block else ""
    try:
        known = yaml.safe_load(old) or {}
    except yaml.YAMLError as error:
        raise PushError("the metadata of the model card is no YAML", "mend it on the Hub first") from error
    if not isinstance(known, dict):
        raise PushError("the metadata of the model card is no table", "mend it on the Hub first")
    present = known.get("tags") or []
    new_tags = [tag for tag in tags if isinstance(present, list) and tag not in present]
    added = {key: value for key, value in missing.items() if key not in known}
    if not new_tags and not added:
        return card
    wanted = {**known, **added, **({"tags": [*present, *new_tags]} if new_tags else {})}
    text = _edited(old, new_tags, added, bool(present))
    try:
        kept = yaml.safe_load(text) == wanted
    except yaml.YAMLError:
        kept = False
    if not kept:  # flow style, anchors and the like
        text = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n{card[block.end() :] if block else chr(10) + card}"


def _edited(old: str, tags: Sequence[str], added: Mapping[str, Any], has_tags: bool) -> str:
    """The block with lines added, in the usual style."""
    lines = [f"{key}: {value}\n" for key, value in added.items()]
    if not has_tags:
        return old + "".join(lines) + ("tags:\n" + "".join(f"- {tag}\n" for tag in tags) if tags else "")
    block = re.search(r"^tags:[ \t]*\n((?:[ \t]*- .*\n)+)", old, re.MULTILINE)
    if block is None:
        return old
    indent = re.match(r"[ \t]*", block[1])
    assert indent is not None
    items = "".join(f"{indent[0]}- {tag}\n" for tag in tags)
    return old[: block.end()] + items + old[block.end() :] + "".join(lines)


def _example(about: About) -> Shown:
    """The file that the snippet opens: the smallest that was checked."""
    return min(about.files, key=lambda each: (not each.checked, each.size_bytes))


def _snippet(about: About, file: Shown, library: str, revision: str) -> str:
    """Python that opens a file and uses it."""
    arguments = [f'"{about.repository}"', revision, f'backend="{file.record.backend}"']
    if not (is_plain(file.name) and PurePosixPath(file.name).parent.name == file.record.backend):
        arguments.append(f'model_kwargs={{"file_name": "{file.name}"}}')
    lines = "".join(f"    {each},\n" for each in arguments if each)
    name = _CLASSES[about.kind]
    return f"from {library} import {name}\n\nmodel = {name}(\n{lines})\n{_USES[about.kind]}"


def _table(about: About) -> str:
    timed = any(each.speed for each in about.files)
    rows = [[*_row(each, about.kind), *([_speed(each.speed)] if timed else [])] for each in about.files]
    header = ["file", "precision", "size", *_columns(about.kind), *(["texts/s"] if timed else [])]
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "---:|" * (len(header) - 2)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _columns(kind: ModelKind) -> list[str]:
    match kind:
        case ModelKind.CROSS_ENCODER:
            return ["largest error of a score", "mean error", "same order"]
        case ModelKind.SPARSE:
            return ["cosine to torch, mean", "smallest", "same active dimensions"]
        case ModelKind.DENSE:
            return ["cosine to torch, mean", "smallest", "same nearest texts"]


_FIGURES = {
    ModelKind.CROSS_ENCODER: (
        ("max_abs", "{:.1e}"),
        ("mean_score_error", "{:.1e}"),
        ("rank_agreement", "{:.4f}"),
    ),
    ModelKind.SPARSE: (("mean_cosine", "{:.5f}"), ("min_cosine", "{:.5f}"), ("active_overlap", "{:.1%}")),
    ModelKind.DENSE: (("mean_cosine", "{:.5f}"), ("min_cosine", "{:.5f}"), ("rank_overlap", "{:.1%}")),
}


def _row(file: Shown, kind: ModelKind) -> list[str]:
    shown = [f"`{file.name}`", file.record.precision, _size(file.size_bytes)]
    if not file.record.parity:
        return [*shown, "not checked", "", ""]
    for key, form in _FIGURES[kind]:
        value = file.record.parity.get(key)
        shown.append(form.format(value) if isinstance(value, int | float) else "")
    if not file.checked:
        shown[3] = f"**did not pass** {shown[3]}"
    return shown


def _speed(speed: Speed | None) -> str:
    if speed is None:
        return ""
    over = f" ({speed.over_torch:.1f}x torch)" if speed.over_torch else ""
    return f"{speed.texts_per_second:.0f}{over}"


def _size(size_bytes: int) -> str:
    size = size_bytes / 1e6
    return f"{size:.1f} MB" if size >= 0.1 else f"{size_bytes / 1e3:.1f} kB"


def _origin(about: About) -> str:
    """How the figures came about, and what made the files."""
    said = []
    parities = [each.record.parity for each in about.files if each.record.parity]
    if parities:
        texts = max(int(parity.get("texts", 0)) for parity in parities)
        what = "pairs of texts" if about.kind is ModelKind.CROSS_ENCODER else "texts"
        said.append(
            f"Compared with the original weights in torch (float32) on {texts} {what}, from empty to longer than the "
            "model reads, alone and in padded batches."
        )
    for where in dict.fromkeys(each.speed.where for each in about.files if each.speed):
        said.append(f"Speed: {where}.")
    if any(_own_thresholds(parity) for parity in parities):
        said.append("The thresholds that they passed were chosen by whoever made them, not stopt's own.")
    if others := [f"`{each.name}`" for each in about.files if not each.checked]:
        said.append(f"**Not checked, or not passed: {', '.join(others)}.**")
    if made := _made_with(about):
        said.append(made)
    if told := trusted_code(about.manifest):
        said.append(f"**{told[:1].upper()}{told[1:]}.** The files need no code and are served without.")
    revision = about.manifest.source.get("revision")
    if revision and about.manifest.source.get("name"):
        said.append(f"Made from {about.manifest.source['name']} at `{revision}`.")
    if any(each.checked for each in about.files):
        said.append("`stopt.json` has the sha256 of every file, the options and all figures.")
    return " ".join(said)


def _own_thresholds(parity: Mapping[str, Any]) -> bool:
    tolerance = parity.get("tolerance")
    return isinstance(tolerance, Mapping) and tolerance.get("reason") == "given by the caller"


def _made_with(about: About) -> str:
    versions: dict[str, str] = {}
    for each in about.files:
        versions.update(each.record.versions)
    named = [f"{name} {versions[name]}" for name in _VERSIONS if name in versions]
    return f"Made with {', '.join(named)}." if named else ""
