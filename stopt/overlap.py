"""Outputs and inputs kept apart: what a command writes may not be, contain or lie in what it reads.

Files are compared by what they are on the disk, not by their names: links, relative paths and file systems that ignore
case lead to the same answer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from stopt.artifact import MANIFEST, is_models_own
from stopt.errors import ArtifactError
from stopt.spec import Backend

__all__ = ["require_apart", "require_not_of_model", "require_not_stream"]

_BACKENDS = {each.value for each in Backend}
_OF_MODELS = {".bin", ".onnx", ".onnx_data", ".py", ".safetensors", ".sig"}


def require_apart(output: Path, inputs: Iterable[Path], *, what: str = "the output") -> None:
    """Make sure, before anything is written, that an output cannot replace or become an input.

    Args:
        output: The file or folder to be written, which need not be there.
        inputs: Files and folders that are read; those that are not there are left out.
        what: What to call the output in the message.

    Raises:
        ArtifactError: If the output is an input, contains one, or lies in one.
    """
    for each in inputs:
        if not each.exists():
            continue
        if _same(output, each):
            relation = "is"
        elif any(_same(folder, output) for folder in _folders_of(each)):
            relation = "contains"
        elif any(_same(folder, each) for folder in _folders_of(output)):
            relation = "lies in"
        else:
            continue
        raise ArtifactError(f"{what} {output} {relation} the input {each}", "name another place for it")


def require_not_of_model(output: Path, model: str | Path, *, but: str = "", what: str = "the output") -> None:
    """Make sure that an output replaces no file of the model that is used; beside them it may lie.

    Args:
        output: The file or folder to be written.
        model: The model folder; a Hub id is none.
        but: Name of a file in the folder that is written there on purpose.
        what: What to call the output in the message.

    Raises:
        ArtifactError: If it does, or is the folder or one around it.
    """
    root = Path(model)
    if not root.is_dir():
        return
    if _same(output, root) or any(_same(folder, output) for folder in _folders_of(root)):
        raise ArtifactError(f"{what} {output} is, or contains, the model {root}", "name another place for it")
    if not output.is_file():
        return
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if name != but and path.is_file() and _is_of_model(name) and _same(output, path):
            raise ArtifactError(
                f"{what} {output} is a file of the model, {path}", "name another place for it"
            )


def _is_of_model(name: str) -> bool:
    """Whether a file in a model folder is the model's, or was made of it."""
    path = PurePosixPath(name)
    converted = not _BACKENDS.isdisjoint(path.parts[:-1])
    return converted or name == MANIFEST or path.suffix in _OF_MODELS or is_models_own(name)


def require_not_stream(output: Path, descriptor: int, *, what: str) -> None:
    """Make sure that a file is not what a standard stream was redirected from or to.

    Args:
        output: The file or folder.
        descriptor: Number of the stream: 0 is standard input, 1 standard output.
        what: What the message says of it.

    Raises:
        ArtifactError: If it is the same file, or a folder that the stream's file is in.
    """
    try:
        stream, file = os.fstat(descriptor), output.stat()
        same = stat.S_ISREG(stream.st_mode) and os.path.samestat(stream, file)
    except (OSError, ValueError):  # closed, or no such file
        return
    if same:
        raise ArtifactError(f"{output} {what}", "name another place for it")


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or folder, be it there or not."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def _folders_of(path: Path) -> Iterator[Path]:
    """The folders that a path lies in: those that its name leads through, and those of what it is a link to."""
    yield from path.absolute().parents
    if path.is_symlink() or path.resolve() != path.absolute():
        yield from path.resolve().parents
