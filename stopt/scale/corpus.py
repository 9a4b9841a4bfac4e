"""Running a job: rows to chunks, chunks to results in the order of the rows, results to shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from stopt.scale.chunks import Corpus
from stopt.scale.crew import hired
from stopt.scale.encoder import About, Block, kind_of, refuse_options
from stopt.scale.formats import Rows
from stopt.scale.job import EncodeJob, Engine, Format
from stopt.scale.making import Progress, Tell, Workshop, local_workshop
from stopt.scale.results import combined, encoded, look, stop_at
from stopt.scale.sources import InputFile, find_inputs
from stopt.scale.target import Target
from stopt.spec import ModelKind

__all__ = ["Report", "Results", "encode_corpus", "stream"]


Say = Callable[[str], None]


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
        WorkerError: If workers or actors died, and others in their place, too.
    """
    started = time.perf_counter()
    kind = kind_of(job.model.model)
    target = Target.of(job, kind)
    files = _inputs(job)
    target.require_apart(job, files)
    with _workshop(job, kind, files, target.format, tell) as workshop:
        say(workshop.about.summary)
        target.require_cut(needs_all=workshop.about.needs_all, engine=job.engine)
        identity = job.identity(workshop.about.decisive, files, target.format)
        with target.opened(identity, say, resume=job.resume) as folder:
            kept = sum(record.rows for record in folder.done.values())
            if not folder.is_complete:
                workshop.make(folder)
            target.complete(folder)
    return _report(target, workshop.about, kept, time.perf_counter() - started)


def _workshop(
    job: EncodeJob, kind: ModelKind, files: Sequence[InputFile], format_: Format, tell: Tell
) -> AbstractContextManager[Workshop]:
    match job.engine:
        case Engine.LOCAL:
            return local_workshop(job, kind, files, format_, tell)
        case Engine.RAY:
            from stopt.scale.cluster import ray_workshop

            return ray_workshop(job, files, format_, tell)
        case _:
            assert_never(job.engine)


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
    with hired(job.model, job.workers or 1, tokens=True) as crew:
        say(crew.about.summary)

        def rows() -> Iterator[Rows]:
            chunks = corpus.chunks(job, needs_all=crew.about.needs_all)
            for chunk, found in encoded(chunks, crew.encode):
                made, refused = combined(chunk, found, kind, corpus.id_type)
                stop_at(refused)
                results.look(found.block)
                tell(Progress.at(chunk, 0))
                yield made

        results = Results(rows(), crew.about.file, kind)
        yield results


def _inputs(job: EncodeJob) -> list[InputFile]:
    return find_inputs(job.inputs, jsonl=job.jsonl or bool(job.column or job.id_column))
