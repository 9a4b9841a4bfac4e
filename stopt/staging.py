"""How files get into a folder that others may be reading: staged, complete, and as a set.

:func:`staging` gives a hidden folder on the same file system to build in; :func:`commit` moves what was built into
place. What is promised:

- Until everything is written and on the disk, the destination is not touched.
- The set is decided by one renaming, of the staging folder to ``.stopt-commit``. A process that is killed before it
  leaves the old set; one that is killed after it leaves a list of what is still to be moved, and the next stopt process
  that opens the folder, to read or to write, moves the rest (:func:`settle`).
- So stopt sees the old set or the new one, never parts of both. Another program that opens the files just while they
  are moved (several renamings, well below a millisecond) may see both; the hashes in ``stopt.json`` tell.
- Files are replaced by renaming, so that a process which has the old ones open or mapped keeps them.

Locks (``flock`` of the folder, where there is such a thing) only make writers wait for each other. Where they do
nothing, as on some network file systems, ``.stopt-commit`` itself is what only one of them can make.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from stopt.errors import ArtifactError, CorruptModel, SourceError
from stopt.folder import contained, read_json_object

if sys.platform != "win32":
    import fcntl

__all__ = ["STALE_SECONDS", "commit", "held", "settle", "staging"]

logger = logging.getLogger("stopt")

STALE_SECONDS = 3600.0  # what a killed process left behind is removed when it is older
LOCK_SECONDS = 60.0  # moving files takes milliseconds; who waits longer waits for something that hangs

_JOURNAL = ".stopt-commit"
_LIST = "moves.json"
_PREFIX = ".stopt-"


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Give a hidden folder in ``root`` to build files in; it is gone afterwards, whatever happened.

    Where nothing was moved into place, folders made for it are gone too. Folders that killed processes left behind are
    removed (:data:`STALE_SECONDS`).

    Raises:
        ArtifactError: If ``root`` cannot be written to.
    """
    new = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        settle(root)
        _sweep(root)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    except OSError as error:
        raise ArtifactError(
            f"{root} cannot be written to: {error.strerror}", "name another folder: -o FOLDER"
        ) from error
    try:
        with _locked(folder):
            yield folder
    except OSError as error:
        raise ArtifactError(
            f"writing to {root} failed: {error.strerror or error}", "is the disk full?"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the first that has something in it ends it
            for made in new:
                made.rmdir()


def commit(staged: Path, root: Path, files: Iterable[str], *, remove: Iterable[str] = ()) -> None:
    """Move complete files from a staging folder to their places, all or none.

    Args:
        staged: The staging folder, in ``root``; it is used up.
        root: The model folder.
        files: Paths relative to both; the one that others refer to should come last.
        remove: Files in ``root`` that the new set does without; removed once it is in place.

    Raises:
        OSError: If it cannot be done; nothing has changed then.
    """
    names = list(files)
    for name in names:  # what can fail does so before anything has changed
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            raise IsADirectoryError(None, f"{place} is a folder")
        if not os.access(place.parent, os.W_OK):
            raise PermissionError(None, f"{place.parent} cannot be written to")
    _discard(staged, {*names})
    moves = {"id": uuid4().hex, "move": names, "remove": sorted({*remove} - {*names})}
    (staged / _LIST).write_text(json.dumps(moves), encoding="utf-8")
    for name in names:
        _give_usual_mode(staged / name, staged / _LIST)
    for name in (*names, _LIST):
        _sync(staged / name)
    for folder in {(staged / name).parent for name in (*names, _LIST)}:
        _sync(folder)
    while True:
        try:
            staged.rename(root / _JOURNAL)
            break
        except OSError:
            if not (root / _JOURNAL).exists():
                raise
            _roll_forward(root)  # of a process that was killed, or is at it: two can do it at once
    _sync(root)
    _roll_forward(root)


def settle(root: Path) -> bool:
    """Finish a commit that was cut short, if there is one, so that the folder has one set of files.

    Returns:
        Whether there was one.

    Raises:
        ArtifactError: If it cannot be finished, for want of permission.
        CorruptModel: If what was left behind is not stopt's.
    """
    if not (root / _JOURNAL).is_dir():
        return False
    try:
        with held(root):
            pass
    except OSError as error:
        raise ArtifactError(
            f"{root} has two sets of files: moving a new one into place was cut short, and cannot be finished "
            f"({error.strerror or error})",
            "run any command of stopt on it as a user who may write to it",
        ) from error
    return True


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Keep other writers of a folder out, where the system has such locks; wait for one who is at it.

    What a killed process left half moved is in place when the block begins.

    Raises:
        ArtifactError: If another process holds it for longer than moving files can take.
    """
    started = told = time.monotonic()
    with _opened(root) as handle:
        while handle is not None and not _lock(handle):
            if time.monotonic() - started > LOCK_SECONDS:
                raise ArtifactError(
                    f"{root} is being written to by another process, for more than {LOCK_SECONDS:.0f} s",
                    "wait until it is done, then try again",
                )
            if time.monotonic() - told > 1:
                told = time.monotonic()
                logger.warning("%s is being written to by another process; waiting for it", root)
            time.sleep(0.02)
        _roll_forward(root)
        yield


def _roll_forward(root: Path) -> None:
    """Move what is still in the journal into place, in order; several processes may do so at once."""
    journal = root / _JOURNAL
    if not journal.is_dir():
        return
    moves = _read_list(journal)
    try:
        names, gone = [str(name) for name in moves.get("move", [])], moves.get("remove", [])
        places = [contained(root, name) for name in names]
        unwanted = [contained(root, str(name)) for name in gone]
    except TypeError as error:
        raise CorruptModel(f"{journal / _LIST} is no list of files to move", "delete the folder") from error
    for name, place in zip(names, places, strict=True):
        with suppress(FileNotFoundError):  # it was moved before
            (journal / name).replace(place)
    for place in unwanted:
        place.unlink(missing_ok=True)
    for folder in {root, *(place.parent for place in (*places, *unwanted))}:
        _sync(folder)
    if _read_list(journal).get("id") == moves.get("id"):  # not of another process that has come after
        (journal / _LIST).unlink(missing_ok=True)
    with suppress(OSError):  # what has something in it stays
        for folder in sorted((path for path in journal.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        journal.rmdir()


def _read_list(journal: Path) -> dict[str, Any]:
    """What is to be moved; nothing if that is done."""
    try:
        return read_json_object(journal / _LIST)
    except SourceError:
        return {}


def _discard(staged: Path, keep: set[str]) -> None:
    """Remove from a staging folder what is not to be moved."""
    for path in sorted(staged.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        elif path.relative_to(staged).as_posix() not in keep:
            path.unlink()


def _sweep(root: Path) -> None:
    """Remove staging folders whose processes are gone: nobody has them locked, and they are old."""
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.name == _JOURNAL or time.time() - folder.stat().st_mtime < STALE_SECONDS:
                continue
            with _opened(folder) as handle:
                if handle is None or _lock(handle):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for as long as the block, or the process, lasts."""
    with _opened(folder) as handle:
        if handle is not None:
            _lock(handle)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A handle of the folder to lock; None where there are no such locks."""
    if sys.platform == "win32":
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Take the lock if nobody has it; true as well where the file system has none."""
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # the file system has no locks
            return True
    return True


def _give_usual_mode(file: Path, usual: Path) -> None:
    """Let those read a file who may read one made in the usual way: writers that use temporary files leave it at 0600."""
    mode = stat.S_IMODE(file.stat().st_mode)
    wanted = mode | stat.S_IMODE(usual.stat().st_mode)
    if wanted != mode:
        file.chmod(wanted)


def _sync(path: Path) -> None:
    """Have a file, or a folder's names, on the disk; a folder cannot be opened everywhere."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if path.is_file() and error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # it is not on the disk
            raise
    finally:
        os.close(handle)
