"""Jobs on a Ray cluster: the same shards as one process makes.

A job's shards are the items of a Ray data set, and actors with a model each make them: read the shard's rows from the inputs,
encode them in the same chunks as one process would, and put the shard in its place. So the files are the same bytes, nothing
but the shards' numbers travels through the cluster, and a shard that is made twice, by an actor that was thought dead, is
made the same. All machines must see the model, the inputs and the output under the same paths.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from socket import gethostname
from typing import Any

from stopt import __version__
from stopt.errors import ArtifactError, WorkerError
from stopt.runtime.frames import Report
from stopt.scale.chunks import Corpus, IdType, Place
from stopt.scale.connection import RayCluster, connected
from stopt.scale.crew import Crew, encode_chunk
from stopt.scale.encoder import About, Encoder
from stopt.scale.job import EncodeJob, Format, ModelOptions
from stopt.scale.making import Progress, Tell, Workshop, make_shards, missing
from stopt.scale.ray import lists
from stopt.scale.shards import JobFolder, differences
from stopt.scale.sources import Columns, InputFile
from stopt.spec import ModelKind

__all__ = ["ShardMaker", "ray_workshop"]

# of an actor that dies, and of the shard that it had: what ends three actors and one ends the job
RETRIES = 3
MOST_BLOCKS = 2_000  # tasks that Ray keeps track of; a large job's have several shards each


@contextmanager
def ray_workshop(
    job: EncodeJob, files: Sequence[InputFile], format_: Format, tell: Tell
) -> Iterator[Workshop]:
    """Have a cluster make the shards of a job.

    Args:
        job: The job: ``ray_address`` says where the cluster is; where this process is connected already, that one is used,
            and without either one of this machine's processors is started that ends with the job.
        files: The inputs.
        format_: How shards are written.
        tell: Is told how far it is.

    Raises:
        MissingExtra: If Ray is not installed.
        OptionError: If there is no cluster at the address, or the job cannot be done by one.
        StoptError: If the model cannot be opened there; and while shards are made, the error that an actor had.
        WorkerError: If actors died, or failed in another way.
        ArtifactError: If a machine does not have the same model or inputs.
    """
    with connected(job) as cluster:
        model = replace(job.model, model=_everywhere(job.model.model), threads=cluster.cpus)
        job = replace(job, model=model)
        files = [replace(file, path=file.path.absolute()) for file in files]
        about = _described(model, cluster)
        yield Workshop(about, lambda folder: _make(job, cluster, about, files, folder, format_, tell))


def _everywhere(model: str) -> str:
    """A model's name on all machines: the whole path of a folder, and of the Hub the id."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _described(options: ModelOptions, cluster: RayCluster) -> About:
    """Have a machine of the cluster tell what it encodes with."""
    import ray

    task = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES)(_describe)
    found: About | Report = ray.get(task.remote(options))
    if isinstance(found, Report):
        raise _error_of(found)
    return found


def _describe(options: ModelOptions) -> About | Report:
    """Open the model; errors are returned as text, since not all of them can be pickled."""
    try:
        return Encoder(options).about()
    except Exception as error:
        return Report.of(error)


@dataclass(frozen=True, slots=True)
class Plan:
    """What all shards of a job have in common.

    Attributes:
        job: The job, its paths those of every machine.
        about: What it encodes with.
        files: The inputs.
        columns: The columns that are read.
        id_type: Type of the rows' ids.
        root: The folder that shards go to.
        format: How they are written.
        stopt: Version of stopt that began it.
    """

    job: EncodeJob
    about: About
    files: Sequence[InputFile]
    columns: Columns
    id_type: IdType
    root: Path
    format: Format
    stopt: str = __version__


def require_alike(found: About, wanted: About, stopt: str) -> None:
    """Make sure that an actor makes the vectors that the job is about.

    Args:
        found: What the actor encodes with.
        wanted: What the job does.
        stopt: Version of stopt that began the job.

    Raises:
        ArtifactError: If the actor's machine has another model, or other versions of what vectors depend on.
    """
    begun = {"stopt": stopt, **wanted.decisive}
    differing = list(differences(begun, {"stopt": __version__, **found.decisive}))
    if differing:
        raise ArtifactError(
            f"machine {gethostname()} of the cluster has another model, or other versions, than the job was begun with: "
            f"{'; '.join(differing)}",
            "install the same versions on all machines, and have them see the same model folder; then go on with --resume",
        )


def _make(
    job: EncodeJob,
    cluster: RayCluster,
    about: About,
    files: Sequence[InputFile],
    folder: JobFolder,
    format_: Format,
    tell: Tell,
) -> None:
    """Make the shards of a job that are not there."""
    columns = job.columns(pairs=about.kind is ModelKind.CROSS_ENCODER)
    corpus = Corpus(files, columns)
    wanted = _wanted(corpus.chunks(job), folder)
    if not wanted:
        return
    plan = Plan(job, about, files, columns, corpus.id_type, folder.root.absolute(), format_)
    kept = done = sum(record.rows for record in folder.done.values())
    total = kept + sum(each["rows"] for each in wanted)
    try:
        with closing(_run(plan, wanted, cluster)) as results:
            for rows, failure in results:
                if failure is not None:
                    raise _error_of(failure)
                done += rows
                tell(Progress(done, kept, done / max(1, total)))
    finally:
        folder.refresh()
    for each in wanted:
        record = folder.done.get(each["shard"])
        if record is None:
            raise WorkerError(f"shard {each['shard']} was not made", "go on with --resume")
        if record.text_sha256 != each["sha256"]:
            raise ArtifactError(
                f"the rows that {record.file} was made of are not those that this machine reads",
                "do all machines of the cluster see the same files?",
            )


def _wanted(chunks: Iterator[Any], folder: JobFolder) -> list[dict[str, Any]]:
    """The shards that are not complete: where each begins, how many rows it has, and their hash."""
    found = []
    for shard, several in groupby(missing(chunks, folder, lambda _: None), key=attrgetter("shard")):
        digest, rows, place = hashlib.sha256(), 0, None
        for chunk in several:
            chunk.digest(digest)
            rows += len(chunk.rows)
            place = place or chunk.place
        assert place is not None
        found.append(
            {
                "shard": shard,
                "rows": rows,
                "sha256": digest.hexdigest(),
                "number": place.number,
                "file": place.file,
                "end": place.start[0],
                "line": place.start[1],
            }
        )
    return found


def _run(
    plan: Plan, wanted: Sequence[Mapping[str, Any]], cluster: RayCluster
) -> Generator[tuple[int, Report | None]]:
    """Have actors make shards; yields the rows of each and its error, in any order."""
    import ray
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of each execution on stderr
    items = ray.data.from_items(list(wanted), override_num_blocks=min(len(wanted), MOST_BLOCKS))
    items.context.enable_progress_bars = False
    items.context.print_on_execution_start = False
    items.context.max_errored_blocks = 0
    # of Ray's own, how many times an actor and its task are tried again: infinitely many by default. Ray 2.60 has no named
    # parameters for them yet, and warns that this way will go
    retries: dict[str, Any] = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        made = items.map_batches(
            ShardMaker,
            fn_constructor_kwargs={"plan": plan},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(cluster.actors, len(wanted)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus or None,
            **retries,
        )
    try:
        for row in made.iter_rows():
            yield int(row["rows"]), pickle.loads(row["failure"]) if row["failure"] else None
    except RayError as error:
        raise WorkerError(
            f"the cluster could not make all shards: {_brief(error)}",
            "see Ray's logs; what is complete stays, go on with --resume",
        ) from error


class ShardMaker:
    """An actor that makes shards of a job, one at a time.

    Args:
        plan: What they have in common.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._failure: Report | None = None
        try:
            self._crew = self._open()
        except Exception as error:  # an actor that cannot be made would be made again and again
            self._failure = Report.of(error)

    def _open(self) -> Crew:
        plan = self._plan
        encoder = Encoder(plan.job.model, tokens=plan.format is Format.JSONL)
        about = encoder.about()
        require_alike(about, plan.about, plan.stopt)
        return Crew(about, lambda chunks: (encode_chunk(encoder, chunk) for chunk in chunks))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards of a batch that nobody has made yet."""
        failures = []
        for place, _ in enumerate(batch["shard"]):
            shard = {name: values[place] for name, values in batch.items()}
            failures.append(self._failure or self._make(shard))
        told = [b"" if failure is None else pickle.dumps(failure) for failure in failures]
        return {"shard": batch["shard"], "rows": batch["rows"], "failure": lists(told)}

    def _make(self, shard: Mapping[str, Any]) -> Report | None:
        plan, number, rows = self._plan, int(shard["shard"]), int(shard["rows"])
        folder = JobFolder(plan.root, plan.format.ending)
        place = Place(int(shard["number"]), int(shard["file"]), (int(shard["end"]), int(shard["line"])))
        try:
            if folder.has(number):
                return None
            corpus = Corpus(plan.files, plan.columns, id_type=plan.id_type, place=place, rows=rows)
            make_shards(
                plan.job, folder, plan.format, corpus, corpus.chunks(plan.job), self._crew, lambda _: None
            )
        except Exception as error:
            folder.discard()
            return Report.of(error)
        return None


def _error_of(report: Report) -> Exception:
    """The error that an actor had, as in one process."""
    return report.known() or WorkerError(
        f"an actor failed: {report.name}: {report.text}", "go on with --resume once that is solved"
    )


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
