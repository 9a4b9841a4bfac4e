"""Where a model's data may lie: in regular files of its own folder, named plainly."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from stopt.errors import CorruptModel, UntrustedModel

__all__ = ["data_file", "whole_number"]

_HINT = "a model may only name files inside its own folder; do not use this one unless you trust its source"
_DIGITS = re.compile(r"[0-9]{1,19}")


def data_file(model: Path, location: str, *, linked: bool = False) -> os.stat_result:
    """Make sure that a name which a model file gives for its data is a file beside it, and describe that file.

    Links are followed in a snapshot of the Hugging Face cache only, into its ``blobs``.

    Args:
        model: The file that names the other.
        location: The name, relative to the model's folder, with ``/`` between folders.
        linked: Whether the file may have other names on the disk (hard links).

    Raises:
        UntrustedModel: If it is anywhere else, or not a regular file; nothing is opened.
        CorruptModel: If there is no such file.
    """
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    plain = (
        location
        and location == posix.as_posix()
        and location != "."
        and not posix.is_absolute()
        and not windows.drive
        and not windows.root
        and ".." not in posix.parts
        and not any(ord(letter) < 32 or letter in '\\:*?"<>|' for letter in location)
    )
    if not plain:
        raise UntrustedModel(f"{model} has its data in {location!r:.200}, which leaves its folder", _HINT)
    if len(location) > 1_000:
        raise CorruptModel(f"{model} has its data in {location!r:.120}, too long to be a path", _AGAIN)
    path = model.parent / location
    real = os.path.realpath(path)
    if not any(real.startswith(home + os.sep) for home in _homes(model)):
        raise UntrustedModel(f"{path} is a link that leaves its folder", _HINT)
    try:
        found = os.lstat(real)
    except OSError as error:
        raise CorruptModel(
            f"{path} is missing, the data of {model.name}", "fetch it again together with its data files"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedModel(f"{path} is not a regular file, so not the data of {model.name}", _HINT)
    if found.st_nlink > 1 and not linked and len(_homes(model)) == 1:
        raise UntrustedModel(
            f"{path} has a second name elsewhere on the disk (a hard link)",
            "copy the file if it belongs to the model: cp FILE COPY && mv COPY FILE",
        )
    return found


def _homes(model: Path) -> list[str]:
    """Folders that a model file's data may really lie in: its own, and the blobs of a snapshot that it is part of."""
    homes = [os.path.realpath(model.parent)]
    for folder in (model.parent.absolute(), *model.parent.absolute().parents):
        if folder.parent.name == "snapshots":
            # where blobs itself is a link, nothing really lies in it
            homes.append(os.path.join(os.path.realpath(folder.parent.parent), "blobs"))  # noqa: PTH118
            break
    return homes


def whole_number(text: str) -> int | None:
    """Return the number that a text of decimal digits stands for; None for anything else, signs and spaces included."""
    return int(text) if _DIGITS.fullmatch(text) and int(text) < 1 << 63 else None


_AGAIN = "fetch the file again"
