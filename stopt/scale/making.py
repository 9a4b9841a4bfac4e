"""Chunks on their way into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from stopt.errors import ArtifactError
from stopt.scale.chunks import Chunk, Corpus
from stopt.scale.crew import Crew, hired
from stopt.scale.encoder import About
from stopt.scale.formats import Rows, Writer, open_writer
from stopt.scale.job import EncodeJob, Format, OnError
from stopt.scale.records import Made, Record
from stopt.scale.results import Refused, combined, encoded, look, stop_at
from stopt.scale.shards import JobFolder
from stopt.scale.sources import InputFile
from stopt.spec import ModelKind

__all__ = ["Progress", "Tell", "Workshop", "local_workshop", "make_shards", "missing"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: Rows that are done, those of an earlier run included.
        kept: Of these, rows of an earlier run.
        share: Share of the input that has been read, 0 to 1; 0 where its size is not known.
    """

    rows: int
    kept: int
    share: float

    @classmethod
    def at(cls, chunk: Chunk, kept: int) -> Progress:
        """Where a job is when a chunk is done, of which ``kept`` rows were there before."""
        return cls(chunk.end, min(kept, chunk.end), chunk.share)


Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Those who make the shards of a job.

    Attributes:
        about: What they encode with.
        make: Makes the shards that are not in the folder.
    """

    about: About
    make: Callable[[JobFolder], None]


@contextmanager
def local_workshop(
    job: EncodeJob, kind: ModelKind, files: Sequence[InputFile], format_: Format, tell: Tell
) -> Iterator[Workshop]:
    """Have this process, or workers of its own, make the shards of a job.

    Raises:
        StoptError: As :func:`~stopt.scale.crew.hired`, and as :func:`make_shards`.
    """
    with hired(job.model, job.workers or 1, tokens=format_ is Format.JSONL) as crew:

        def make(folder: JobFolder) -> None:
            corpus = Corpus(files, job.columns(pairs=kind is ModelKind.CROSS_ENCODER))
            chunks = corpus.chunks(job, needs_all=crew.about.needs_all)
            make_shards(job, folder, format_, corpus, missing(chunks, folder, tell), crew, tell)

        yield Workshop(crew.about, make)


def missing(chunks: Iterator[Chunk], folder: JobFolder, tell: Tell) -> Iterator[Chunk]:
    """Pass on chunks of shards that are not complete; those of the others are compared with what they were made of.

    Raises:
        ArtifactError: If they are something else.
    """
    kept = dict(folder.done)
    for shard, several in groupby(chunks, key=attrgetter("shard")):
        record = kept.pop(shard, None)
        if record is None:
            yield from several
            continue
        digest = hashlib.sha256()
        for chunk in several:
            chunk.digest(digest)
        require_same(folder, record, digest.hexdigest())
        tell(Progress.at(chunk, chunk.end))
    for record in kept.values():  # rows that are no longer there
        require_same(folder, record, "")


def require_same(folder: JobFolder, record: Record, found: str) -> None:
    """Make sure that a shard's texts are those that it was made of.

    Raises:
        ArtifactError: If they are not.
    """
    if found != record.text_sha256:
        last = record.first_row + record.rows - 1
        raise ArtifactError(
            f"the input has changed: rows {record.first_row} to {last} are not those that {record.file} was made of",
            f"put the input back as it was, or start again: --force replaces {folder.root}",
        )


def make_shards(
    job: EncodeJob,
    folder: JobFolder,
    format_: Format,
    corpus: Corpus,
    chunks: Iterator[Chunk],
    crew: Crew,
    tell: Tell,
) -> None:
    """Encode chunks and write them into shards.

    Args:
        job: The job.
        folder: Where shards go.
        format_: How they are written.
        corpus: The rows.
        chunks: Those that are wanted, all of a shard or none.
        crew: Those who encode.
        tell: Is told how far it is.

    Raises:
        InputError: If a row cannot be encoded, and that ends the job.
        ArtifactError: If a shard cannot be written.
    """
    kept = sum(record.rows for record in folder.done.values())
    made: _Shard | None = None
    try:
        for chunk, found in encoded(chunks, crew.encode):
            if made is not None and made.number != chunk.shard:
                made.commit()
                made = None
            if made is None:
                made = _Shard(folder, chunk, format_)
            rows, refused = combined(chunk, found, crew.about.kind, corpus.id_type)
            if job.on_error is OnError.STOP:
                stop_at(refused)
            made.add(chunk, rows, refused)
            if made.rows == job.shard_size:
                made.commit()
                made = None
            tell(Progress.at(chunk, kept))
        if made is not None:
            made.commit()
            made = None
    finally:
        if made is not None:
            made.abandon()


class _Shard:
    """A shard being made.

    Args:
        folder: Where it goes.
        chunk: Its first chunk.
        format_: How it is written.
    """

    def __init__(self, folder: JobFolder, chunk: Chunk, format_: Format) -> None:
        self.number = chunk.shard
        self.rows = 0
        self._first = chunk.first
        self._folder = folder
        self._digest = hashlib.sha256()
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        self._written = self._active = 0
        self._writer: Writer = open_writer(folder.staged(self.number), format_)

    def add(self, chunk: Chunk, rows: Rows, refused: Sequence[Refused]) -> None:
        """Write the results of a chunk, and which of its rows have none."""
        self._writer.add(rows)
        chunk.digest(self._digest)
        self.rows += len(chunk.rows)
        self._written += len(rows.ids)
        if refused:
            self._folder.reject(self.number, [each for each, _ in refused])
        self._shape, self._dtype, active = look(rows.block)
        self._active += active

    def commit(self) -> None:
        """Put it in its place."""
        self._writer.close()
        self._folder.commit(
            self.number,
            Made(
                first_row=self._first,
                rows=self.rows,
                written=self._written,
                rejected=self.rows - self._written,
                text_sha256=self._digest.hexdigest(),
                shape=self._shape,
                dtype=self._dtype,
                active=self._active,
            ),
        )

    def abandon(self) -> None:
        """Let go of it."""
        self._writer.close()
