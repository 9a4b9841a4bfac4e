"""``stopt search``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from stopt.cli import options
from stopt.cli.output import Output

__all__ = ["search"]

WIDTH = 100  # characters of a text that are shown


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option(
    "--top-k", type=click.IntRange(min=1), default=10, show_default=True, help="Results for each query."
)
@click.option("--model", show_default="the one that built the index", help="Model folder or Hub id.")
@options.serving_backend
@options.file_name
@click.option("--device", help="cpu, cuda, cuda:1 …")
@click.option("--no-rescore", is_flag=True, help="Leave results in the order of the codes.")
@options.output_options
def search(
    index: Path,
    queries: tuple[str, ...],
    top_k: int,
    model: str | None,
    backend: str | None,
    file_name: str | None,
    device: str | None,
    no_rescore: bool,
    out: Output,
) -> None:
    """Search INDEX, which stopt index has built.

    Queries are encoded by the file that built the index. Another one (--model, --file-name) is measured first with texts
    of the index, and refused if it does not find what the index's own file finds.

    \b
    Example:
      stopt search corpus.index "how do I reset my password"
      stopt search corpus.index "first query" "second query" --top-k 3 --format json
    """
    from stopt.embeddings.index_files import load_index

    started = time.perf_counter()
    loaded = load_index(index)
    encoder = _open(loaded.space, model, backend, file_name, device)
    loading = time.perf_counter() - started
    space = loaded.space
    assert space is not None
    verdict = None
    if not _is_same(encoder, space):
        out.step(f"{encoder.file} has not built this index: measuring whether it can search it")
        verdict = loaded.measure(encoder)
        if (failure := verdict.failure()) is not None:
            raise failure
        out.step(f"it finds {100 * verdict.recall:.1f} % of the ten nearest")
    started = time.perf_counter()
    embeddings = encoder.encode_query(
        list(queries), truncate_dim=space.truncate_dim, normalize_embeddings=space.normalized
    )
    encoding = time.perf_counter() - started
    searched = loaded.without_rescoring() if no_rescore else loaded
    started = time.perf_counter()
    found = searched.search(embeddings, top_k)
    searching = time.perf_counter() - started
    results: list[dict[str, Any]] = [
        {
            "query": query,
            "hits": [
                {**hit, "line": loaded.lines[hit["corpus_id"]], "text": loaded.texts[hit["corpus_id"]]}
                for hit in row
            ],
        }
        for query, row in zip(queries, found, strict=True)
    ]
    timings = {"loading": loading, "encoding": encoding, "searching": searching}
    data: dict[str, Any] = {
        "index": index,
        "documents": len(loaded),
        "precision": loaded.options.precision,
        "seconds": {name: round(value, 6) for name, value in timings.items()},
        "compatibility": verdict.as_dict() if verdict else None,
        "results": results,
    }
    best = "\n".join(str(row["hits"][0]["line"]) for row in results if row["hits"])
    out.result("\n\n".join(_lines(row, titled=len(results) > 1) for row in results), data, best)
    out.step(
        f"loading {loading:.2f} s, encoding {1000 * encoding:.1f} ms, searching {len(loaded):,} documents "
        f"{1000 * searching:.1f} ms"
    )


def _open(
    space: Any, model: str | None, backend: str | None, file_name: str | None, device: str | None
) -> Any:
    """The model that encodes queries: by default the very file that built the index."""
    from stopt.errors import OptionError
    from stopt.runtime.sentence_transformer import SentenceTransformer
    from stopt.spec import Backend

    if space is None:
        raise OptionError(
            "the index does not say what its embeddings are of", "search it with SearchIndex.search"
        )
    own = model is None and backend is None and file_name is None
    # numpy is no engine to ask for: it reads a static model's table wherever no engine is named
    own_backend = None if space.backend == Backend.NUMPY else space.backend
    name = (space.file or None) if own and own_backend else file_name
    return SentenceTransformer(
        model or space.model,
        backend=own_backend if own else backend,
        device=device,
        model_kwargs={"file_name": name} if name else None,
    )


def _is_same(encoder: Any, space: Any) -> bool:
    """Whether the model lives where the index does, going by the bytes of its files."""
    from stopt.embeddings.space import fingerprint

    return bool(fingerprint(encoder.file) == space.fingerprint)


def _lines(row: dict[str, Any], *, titled: bool) -> str:
    """A query's results for people: score, line of the file, text."""
    shown = [f"{hit['score']:8.4f}  {hit['line']:>6}  {_short(hit['text'])}" for hit in row["hits"]]
    head = [row["query"]] if titled else []
    return "\n".join([*head, f"{'score':>8}  {'line':>6}  text", *shown])


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= WIDTH else f"{words[: WIDTH - 1]}…"
