"""The folder of a job: shards that appear complete or not at all, a record of each, and what job they belong to.

``_job.json`` says which job it is; ``_progress/`` has a record of each complete shard while the job runs, and the rows of it
that could not be encoded; these become ``_rejected.jsonl``, and ``_manifest.json`` and then ``_SUCCESS`` appear, when all
are. Readers of Parquet folders pass over names that begin with ``_`` or ``.``. A job that replaces another is made in
``.next/``, and takes the other's place when it is complete.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stopt.artifact import replacing, sha256, write_text
from stopt.errors import ArtifactError
from stopt.folder import read_json_object
from stopt.scale.records import Made, Record, Rejected

__all__ = ["REJECTED", "JobFolder", "differences", "locked"]

SCHEMA = 2  # of 1, a shard's record had the rows in it that could not be encoded
JOB, PROGRESS, REJECTED, MANIFEST, SUCCESS = (
    "_job.json",
    "_progress",
    "_rejected.jsonl",
    "_manifest.json",
    "_SUCCESS",
)
NEXT = ".next"
LARGEST_JSON = 2**30  # half a kilobyte for each shard or input: a billion rows have 61,036 shards


class JobFolder:
    """The folder that a job's shards are put into.

    Args:
        root: The folder.
        ending: How the names of shards end.
    """

    def __init__(self, root: Path, ending: str) -> None:
        self.root = root
        self._ending = ending
        self.done: dict[int, Record] = {}
        self._new: list[Path] = []
        self._mark = f"{os.getpid()}-{secrets.token_hex(4)}"

    @property
    def is_job(self) -> bool:
        """Whether there is a job in it."""
        return (self.root / JOB).is_file()

    @property
    def is_complete(self) -> bool:
        """Whether the job has ended."""
        return (self.root / SUCCESS).is_file()

    @property
    def is_begun(self) -> bool:
        """Whether a job has left results in it, complete or not, or was to replace them."""
        begun = any((self.root / PROGRESS).glob("*.json"))
        return self.is_job and (self.is_complete or begun or self.successor().is_complete)

    def successor(self) -> JobFolder:
        """The folder of a job that will replace this one."""
        return JobFolder(self.root / NEXT, self._ending)

    def check_free(self, *, resume: bool, force: bool) -> None:
        """Make sure, before long work, that a job may use the folder.

        Raises:
            ArtifactError: If it has something in it that must not be lost.
        """
        if self.root.is_dir() and any(self.root.iterdir()):
            if not self.is_job:
                raise ArtifactError(
                    f"{self.root} has files in it that are not of a job", "name another folder, or empty it"
                )
            if self.is_begun and not (resume or force):
                state = "a complete job" if self.is_complete else "a job that was interrupted"
                hint = (
                    "replace it with --force"
                    if self.is_complete
                    else "go on with it: --resume; or start again: --force"
                )
                raise ArtifactError(f"{self.root} has {state} in it", hint)
        elif self.root.exists() and not self.root.is_dir():
            raise ArtifactError(f"{self.root} is a file", "name a folder")

    @contextmanager
    def opened(self, identity: Mapping[str, Any], *, resume: bool) -> Iterator[JobFolder]:
        """Use the folder for a job, alone; one that ends early leaves complete shards, or nothing.

        Args:
            identity: What decides the job's bytes.
            resume: Whether shards that are there are kept, if they are of the same job.

        Raises:
            ArtifactError: If it cannot be written to, is in use, or has another job in it.
        """
        with self._writing():
            self._new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root):
                self.take_over()
                self._begin(identity, resume=resume)
                try:
                    self._read_records()
                    yield self
                finally:
                    self._tidy()

    def staged(self, shard: int) -> Path:
        """Where to write a shard before it is complete."""
        return self.root / f".{self._name(shard)}.{self._mark}"

    def reject(self, shard: int, rows: Sequence[Rejected]) -> None:
        """Write rows that could not be encoded behind those that a shard has already, before it is complete."""
        with self._staged_rejects(shard).open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)

    def commit(self, shard: int, made: Made) -> Record:
        """Put a shard that has been written in its place, with the rows that it rejected, and record it.

        Args:
            shard: Its number.
            made: What it was made of.
        """
        staged, name = self.staged(shard), self._name(shard)
        _sync(staged)
        size, digest = staged.stat().st_size, sha256(staged)
        staged.replace(self.root / name)
        rejected_bytes = self._commit_rejects(shard) if made.rejected else 0
        record = Record(
            **asdict(made),
            shard=shard,
            file=name,
            size_bytes=size,
            sha256=digest,
            rejected_bytes=rejected_bytes,
        )
        _sync(self.root)
        write_text(self._progress_of(shard), json.dumps(asdict(record)) + "\n")
        self.done[shard] = record
        return record

    def discard(self) -> None:
        """Remove what has been written of shards that are not complete."""
        for stale in self.root.glob(f".part-*.{self._mark}*"):
            stale.unlink(missing_ok=True)

    def has(self, shard: int) -> bool:
        """Whether a shard is complete, going by what is on the disk."""
        path = self._progress_of(shard)
        return path.is_file() and self._recorded(path) is not None

    def refresh(self) -> None:
        """Read the records of shards that others have completed."""
        self._read_records()

    def finish(self) -> None:
        """Declare the job complete."""
        self._sweep()  # of an actor that died
        records = [self.done[shard] for shard in sorted(self.done)]
        rejected = sum(each.rejected for each in records)
        if rejected:
            self._join_rejects([each.shard for each in records if each.rejected])
        document = {"schema": SCHEMA, "rows": sum(each.written for each in records), "rejected": rejected}
        shards = [asdict(each) for each in records]
        write_text(self.root / MANIFEST, json.dumps({**document, "shards": shards}, indent=1) + "\n")
        _sync(self.root)
        write_text(self.root / SUCCESS, "")
        _sync(self.root)
        shutil.rmtree(self.root / PROGRESS, ignore_errors=True)

    def take_over(self) -> None:
        """Put a successor that is complete in the place of what is here; of one that is not, do nothing.

        Interrupted, it goes on the next time: the successor's ``_SUCCESS`` is the last that is moved.
        """
        made = self.root / NEXT
        if not (made / SUCCESS).is_file():
            return
        manifest = read_json_object(made / MANIFEST, LARGEST_JSON)
        for name in (SUCCESS, MANIFEST):
            (self.root / name).unlink(missing_ok=True)
        shutil.rmtree(self.root / PROGRESS, ignore_errors=True)
        names = dict.fromkeys([JOB, REJECTED, *(each["file"] for each in manifest["shards"])])
        for stale in self.root.glob("part-??????.*"):
            if stale.name not in names:
                stale.unlink()
        self._sweep()
        if not manifest["rejected"]:
            (self.root / REJECTED).unlink(missing_ok=True)
        for name in names:
            if (made / name).is_file():
                (made / name).replace(self.root / name)
        write_text(self.root / MANIFEST, (made / MANIFEST).read_text(encoding="utf-8"))
        _sync(self.root)
        (made / SUCCESS).replace(self.root / SUCCESS)
        _sync(self.root)
        shutil.rmtree(made, ignore_errors=True)

    def parts(self) -> list[Path]:
        """The complete shards, in order."""
        return [self.root / self.done[shard].file for shard in sorted(self.done)]

    def _progress_of(self, shard: int) -> Path:
        return self.root / PROGRESS / f"{shard:06}.json"

    def _rejects_of(self, shard: int) -> Path:
        return self.root / PROGRESS / f"{shard:06}.rejected.jsonl"

    def _staged_rejects(self, shard: int) -> Path:
        return self.root / f".part-{shard:06}.rejected.jsonl.{self._mark}"

    def _name(self, shard: int) -> str:
        return f"part-{shard:06}{self._ending}"

    def _commit_rejects(self, shard: int) -> int:
        """Put a shard's rejected rows in their place, before they are recorded; returns their size in bytes."""
        staged = self._staged_rejects(shard)
        _sync(staged)
        size = staged.stat().st_size
        staged.replace(self._rejects_of(shard))
        _sync(self.root / PROGRESS)
        return size

    def _join_rejects(self, shards: Sequence[int]) -> None:
        """Put the rejected rows of shards together, in order, a little at a time."""
        with replacing(self.root / REJECTED) as temporary:
            with temporary.open("wb") as file:
                for shard in shards:
                    with self._rejects_of(shard).open("rb") as source:
                        shutil.copyfileobj(source, file)
            _sync(temporary)

    def _sweep(self) -> None:
        """Remove what processes that died have left half written."""
        for name in ("part-*", JOB, REJECTED, MANIFEST, SUCCESS):
            for stale in self.root.glob(f".{name}.*"):
                stale.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f"{len(self.done)} shards are complete: free some space, then go on with --resume"
            raise ArtifactError(
                f"writing to {self.root} failed: {error.strerror or error}",
                kept if self.done else "name another place: -o",
            ) from error

    def _begin(self, identity: Mapping[str, Any], *, resume: bool) -> None:
        text = json.dumps({"schema": SCHEMA, **identity}, indent=1, ensure_ascii=False) + "\n"
        job = self.root / JOB
        if job.is_file() and resume:
            self._compare(read_json_object(job, LARGEST_JSON), json.loads(text))
        else:
            self._clear()
            write_text(job, text)
        if self.is_complete:  # of a process that died just then
            shutil.rmtree(self.root / PROGRESS, ignore_errors=True)
        else:
            (self.root / PROGRESS).mkdir(exist_ok=True)
        self._sweep()

    def _compare(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        if found.get("schema") != SCHEMA:
            raise ArtifactError(
                f"{self.root} has a job of another version of stopt in it: its schema is {found.get('schema')!r}, not {SCHEMA}",
                "go on with that version; or start again: --force",
            )
        differing = list(differences(found, wanted))
        if differing:
            raise ArtifactError(
                f"{self.root} has another job in it: {'; '.join(differing)}",
                "go on with the same options, model and inputs; or start again: --force",
            )

    def _clear(self) -> None:
        """Remove what an earlier job left, its claim to be complete first."""
        for name in (SUCCESS, MANIFEST, REJECTED):
            (self.root / name).unlink(missing_ok=True)
        shutil.rmtree(self.root / PROGRESS, ignore_errors=True)
        for part in self.root.glob("part-??????.*"):
            part.unlink()

    def _read_records(self) -> None:
        """Take in the shards that are recorded, and there as recorded."""
        self.done = {}
        if self.is_complete:
            shards = read_json_object(self.root / MANIFEST, LARGEST_JSON)["shards"]
            self.done = {each["shard"]: Record(**each) for each in shards}
            return
        for path in sorted((self.root / PROGRESS).glob("*.json")):
            if (record := self._recorded(path)) is not None:
                self.done[record.shard] = record

    def _recorded(self, path: Path) -> Record | None:
        """A shard's record; None if its files are not there as recorded."""
        record = Record.read(path)
        wanted = {self.root / record.file: record.size_bytes}
        if record.rejected:
            wanted[self._rejects_of(record.shard)] = record.rejected_bytes
        there = all(file.is_file() and file.stat().st_size == size for file, size in wanted.items())
        return record if there else None

    def _tidy(self) -> None:
        """Remove what is not complete; where no shard is, all that this job has put there."""
        with suppress(OSError):
            self.discard()
            if not self.done and not self.is_complete:
                self._clear()
                (self.root / JOB).unlink(missing_ok=True)
                for folder in self._new:
                    folder.rmdir()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """In words, where two objects differ."""
    for key in dict.fromkeys([*found, *wanted]):
        old, new = found.get(key), wanted.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; where the system or file system cannot, without.

    Raises:
        ArtifactError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(number)
        raise ArtifactError(
            f"another process is at work in {folder}", "wait for it, or name another folder"
        ) from error
    except OSError:  # a file system that has no locks
        pass
    try:
        yield
    finally:
        os.close(number)


def _sync(path: Path) -> None:
    """Have a file, or a folder's names, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
