"""What ``stopt encode`` does with models that are not dense: sparse vectors, and scores of pairs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stopt.cli.output import Format, Output, interactive
from stopt.errors import OptionError
from stopt.examples import as_pairs
from stopt.spec import ModelKind

__all__ = ["Request", "encode_other", "refuse"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be encoded, and how.

    Attributes:
        model: Model folder or Hub id.
        lines: The texts, or the pairs as they were read.
        output: File to write; None prints JSONL.
        engine: Keywords of the public classes: backend, device, model_kwargs.
        call: Keywords of the call: prompt_name, prompt, batch_size and the like.
        role: ``query`` or ``document``, for models that treat them differently; None is neither.
    """

    model: str
    lines: Sequence[Any]
    output: Path | None
    engine: Mapping[str, Any]
    call: Mapping[str, Any]
    role: str | None = None


# options of the command, and the kinds of model that they are for
_FOR = {
    "truncate_dim": {ModelKind.DENSE},
    "normalize_embeddings": {ModelKind.DENSE},
    "ranges": {ModelKind.DENSE},
    "precision": {ModelKind.DENSE},
    "max_active_dims": {ModelKind.SPARSE},
    "role": {ModelKind.DENSE, ModelKind.SPARSE},
}


def refuse(
    kind: ModelKind,
    *,
    truncate_dim: int | None,
    normalize_embeddings: bool,
    ranges: Any,
    precision: str | None,
    max_active_dims: int | None,
    role: str | None,
) -> None:
    """Refuse options that mean nothing for a kind of model.

    Raises:
        OptionError: If one is given.
    """
    given = {
        "truncate_dim": truncate_dim,
        "normalize_embeddings": normalize_embeddings,
        "ranges": ranges,
        "precision": precision,
        "max_active_dims": max_active_dims,
        "role": role,
    }
    found = [name for name, value in given.items() if value and kind not in _FOR[name]]
    if found:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in found)
        raise OptionError(f"a {kind.value} model has no use for {names}", "leave it out")


def encode_other(kind: ModelKind, request: Request, out: Output) -> None:
    """Encode with a model that is not dense."""
    if kind is ModelKind.SPARSE:
        _encode_sparse(request, out)
    else:
        _score_pairs(request, out)


def _encode_sparse(request: Request, out: Output) -> None:
    """Encode texts with a sparse encoder.

    JSONL has of each text its active dimensions, the strongest first: ``indices``, ``values`` and the ``tokens`` that they
    stand for; ``.npz`` is SciPy's file of a CSR matrix.

    Raises:
        OptionError: If the output is a file of another format.
    """
    from stopt.runtime.sparse_encoder import SparseEncoder

    _check_suffix(request.output, (".npz", ".jsonl"))
    loaded = SparseEncoder(request.model, **request.engine)
    out.step(f"{loaded.file} on {loaded.device} in {loaded.pipeline.session.precision}")
    run = {"query": loaded.encode_query, "document": loaded.encode_document}.get(
        request.role or "", loaded.encode
    )
    found = run(list(request.lines), show_progress_bar=_shows(out), **request.call)
    matrix = _csr(found, loaded.get_embedding_dimension())
    rows = (
        _sparse_row(text, matrix, row, decoded)
        for row, (text, decoded) in enumerate(
            zip(request.lines, loaded.decode(matrix) if request.lines else [], strict=True)
        )
    )
    data = {
        "file": request.output,
        "shape": list(matrix.shape),
        "active_dims": loaded.sparsity(matrix)["active_dims"] if request.lines else 0.0,
        "model_file": loaded.file,
    }

    def save(path: Path) -> None:
        from scipy.sparse import save_npz

        with path.open("wb") as file:
            save_npz(file, matrix)

    shape = " x ".join(map(str, matrix.shape))
    human = f"{request.output}  {shape}, {data['active_dims']:.1f} active dimensions on average"
    _give(request.output, rows, data, human, save if _is(request.output, ".npz") else None, out)


def _score_pairs(request: Request, out: Output) -> None:
    """Score pairs with a cross-encoder.

    JSONL has of each pair ``texts`` and ``score``, or ``scores`` of a model with several labels; ``.npy`` has the scores.

    Raises:
        InputError: If a line is no pair.
        OptionError: If the output is a file of another format.
    """
    import numpy as np

    from stopt.runtime.cross_encoder import CrossEncoder

    _check_suffix(request.output, (".npy", ".jsonl"))
    pairs = as_pairs(request.lines, "the input")
    loaded = CrossEncoder(request.model, **request.engine)
    out.step(f"{loaded.file} on {loaded.device} in {loaded.pipeline.session.precision}")
    # one pair at least, so that an empty file gives the shape and dtype that any other gives
    scores = loaded.predict(pairs or [("", "")], show_progress_bar=_shows(out), **request.call)[: len(pairs)]
    name = "score" if scores.ndim == 1 else "scores"
    rows = ({"texts": list(pair), name: score.tolist()} for pair, score in zip(pairs, scores, strict=True))
    data = {"file": request.output, "shape": list(scores.shape), "model_file": loaded.file}

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, scores)

    human = f"{request.output}  {' x '.join(map(str, scores.shape))} {scores.dtype}"
    _give(request.output, rows, data, human, save if _is(request.output, ".npy") else None, out)


def _give(output: Path | None, rows: Any, data: dict[str, Any], human: str, save: Any, out: Output) -> None:
    """Write the result to its file in one step, or print it."""
    from stopt.artifact import replacing

    if output is not None:
        with replacing(output) as temporary:
            if save is not None:
                save(temporary)
            else:
                with temporary.open("w", encoding="utf-8") as file:
                    _write_rows(file, rows)
        out.result(human, data, str(output))
    elif out.format is Format.JSON:
        out.result("", {**data, "rows": list(rows)}, "")
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSONL is, whatever the locale
        _write_rows(sys.stdout, rows)


def _write_rows(file: Any, rows: Any) -> None:
    for row in rows:
        json.dump(row, file, ensure_ascii=False)
        file.write("\n")


def _csr(found: Any, width: int) -> Any:
    """A CSR matrix of whatever the engine gave."""
    from stopt.runtime.sparse_arrays import require_scipy

    sparse = require_scipy()
    if hasattr(found, "tocsr"):
        return found.tocsr()
    if found.ndim < 2:  # no text at all, as a tensor
        return sparse.csr_array((0, width))
    tensor = found.cpu().coalesce()
    parts = (tensor.values().float().numpy(), tuple(tensor.indices().numpy()))
    return sparse.csr_array(parts, shape=tuple(tensor.shape))


def _sparse_row(text: Any, matrix: Any, row: int, decoded: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """One text's active dimensions, in the order of :meth:`~stopt.SparseEncoder.decode`: the strongest first."""
    import numpy as np

    start, end = matrix.indptr[row], matrix.indptr[row + 1]
    columns, values = matrix.indices[start:end], matrix.data[start:end]
    order = np.lexsort((columns, -values))
    return {
        "text": text,
        "indices": columns[order].tolist(),
        "values": values[order].tolist(),
        "tokens": [token for token, _ in decoded],
    }


def _check_suffix(output: Path | None, known: Sequence[str]) -> None:
    if output is not None and output.suffix not in known:
        raise OptionError(
            f"{output} is neither {' nor '.join(known)}", "the name's ending chooses the format"
        )


def _is(output: Path | None, suffix: str) -> bool:
    return output is not None and output.suffix == suffix


def _shows(out: Output) -> bool:
    return interactive() and out.format is Format.HUMAN
