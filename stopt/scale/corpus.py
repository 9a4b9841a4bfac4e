"""Running a job: rows to chunks, chunks to results in the order of the rows, results to shards."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from stopt.errors import ArtifactError
from stopt.scale.chunks import Chunk, Corpus
from stopt.scale.crew import Crew, hired
from stopt.scale.encoder import About, Block, kind_of, refuse_options
from stopt.scale.formats import Rows, Writer, open_writer
from stopt.scale.job import EncodeJob, Format, OnError
from stopt.scale.results import Refused, combined, encoded, look, stop_at
from stopt.scale.shards import JobFolder, Made, Record
from stopt.scale.sources import InputFile, find_inputs
from stopt.scale.target import Target
from stopt.spec import ModelKind

__all__ = ["Progress", "Report", "Results", "encode_corpus", "stream"]


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


Say = Callable[[str], None]
Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a job has done.

    Attributes:
        output: The folder or file.
        model_file: The file that was served; for torch the folder of the weights.
        shape: Rows and width of the results.
        dtype: Their dtype.
        active_dims: Of sparse vectors: mean number of values that are not zero; else None.
        rejected: Rows that could not be encoded.
        rejects: The file that they are in; None if there is none.
        shards: Number of shards.
        kept_rows: Rows that were there from an earlier run.
        seconds: Time taken.
    """

    output: Path
    model_file: str
    shape: tuple[int, ...]
    dtype: str
    active_dims: float | None
    rejected: int
    rejects: Path | None
    shards: int
    kept_rows: int
    seconds: float


def encode_corpus(job: EncodeJob, say: Say = lambda _: None, tell: Tell = lambda _: None) -> Report:
    """Encode a corpus into shards, or into one file.

    Memory does not grow with the corpus, unless ranges of codes are to come from all of its embeddings.

    Args:
        job: What to encode, how, and where to.
        say: Is told in words what runs where.
        tell: Is told how far it is.

    Raises:
        SourceError: If the model or an input cannot be read.
        InputError: If a row cannot be encoded; says which.
        OptionError: If an option's value is wrong, or does not fit the model or the inputs.
        ArtifactError: If the output is in the way, is another job's, or cannot be written.
        MissingExtra: If a package is missing.
    """
    started = time.perf_counter()
    kind = kind_of(job.model.model)
    target = Target.of(job, kind)
    files = _inputs(job)
    with hired(job.model, job.workers, tokens=target.format is Format.JSONL) as crew:
        say(crew.about.summary)
        target.require_cut(needs_all=crew.about.needs_all)
        identity = job.identity(crew.about.decisive, files, target.format)
        with target.opened(identity, say, resume=job.resume) as folder:
            kept = sum(record.rows for record in folder.done.values())
            if not folder.is_complete:
                corpus = Corpus(files, job.columns(pairs=kind is ModelKind.CROSS_ENCODER))
                _Making(job, target.format, corpus, folder, tell).run(crew)
            target.complete(folder)
    return _report(target, crew.about, kept, time.perf_counter() - started)


def _report(target: Target, about: About, kept: int, seconds: float) -> Report:
    done = target.folder.done
    records = [done[shard] for shard in sorted(done)]
    written = sum(record.written for record in records)
    active = sum(record.active for record in records) / max(1, written)
    return Report(
        output=target.output,
        model_file=about.file,
        shape=(written, *records[0].shape),
        dtype=records[0].dtype,
        active_dims=active if about.kind is ModelKind.SPARSE else None,
        rejected=sum(record.rows - record.written for record in records),
        rejects=target.rejects(),
        shards=len(records),
        kept_rows=kept,
        seconds=seconds,
    )


@dataclass(slots=True)
class Results:
    """Results while they come.

    Attributes:
        rows: The results, a chunk at a time; of no text one chunk without rows.
        model_file: The file that is served; for torch the folder of the weights.
        kind: What the model is.
        shape: Shape of a result; known once the first chunk is there.
        dtype: Its dtype.
        active: Of sparse vectors: values that are not zero, so far.
    """

    rows: Iterator[Rows]
    model_file: str
    kind: ModelKind
    shape: tuple[int, ...] = ()
    dtype: str = ""
    active: int = 0

    def look(self, block: Block) -> None:
        """Take note of a chunk's results."""
        self.shape, self.dtype, active = look(block)
        self.active += active


@contextmanager
def stream(job: EncodeJob, say: Say = lambda _: None, tell: Tell = lambda _: None) -> Iterator[Results]:
    """Encode a corpus and hand out the results while they come; otherwise as :func:`encode_corpus`. Nothing is written."""
    kind = kind_of(job.model.model)
    refuse_options(kind, job.model)
    corpus = Corpus(_inputs(job), job.columns(pairs=kind is ModelKind.CROSS_ENCODER))
    with hired(job.model, job.workers, tokens=True) as crew:
        say(crew.about.summary)

        def rows() -> Iterator[Rows]:
            chunks = corpus.chunks(job, needs_all=crew.about.needs_all)
            for chunk, found in encoded(chunks, crew.encode):
                made, refused = combined(chunk, found, kind, corpus.id_type)
                stop_at(refused)
                results.look(found.block)
                tell(Progress(chunk.first + len(chunk.rows), 0, corpus.share))
                yield made

        results = Results(rows(), crew.about.file, kind)
        yield results


def _inputs(job: EncodeJob) -> list[InputFile]:
    return find_inputs(job.inputs, jsonl=job.jsonl or bool(job.column or job.id_column))


class _Making:
    """Chunks on their way into the shards of a folder.

    Args:
        job: The job.
        format_: How shards are written.
        corpus: The rows.
        folder: Where shards go.
        tell: Is told how far it is.
    """

    def __init__(
        self, job: EncodeJob, format_: Format, corpus: Corpus, folder: JobFolder, tell: Tell
    ) -> None:
        self._job, self._format = job, format_
        self._corpus, self._folder, self._tell = corpus, folder, tell
        self._kept = 0

    def run(self, crew: Crew) -> None:
        """Make the shards that are not there."""
        chunks = self._missing(self._corpus.chunks(self._job, needs_all=crew.about.needs_all))
        made: _Shard | None = None
        try:
            for chunk, found in encoded(chunks, crew.encode):
                if made is not None and made.number != chunk.shard:
                    made.commit()
                    made = None
                if made is None:
                    made = _Shard(self._folder, chunk, self._format)
                rows, refused = combined(chunk, found, crew.about.kind, self._corpus.id_type)
                if self._job.on_error is OnError.STOP:
                    stop_at(refused)
                made.add(chunk, rows, refused)
                if made.rows == self._job.shard_size:
                    made.commit()
                    made = None
                self._tell(Progress(chunk.first + len(chunk.rows), self._kept, self._corpus.share))
            if made is not None:
                made.commit()
                made = None
        finally:
            if made is not None:
                made.abandon()

    def _missing(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Chunks of shards that are not complete; those of the others are compared with what they were made of."""
        kept = dict(self._folder.done)
        for shard, several in groupby(chunks, key=attrgetter("shard")):
            record = kept.pop(shard, None)
            if record is None:
                yield from several
                continue
            digest = hashlib.sha256()
            for chunk in several:
                chunk.digest(digest)
            self._require_same(record, digest.hexdigest())
            self._kept += record.rows
            self._tell(Progress(record.first_row + record.rows, self._kept, self._corpus.share))
        for record in kept.values():  # rows that are no longer there
            self._require_same(record, "")

    def _require_same(self, record: Record, found: str) -> None:
        if found != record.text_sha256:
            last = record.first_row + record.rows - 1
            raise ArtifactError(
                f"the input has changed: rows {record.first_row} to {last} are not those that {record.file} was made of",
                f"put the input back as it was, or start again: --force replaces {self._folder.root}",
            )


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
        self._refused: list[Refused] = []
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        self._written = self._active = 0
        self._writer: Writer = open_writer(folder.staged(self.number), format_)

    def add(self, chunk: Chunk, rows: Rows, refused: Sequence[Refused]) -> None:
        """Write the results of a chunk."""
        self._writer.add(rows)
        chunk.digest(self._digest)
        self.rows += len(chunk.rows)
        self._written += len(rows.ids)
        self._refused += refused
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
                text_sha256=self._digest.hexdigest(),
                shape=self._shape,
                dtype=self._dtype,
                active=self._active,
                rejected=tuple(each for each, _ in self._refused),
            ),
        )

    def abandon(self) -> None:
        """Let go of it."""
        self._writer.close()
