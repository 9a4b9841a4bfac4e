"""Where a job's results go: a folder of shards, or one file that is put together of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stopt.artifact import require_folder_of
from stopt.errors import ArtifactError, OptionError
from stopt.overlap import require_apart, require_not_of_model, require_not_stream
from stopt.scale.encoder import ranges_missing, refuse_options
from stopt.scale.formats import formats_of, join, require_pyarrow
from stopt.scale.job import EncodeJob, Engine, Format, OnError
from stopt.scale.shards import REJECTED, JobFolder, locked
from stopt.scale.sources import STDIN, InputFile
from stopt.spec import ModelKind

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a job's results go.

    Attributes:
        output: The folder or the file.
        format: How it is written.
        folder: The folder of shards; of a file, one beside it.
        resumable: Whether the folder beside a file stays, to tell that the job is complete.
        replaced: The folder of another job, whose place this one takes when it is complete.
    """

    output: Path
    format: Format
    folder: JobFolder
    resumable: bool
    replaced: JobFolder | None = None

    @classmethod
    def of(cls, job: EncodeJob, kind: ModelKind) -> Target:
        """Decide where results go, before anything is read.

        Raises:
            OptionError: If an option does not fit the kind of model or the format.
            ArtifactError: If something is in the way.
            MissingExtra: If a package is missing.
        """
        refuse_options(kind, job.model)
        output = job.output
        if output is None:
            raise OptionError("the job has no output", "name a folder or a file")
        known = formats_of(kind)
        named = next((each for each in known if each.ending == output.suffix), None)
        is_folder = output.is_dir() or (named is None and (job.format is not None or not output.suffix))
        format_ = (
            _folder_format(job.format, kind) if is_folder else _file_format(output, job.format, named, kind)
        )
        _check(job, format_)
        if is_folder:
            folder = JobFolder(output, format_.ending)
        else:
            folder = JobFolder(output.with_name(f"{output.name}.job"), format_.ending)
            if output.exists() and not job.force and not (job.resume and folder.is_job):
                raise ArtifactError(f"{output} exists already", "replace it with --force")
            require_folder_of(output)
        folder.check_free(resume=job.resume, force=job.force)
        successor = folder.successor()
        # with both, an interrupted job is gone on with: that which was to replace the other, if there is one
        if is_folder and job.force and folder.is_begun and (successor.is_job or not job.resume):
            return cls(output, format_, successor, job.resume, folder)
        return cls(output, format_, folder, job.resume)

    def require_apart(self, job: EncodeJob, files: Sequence[InputFile]) -> None:
        """Make sure that nothing the job reads is replaced, removed or added to by what it writes.

        Raises:
            ArtifactError: If it would be.
        """
        given = (Path(each) for each in job.inputs)
        read = [
            *(file.path for file in files if file.path != STDIN),
            *(each for each in given if each.is_dir()),
        ]
        written = [(self.output, "the output")]
        if self.is_file:
            written += [
                (self.folder.root, "the folder of shards"),
                (self._rejects, "the file of rejected rows"),
            ]
        for place, what in written:
            require_apart(place, read, what=what)
            require_not_of_model(place, job.model.model, what=what)
            if any(file.path == STDIN for file in files):
                require_not_stream(place, 0, what="is where standard input comes from")

    @property
    def is_file(self) -> bool:
        """Whether it is one file."""
        return self.output != (self.replaced or self.folder).root

    def require_cut(self, *, needs_all: bool, engine: Engine) -> None:
        """Make sure that codes do not depend on all embeddings of the job where they are written in shards.

        Raises:
            OptionError: If they do.
        """
        if needs_all and (engine is Engine.RAY or not self.is_file):
            raise ranges_missing()

    @contextmanager
    def opened(
        self, identity: Mapping[str, Any], say: Callable[[str], None], *, resume: bool
    ) -> Iterator[JobFolder]:
        """Use the folder for the job; if it ends early, say what is left."""
        folder = self.folder
        if self.is_file and folder.is_complete and not self.output.exists():
            resume = False  # the file is gone, and so are the shards that it was made of
        try:
            with self._others_held(), folder.opened(identity, resume=resume):
                yield folder
                if self.is_file and not self.resumable:
                    shutil.rmtree(folder.root, ignore_errors=True)
        except BaseException:
            if folder.done and folder.root.is_dir() and not folder.is_complete:
                rows = sum(record.rows for record in folder.done.values())
                how = "--force --resume" if self.replaced else "--resume"
                say(
                    f"{rows:,} rows in {len(folder.done)} complete shards stay in {folder.root}; {how} goes on from there"
                )
            raise

    @contextmanager
    def _others_held(self) -> Iterator[None]:
        """Keep the job that is to be replaced from being worked on."""
        if self.replaced is None:
            yield
            return
        with locked(self.replaced.root):
            self.replaced.take_over()  # by one that was interrupted as it did
            yield

    def complete(self, folder: JobFolder) -> None:
        """Declare the job complete; a file is put together of its shards before, and they go."""
        if not folder.is_complete:
            if self.is_file:
                joined = folder.root / ".joined"
                join(folder.parts(), self.format, joined)
                joined.replace(self.output)
                self._rejects.unlink(missing_ok=True)  # of what was there before
            folder.finish()
        if self.replaced is not None:
            self.replaced.take_over()
        if self.is_file:
            if (rejected := folder.root / REJECTED).is_file():
                rejected.replace(self._rejects)
            for part in folder.parts():
                part.unlink(missing_ok=True)

    def rejects(self) -> Path | None:
        """The file of rows that could not be encoded; None if there is none."""
        place = self._rejects if self.is_file else self.output / REJECTED
        return place if place.is_file() else None

    @property
    def _rejects(self) -> Path:
        return self.output.with_name(f"{self.output.name}{REJECTED.replace('_', '.')}")


def _folder_format(given: Format | None, kind: ModelKind) -> Format:
    known = formats_of(kind)
    chosen = given or Format.PARQUET
    if chosen not in known:
        raise OptionError(
            f"results of a {kind.value} model cannot be written as {chosen.value}",
            f"they can as {', '.join(each.value for each in known)}",
        )
    return chosen


def _file_format(output: Path, given: Format | None, named: Format | None, kind: ModelKind) -> Format:
    if named is None:
        raise OptionError(
            f"{output} is neither {' nor '.join(each.ending for each in formats_of(kind))}",
            "a file's ending chooses the format; a name without one is a folder of Parquet files",
        )
    if given not in (None, named):
        raise OptionError(
            f"the output is {output.name}, and its format {given and given.value}",
            "leave --output-format out",
        )
    return named


def _check(job: EncodeJob, format_: Format) -> None:
    if format_ is Format.PARQUET:
        require_pyarrow()
    if format_ in (Format.NPY, Format.NPZ):
        for asked, what in (
            (job.id_column is not None, "--id-column"),
            (job.on_error is OnError.REJECT, "--on-error reject"),
        ):
            if asked:
                raise OptionError(
                    f"{format_.ending} files have no ids, without which {what} makes no sense",
                    "write Parquet or JSONL",
                )
