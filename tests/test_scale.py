"""Encoding corpora: every output, in one piece or in shards, interrupted or not, has the same rows."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora import PAIRS, TEXTS, texts_of, tree, write_pairs, write_texts
from pyarrow import parquet

from stopt import CrossEncoder, SentenceTransformer, SparseEncoder
from stopt.embeddings.ranges import RANGES, Ranges
from stopt.errors import ArtifactError, CorruptModel, InputError, OptionError
from stopt.runtime.sparse_arrays import SparseRows
from stopt.scale import EncodeJob, Format, ModelOptions, OnError, encode_corpus, stream
from stopt.scale.formats import Rows, open_writer
from stopt.scale.shards import JobFolder
from stopt.spec import ModelKind

NUMBER = 100


@pytest.fixture(scope="module")
def static(tiny) -> Path:
    """A table: no engine, so that it is opened at once."""
    return tiny("bert", kind="static")


@pytest.fixture(scope="module")
def expected(static):
    return SentenceTransformer(static).encode(texts_of(NUMBER))


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write_texts(tmp_path, "jsonl", texts_of(NUMBER))


@pytest.fixture
def job(static, corpus, tmp_path) -> EncodeJob:
    """A hundred texts in shards of 30, chunks of 8."""
    return EncodeJob(ModelOptions(str(static)), [corpus], tmp_path / "out", shard_size=30, chunk_size=8)


class StopError(Exception):
    """What ends a job in a test."""


def stop_after(rows: int):
    def tell(progress) -> None:
        if progress.rows >= rows:
            raise StopError

    return tell


def read(output: Path):
    table = parquet.read_table(output)
    return table["id"].to_pylist(), np.stack(table["embedding"].to_numpy())


# ---- outputs --------------------------------------------------------------------------------------------------------


def test_a_folder_has_shards_of_parquet(job, expected) -> None:
    report = encode_corpus(job)
    assert (report.shape, report.dtype, report.shards) == ((NUMBER, 24), "float32", 4)
    ids, values = read(job.output)
    assert ids == list(range(NUMBER))
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert [path.name for path in sorted(job.output.iterdir())] == [
        "_SUCCESS",
        "_job.json",
        "_manifest.json",
        *(f"part-00000{number}.parquet" for number in range(4)),
    ]
    schema = parquet.read_schema(job.output / "part-000000.parquet")
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[24]"
    manifest = json.loads((job.output / "_manifest.json").read_text())
    assert [each["written"] for each in manifest["shards"]] == [30, 30, 30, 10]
    assert manifest["shards"][3]["sha256"] == tree(job.output)["part-000003.parquet"]


@pytest.mark.parametrize("ending", ["npy", "jsonl", "parquet"])
def test_a_disk_that_is_full_when_a_shard_is_flushed_is_what_is_told(
    job, tmp_path, monkeypatch, ending
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("stopt.scale.shards._sync", full)
    with pytest.raises((OSError, ArtifactError), match="No space left on device"):
        encode_corpus(replace(job, output=tmp_path / f"out.{ending}"))


@pytest.mark.parametrize("ending", ["npy", "jsonl", "parquet"])
def test_a_file_is_put_together_of_shards(job, tmp_path, expected, ending) -> None:
    for name, size in (("cut", 30), ("whole", 1000)):
        report = encode_corpus(replace(job, output=tmp_path / f"{name}.{ending}", shard_size=size))
        assert report.shards == (4 if name == "cut" else 1)
    cut = tmp_path / f"cut.{ending}"
    match ending:
        case "npy":
            found = np.load(cut, mmap_mode="r")
            assert cut.read_bytes() == (tmp_path / "whole.npy").read_bytes()
        case "jsonl":
            rows = [json.loads(line) for line in cut.read_text(encoding="utf-8").splitlines()]
            found = np.array([row["embedding"] for row in rows], np.float32)
            assert [row["text"] for row in rows] == texts_of(NUMBER)
            assert cut.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
        case _:
            found = read(cut)[1]
            assert parquet.read_table(cut).equals(parquet.read_table(tmp_path / "whole.parquet"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl", f"cut.{ending}", f"whole.{ending}"}


@pytest.mark.parametrize(
    ("precision", "width", "kind"),
    [("int8", 24, "int8"), ("uint8", 24, "uint8"), ("binary", 3, "int8"), ("ubinary", 3, "uint8")],
)
def test_codes_are_those_of_one_call(job, static, expected, tmp_path, precision, width, kind) -> None:
    ranges = Ranges.of(expected)
    chosen = replace(job.model, precision=precision, ranges=ranges)
    report = encode_corpus(replace(job, model=chosen))
    assert (report.shape, report.dtype) == ((NUMBER, width), kind)
    found = read(job.output)[1]
    wanted = SentenceTransformer(static).encode(texts_of(NUMBER), precision=precision, ranges=ranges)
    assert found.dtype == wanted.dtype
    assert (found == wanted).mean() > 0.999  # a value on the edge of a step may fall on either side


def test_ranges_of_the_model_folder_are_used_in_every_shard(job, static, expected, tmp_path) -> None:
    folder = shutil.copytree(static, tmp_path / "model")
    int8 = replace(job, model=ModelOptions(str(folder), precision="int8"))
    with pytest.raises(OptionError) as caught:
        encode_corpus(int8)
    assert caught.value.message == "int8 and uint8 need ranges, which all parts of a corpus must share"
    assert "stopt calibrate MODEL" in caught.value.hint
    assert not job.output.exists()
    Ranges.of(expected).write(folder / RANGES)
    encode_corpus(int8)
    assert len({row.tobytes() for row in read(job.output)[1]}) > NUMBER / 2


def test_an_embedding_does_not_depend_on_where_it_is_cut(job, tmp_path) -> None:
    encode_corpus(replace(job, output=tmp_path / "a.npy"))
    encode_corpus(replace(job, output=tmp_path / "b.npy", shard_size=64, chunk_size=64))
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-6)


@pytest.mark.parametrize("ending", ["npz", "jsonl", "parquet"])
def test_sparse_vectors(tiny, tmp_path, ending) -> None:
    from scipy.sparse import load_npz

    folder = tiny("bert", kind="splade")
    texts = texts_of(7)
    file = write_texts(tmp_path, "txt", texts)
    chosen = ModelOptions(str(folder), backend="torch", max_active_dims=6)
    job = EncodeJob(chosen, [file], tmp_path / f"out.{ending}", shard_size=3, chunk_size=2)
    report = encode_corpus(job)
    theirs = SparseEncoder(folder, backend="torch").encode(
        texts, max_active_dims=6, convert_to_sparse_tensor=False
    )
    wanted = theirs.numpy()
    assert report.shape == wanted.shape
    assert report.active_dims == pytest.approx(np.count_nonzero(wanted) / 7)
    found = np.zeros_like(wanted)
    if ending == "npz":
        matrix = load_npz(job.output)
        assert matrix.has_sorted_indices
        found = matrix.toarray()
    else:
        rows = (
            [json.loads(line) for line in job.output.read_text().splitlines()] if ending == "jsonl" else None
        )
        for place, row in enumerate(rows or parquet.read_table(job.output).to_pylist()):
            found[place, row["indices"]] = row["values"]
            assert ending == "parquet" or len(row["tokens"]) == len(row["values"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_shard_of_sparse_vectors_is_not_held_in_memory(tmp_path) -> None:
    """Sixteen calls of 800 kB each; the file is the one that a single call makes of them all."""
    rows, active, width, calls = 1000, 100, 30_000, 16
    rng = np.random.default_rng(0)
    columns = np.sort(rng.integers(0, width, (calls * rows, active), np.int32)).reshape(-1)
    values = rng.random(columns.size, np.float32)

    def block(first: int, count: int) -> Rows:
        part = slice(first * active, (first + count) * active)
        found = SparseRows(np.arange(count + 1) * active, columns[part].copy(), values[part].copy(), width)
        return Rows(range(count), [""] * count, found, ModelKind.SPARSE)

    def write(name: str, blocks: Iterable[Rows]) -> None:
        writer = open_writer(tmp_path / name, Format.NPZ)
        for each in blocks:
            writer.add(each)
        writer.close()

    write("whole.npz", [block(0, calls * rows)])
    tracemalloc.start()
    try:
        write("parts.npz", (block(call * rows, rows) for call in range(calls)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 8 * rows * active
    assert (tmp_path / "parts.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"parts.npz", "whole.npz"}


@pytest.mark.parametrize("ending", ["npy", "jsonl", "parquet"])
@pytest.mark.parametrize("labels", [1, 3])
def test_scores_of_pairs(tiny, tmp_path, ending, labels) -> None:
    folder = tiny("bert", kind="cross-encoder", num_labels=labels)
    file = write_pairs(tmp_path, "csv")
    chosen = ModelOptions(str(folder), backend="torch")
    job = EncodeJob(chosen, [file], tmp_path / f"out.{ending}", shard_size=3, chunk_size=2)
    encode_corpus(job)
    wanted = CrossEncoder(folder, backend="torch").predict(PAIRS)
    name = "score" if labels == 1 else "scores"
    match ending:
        case "npy":
            found = np.load(job.output)
        case "jsonl":
            rows = [json.loads(line) for line in job.output.read_text().splitlines()]
            assert [tuple(row["texts"]) for row in rows] == PAIRS
            found = [row[name] for row in rows]
        case _:
            found = parquet.read_table(job.output)[name].to_pylist()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("format_", [Format.PARQUET, Format.JSONL, Format.NPY])
def test_no_text_gives_no_row(job, tmp_path, format_) -> None:
    (tmp_path / "empty.txt").touch()
    report = encode_corpus(replace(job, inputs=[tmp_path / "empty.txt"], format=format_))
    assert report.shape == (0, 24)
    if format_ is Format.PARQUET:
        assert parquet.read_table(job.output).schema.names == ["id", "embedding"]
    elif format_ is Format.NPY:
        assert np.load(job.output / "part-000000.npy").shape == (0, 24)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_ids_of_the_corpus_are_kept(job, tmp_path, ending) -> None:
    file = write_texts(tmp_path, ending, texts_of(NUMBER))
    encode_corpus(replace(job, inputs=[file], id_column="key"))
    assert read(job.output)[0] == [f"d{number}" for number in range(NUMBER)]
    encode_corpus(replace(job, inputs=[file], id_column="key", output=tmp_path / "out.jsonl"))
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[7])["id"] == "d7"


def test_several_files_are_one_corpus(job, tmp_path, expected) -> None:
    texts = texts_of(NUMBER)
    files = [
        write_texts(tmp_path, ending, texts[start : start + 25], f"file{start}")
        for start, ending in ((0, "csv"), (25, "parquet"), (50, "jsonl.gz"), (75, "tsv"))
    ]
    seen = []
    encode_corpus(replace(job, inputs=files), tell=seen.append)
    np.testing.assert_allclose(read(job.output)[1], expected, atol=1e-6)
    shares = [each.share for each in seen]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.3
    assert shares[-1] == 1


def test_workers_give_the_same_bytes(exported, job, tmp_path) -> None:
    for name, changes in (("one", {}), ("two", {"workers": 2}), ("devices", {"device": "cpu,cpu"})):
        chosen = ModelOptions(
            str(exported("bert")), backend="onnx", threads=2, device=changes.pop("device", None)
        )
        encode_corpus(replace(job, model=chosen, output=tmp_path / name, **changes))
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "devices")


# ---- rows that cannot be encoded ------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path) -> Path:
    """Ten rows, of which those of lines 3 and 8 are none."""
    lines = [json.dumps({"text": text}) for text in texts_of(10)]
    lines[2], lines[7] = '{"text": "a\\ud800b"}', '{"body": "x"}'
    (tmp_path / "broken.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "broken.jsonl"


def test_a_row_that_cannot_be_encoded_ends_the_job(job, broken) -> None:
    with pytest.raises(InputError) as caught:
        encode_corpus(replace(job, inputs=[broken]))
    assert caught.value.message == (
        f"line 3 of {broken} has a lone surrogate, U+D800 at character 1: not valid Unicode"
    )
    assert "replace it" in caught.value.hint
    assert caught.value.index == 2
    assert not job.output.exists()


def test_or_goes_to_a_file_with_the_reason(job, broken, static, tmp_path) -> None:
    chosen = replace(job, inputs=[broken], on_error=OnError.REJECT, shard_size=4, chunk_size=2)
    report = encode_corpus(chosen)
    assert (report.shape, report.rejected) == ((8, 24), 2)
    ids, values = read(job.output)
    assert ids == [0, 1, 3, 4, 5, 6, 8, 9]
    wanted = SentenceTransformer(static).encode([texts_of(10)[each] for each in ids])
    np.testing.assert_allclose(values, wanted, atol=1e-6)
    rejected = [json.loads(line) for line in (job.output / "_rejected.jsonl").read_text().splitlines()]
    assert [(each["number"], each["line"], each["file"]) for each in rejected] == [
        (2, 3, str(broken)),
        (7, 8, str(broken)),
    ]
    assert rejected[1]["reason"] == "has no text 'text'; it has: body"
    report = encode_corpus(replace(chosen, output=tmp_path / "out.jsonl"))
    assert report.rejects == tmp_path / "out.jsonl.rejected.jsonl"
    assert len(report.rejects.read_text().splitlines()) == 2
    report = encode_corpus(replace(job, output=tmp_path / "out.jsonl", force=True))
    assert report.rejects is None


@pytest.fixture
def rejecting(job, tmp_path) -> EncodeJob:
    """1,000 rows in shards of 30, of which two of three are none; shards 5 to 9 have no such row, 10 to 14 no other."""
    lines = [json.dumps({"text": text}) for text in texts_of(1000)]
    for number in range(1000):
        if (number % 3 and not 150 <= number < 300) or 300 <= number < 450:
            lines[number] = json.dumps({"body": "é" * (number % 7)}, ensure_ascii=False)
    file = tmp_path / "rejecting.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return replace(job, inputs=[file], on_error=OnError.REJECT)


def rejected_of(file: Path) -> list[int]:
    return [json.loads(line)["number"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_rejected_rows_are_in_files_until_the_job_is_complete(rejecting) -> None:
    with pytest.raises(StopError):
        encode_corpus(rejecting, tell=stop_after(460))
    progress = rejecting.output / "_progress"
    records = [json.loads(path.read_text()) for path in sorted(progress.glob("*.json"))]
    assert [each["rejected"] for each in records] == [20] * 5 + [0] * 5 + [30] * 5
    assert [each["written"] + each["rejected"] for each in records] == [30] * 15
    files = sorted(progress.glob("*.rejected.jsonl"))
    assert [int(path.name[:6]) for path in files] == [*range(5), *range(10, 15)]
    assert rejected_of(files[0]) == [number for number in range(30) if number % 3]
    assert not (rejecting.output / "_rejected.jsonl").exists()
    report = encode_corpus(replace(rejecting, resume=True))
    numbers = [
        number for number in range(1000) if (number % 3 and not 150 <= number < 300) or 300 <= number < 450
    ]
    assert rejected_of(rejecting.output / "_rejected.jsonl") == numbers
    assert (report.rejected, report.kept_rows) == (len(numbers), 450)
    assert not progress.exists()


def test_memory_does_not_grow_with_rejected_rows(job, tmp_path) -> None:
    """Kept, a row's reason alone would be more than what is allowed for it here."""

    def peak(rows: int) -> int:
        file = tmp_path / f"{rows}.jsonl"
        file.write_text('{"body": "no text at all"}\n' * rows)
        chosen = replace(job, inputs=[file], output=tmp_path / str(rows), on_error=OnError.REJECT)
        tracemalloc.start()
        try:
            report = encode_corpus(replace(chosen, shard_size=1000, chunk_size=100))
            found = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert report.rejected == rows
        return found

    peak(100)  # what is imported and cached once
    assert peak(41_000) - peak(1000) < 40_000 * 20


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_shard_is_made_again_whose_rejected_rows_are_not_all_there(rejecting, tmp_path, damage) -> None:
    encode_corpus(replace(rejecting, output=tmp_path / "whole"))
    with pytest.raises(StopError):
        encode_corpus(rejecting, tell=stop_after(460))
    file = rejecting.output / "_progress" / "000003.rejected.jsonl"
    if damage == "removed":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 9)
    assert encode_corpus(replace(rejecting, resume=True)).kept_rows == 420
    assert tree(rejecting.output) == tree(tmp_path / "whole")


def test_an_embedding_that_is_not_finite_is_refused(static, tmp_path) -> None:
    import safetensors.numpy

    folder = shutil.copytree(static, tmp_path / "model")
    (weights,) = folder.rglob("model.safetensors")
    tensors = safetensors.numpy.load_file(weights)
    model = SentenceTransformer(static)
    token = int(model.pipeline.tokenizer.tokenize(["guitar"])[0].ids[-1])
    (name,) = tensors
    tensors[name] = tensors[name].copy()
    tensors[name][token] = np.inf
    safetensors.numpy.save_file(tensors, weights)
    file = write_texts(tmp_path, "txt", ["the stage", "the guitar", "rice"])
    job = EncodeJob(ModelOptions(str(folder)), [file], tmp_path / "out")
    with pytest.raises(InputError) as caught:
        encode_corpus(job)
    assert caught.value.message == f"line 2 of {file} has an embedding with NaN or infinity in it"
    assert "stopt check" in caught.value.hint
    encode_corpus(replace(job, on_error=OnError.REJECT))
    assert read(job.output)[0] == [0, 2]


def test_ids_of_two_types_are_refused(job, tmp_path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a", "id": 1}\n{"text": "b", "id": "2"}\n')
    with pytest.raises(InputError, match="has the id '2', where others are numbers"):
        encode_corpus(replace(job, inputs=[tmp_path / "x.jsonl"], id_column="id"))


@pytest.mark.scorecard("F16")
@pytest.mark.parametrize("engine", ["numpy", "onnx", "openvino", "torch"])
def test_every_engine_has_one_policy_for_odd_texts(exported, static, tmp_path, engine) -> None:
    folder = static if engine == "numpy" else exported("bert")
    chosen = ModelOptions(str(folder), backend=None if engine == "numpy" else engine)
    file = write_texts(tmp_path, "jsonl", TEXTS)
    job = EncodeJob(chosen, [file], tmp_path / "out")
    encode_corpus(job)
    assert np.isfinite(read(job.output)[1]).all()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": "\\udfff"}\n')
    with pytest.raises(
        InputError, match=r"line 2 of .*bad.jsonl has a lone surrogate, U\+DFFF at character 0"
    ):
        encode_corpus(replace(job, inputs=[bad], output=tmp_path / "bad"))


# ---- interrupted jobs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [31, 60, 99, 100])
def test_an_interrupted_job_goes_on_and_ends_with_the_same_bytes(job, tmp_path, rows) -> None:
    encode_corpus(replace(job, output=tmp_path / "whole"))
    said = []
    with pytest.raises(StopError):
        encode_corpus(job, said.append, stop_after(rows))
    done = rows // 30 if rows < NUMBER else 3
    assert (
        f"{30 * done} rows in {done} complete shards stay in {job.output}; --resume goes on from there"
        in said
    )
    assert not [path for path in job.output.iterdir() if path.name.startswith(".")]
    before = {path: path.stat().st_mtime_ns for path in job.output.glob("part-*")}
    report = encode_corpus(replace(job, resume=True))
    assert report.kept_rows == 30 * done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert tree(job.output) == tree(tmp_path / "whole")
    again = encode_corpus(replace(job, resume=True))
    assert again.shape == (NUMBER, 24)
    assert tree(job.output) == tree(tmp_path / "whole")


@pytest.mark.parametrize("died", ["as they were put together", "afterwards"])
@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_so_does_one_that_was_interrupted_at_its_end(rejecting, tmp_path, monkeypatch, name, died) -> None:
    whole, chosen = tmp_path / f"whole-{name}", replace(rejecting, output=tmp_path / name, resume=True)
    encode_corpus(replace(rejecting, output=whole))
    copied, removed = shutil.copyfileobj, shutil.rmtree

    def copy_some(source, target) -> None:
        copied(source, target)
        if source.name.endswith("000012.rejected.jsonl"):
            raise StopError

    def remove_no_progress(path, **options) -> None:
        if (path.parent / "_SUCCESS").exists():
            raise StopError
        removed(path, **options)

    with monkeypatch.context() as patch:
        if died == "afterwards":
            patch.setattr("stopt.scale.shards.shutil.rmtree", remove_no_progress)
        else:
            patch.setattr("stopt.scale.shards.shutil.copyfileobj", copy_some)
        with pytest.raises(StopError):
            encode_corpus(chosen)
    folder = chosen.output if name == "out" else tmp_path / "out.jsonl.job"
    for left in ("._rejected.jsonl.123", ".part-000040.rejected.jsonl.123-ab", "._manifest.json.123"):
        (folder / left).touch()  # of a process that was killed
    assert encode_corpus(chosen).kept_rows == 1000
    if name == "out":
        assert tree(chosen.output) == tree(whole)
    else:
        assert chosen.output.read_bytes() == whole.read_bytes()
        rejects, wanted = (path.with_name(f"{path.name}.rejected.jsonl") for path in (chosen.output, whole))
        assert rejects.read_bytes() == wanted.read_bytes()
        assert {path.name for path in folder.iterdir()} == {"_SUCCESS", "_job.json", "_manifest.json"}


@pytest.mark.parametrize("complete", [False, True])
def test_a_job_of_an_older_version_is_refused(job, complete) -> None:
    """Of schema 1 a record had the rejected rows themselves where this one has their number."""
    if complete:
        encode_corpus(job)
    else:
        with pytest.raises(StopError):
            encode_corpus(job, tell=stop_after(70))
    description = job.output / "_job.json"
    document = json.loads(description.read_text())
    description.write_text(json.dumps(document | {"schema": 1}))
    for record in (job.output / "_progress").glob("*.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"rejected": []}))
    before = tree(job.output)
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(replace(job, resume=True))
    assert caught.value.message == (
        f"{job.output} has a job of another version of stopt in it: its schema is 1, not 2"
    )
    assert caught.value.hint == "go on with that version; or start again: --force"
    assert tree(job.output) == before
    assert encode_corpus(replace(job, force=True)).kept_rows == 0


def test_a_record_that_is_none_is_named(job) -> None:
    with pytest.raises(StopError):
        encode_corpus(job, tell=stop_after(70))
    record = job.output / "_progress" / "000001.json"
    record.write_text('{"shard": 1}')
    with pytest.raises(CorruptModel) as caught:
        encode_corpus(replace(job, resume=True))
    assert caught.value.message.startswith(f"{record} is no record of a shard: ")
    assert caught.value.hint == "delete it: the shard is made again"
    record.unlink()
    assert encode_corpus(replace(job, resume=True)).kept_rows == 30


def test_a_manifest_may_be_as_large_as_that_of_a_billion_rows(job, tmp_path) -> None:
    encode_corpus(job)
    manifest = job.output / "_manifest.json"
    with manifest.open("a") as file:
        file.write(" " * 30_000_000)
    assert encode_corpus(replace(job, resume=True)).kept_rows == NUMBER
    shutil.copytree(job.output, tmp_path / "next")
    shutil.move(tmp_path / "next", job.output / ".next")
    assert encode_corpus(replace(job, resume=True)).kept_rows == NUMBER


@pytest.mark.parametrize("ending", ["npy", "jsonl", "parquet"])
def test_so_does_one_that_writes_a_file(job, tmp_path, ending) -> None:
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    encode_corpus(replace(job, output=whole))
    chosen = replace(job, output=output, resume=True)
    with pytest.raises(StopError):
        encode_corpus(chosen, tell=stop_after(70))
    assert not output.exists()
    for kept in (60, NUMBER):
        report = encode_corpus(chosen)
        assert (report.shape, report.kept_rows) == ((NUMBER, 24), kept)
        assert output.read_bytes() == whole.read_bytes()
    output.unlink()
    assert encode_corpus(chosen).kept_rows == 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_job_that_ends_before_its_first_shard_leaves_nothing(job, tmp_path) -> None:
    for output in (tmp_path / "a" / "b", tmp_path / "out.npy"):
        with pytest.raises(StopError):
            encode_corpus(replace(job, output=output), tell=stop_after(20))
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.jsonl"}


def test_what_is_there_is_kept_unless_told_otherwise(job, tmp_path) -> None:
    with pytest.raises(StopError):
        encode_corpus(job, tell=stop_after(40))
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(job)
    assert caught.value.message == f"{job.output} has a job that was interrupted in it"
    assert caught.value.hint == "go on with it: --resume; or start again: --force"
    encode_corpus(replace(job, force=True))
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(job)
    assert caught.value.message == f"{job.output} has a complete job in it"
    assert caught.value.hint == "replace it with --force"
    encode_corpus(replace(job, force=True, shard_size=60))
    assert len(list(job.output.glob("part-*"))) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(replace(job, output=tmp_path / "mine", force=True))
    assert caught.value.message == f"{tmp_path / 'mine'} has files in it that are not of a job"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_size": 40}, "output shard_size was 30, is 40"),
        ({"id_column": "key"}, 'rows id_column was null, is "key"'),
        ({"format": Format.JSONL}, 'output format was "parquet", is "jsonl"'),
        ({"prompt": "say: "}, 'options prompt was null, is "say: "'),
        ({"truncate_dim": 8}, "options truncate_dim was null, is 8"),
        ({"seed": 1}, "model sha256 was "),
    ],
)
def test_another_job_is_not_gone_on_with(job, tiny, change, message) -> None:
    with pytest.raises(StopError):
        encode_corpus(job, tell=stop_after(40))
    before = tree(job.output)
    model = {key: change.pop(key) for key in ("prompt", "truncate_dim") if key in change}
    if change.pop("seed", None):
        model["model"] = str(tiny("bert", kind="static", seed=1))
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(replace(job, resume=True, model=replace(job.model, **model), **change))
    assert f"{job.output} has another job in it: " in caught.value.message
    assert message in caught.value.message
    assert "--force" in caught.value.hint
    assert tree(job.output) == before


@pytest.mark.parametrize("change", ["other text", "longer", "shorter"])
def test_changed_inputs_are_noticed(job, corpus, change) -> None:
    with pytest.raises(StopError):
        encode_corpus(job, tell=stop_after(70))
    content = corpus.read_text()
    changed = {
        "other text": content.replace("rice", "ecir", 1),
        "longer": content + '{"text": "more"}\n',
        "shorter": content[: len(content) // 4],
    }[change]
    corpus.write_text(changed)
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(replace(job, resume=True))
    if change == "other text":
        assert caught.value.message.startswith(
            "the input has changed: rows 0 to 29 are not those that part-000000"
        )
    else:
        assert "has another job in it: inputs was" in caught.value.message
    assert "--force" in caught.value.hint


def test_one_folder_has_one_job_at_a_time(job) -> None:
    def tell(progress) -> None:
        if progress.rows == 40:
            with pytest.raises(ArtifactError, match="another process is at work in"):
                encode_corpus(replace(job, resume=True))

    encode_corpus(job, tell=tell)
    assert len(read(job.output)[0]) == NUMBER


@pytest.mark.scorecard("F12")
def test_rows_are_read_as_they_are_needed(job, monkeypatch) -> None:
    """A corpus is never in memory: what was read is at most a chunk ahead of what was encoded."""
    from stopt.scale import chunks

    pulled = 0

    def counted(*args, **options):
        nonlocal pulled
        for row in original(*args, **options):
            pulled += 1
            yield row

    original = chunks.read_rows
    monkeypatch.setattr(chunks, "read_rows", counted)
    ahead = []
    encode_corpus(job, tell=lambda progress: ahead.append(pulled - progress.rows))
    assert max(ahead) == 0
    with stream(replace(job, output=None)) as results:
        pulled = 0
        next(results.rows)
        assert pulled == 8


# ---- processes that are ended ---------------------------------------------------------------------------------------


def start(job: EncodeJob, *args: str, **options) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "stopt",
        "encode",
        job.model.model,
        *map(str, job.inputs),
        "-o",
        job.output,
    ]
    command += ["--shard-size", str(job.shard_size), "-q", *args]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, **options)


def shards_of(job: EncodeJob) -> int:
    return len(list(job.output.glob("part-*")))


def kill_and_resume(job: EncodeJob, seed: int) -> None:
    """Kill it when a random number of shards is there, and a moment later; then let it end."""
    moments = np.random.default_rng(seed)
    shards, delay = int(moments.integers(0, 30)), float(moments.uniform(0, 0.02))
    args = ["--resume", "--on-error", job.on_error.value]
    process = start(job, *args)
    while process.poll() is None and shards_of(job) < shards:
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.communicate()
    done = start(job, *args)
    said = done.communicate(timeout=100)[1]
    assert done.returncode == 0
    rejected = json.loads((job.output / "_manifest.json").read_text())["rejected"]
    warning = f"Warning: {rejected:,} rows could not be encoded: {job.output / '_rejected.jsonl'}\n"
    assert said == (warning if rejected else "")


@pytest.fixture
def long_job(job, tmp_path) -> EncodeJob:
    """One of 40 shards."""
    file = write_texts(tmp_path, "txt", texts_of(4000), "long")
    chosen = replace(job, inputs=[file], shard_size=100, chunk_size=2048, output=tmp_path / "whole")
    encode_corpus(chosen)
    return chosen


@pytest.mark.parametrize(
    "seeds", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow, id="20 kills")]
)
def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(long_job, tmp_path, seeds) -> None:
    for seed in seeds:
        chosen = replace(long_job, output=tmp_path / f"killed-{seed}")
        kill_and_resume(chosen, seed)
        assert tree(chosen.output) == tree(long_job.output)
        shutil.rmtree(chosen.output)


@pytest.mark.parametrize(
    "seeds", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow, id="20 kills")]
)
def test_so_does_one_with_many_rejected_rows(rejecting, tmp_path, seeds) -> None:
    whole = replace(rejecting, output=tmp_path / "whole", chunk_size=2048)
    encode_corpus(whole)
    for seed in seeds:
        chosen = replace(whole, output=tmp_path / f"killed-{seed}")
        kill_and_resume(chosen, seed)
        assert tree(chosen.output) == tree(whole.output)
        shutil.rmtree(chosen.output)


def old_of(job: EncodeJob) -> dict[str, str]:
    """What is there of a job that is being replaced."""
    return {name: content for name, content in tree(job.output).items() if not name.startswith(".next")}


def test_a_job_that_replaces_another_does_so_when_it_is_complete(job, tmp_path) -> None:
    encode_corpus(replace(job, shard_size=50))
    (job.output / "notes.txt").write_text("mine")
    before = tree(job.output)
    other = replace(job, model=replace(job.model, truncate_dim=8))
    with pytest.raises(StopError):
        encode_corpus(replace(other, force=True), tell=stop_after(20))
    assert tree(job.output) == before
    said = []
    with pytest.raises(StopError):
        encode_corpus(replace(other, force=True), said.append, stop_after(70))
    assert old_of(job) == before
    assert said[-1] == (
        f"60 rows in 2 complete shards stay in {job.output / '.next'}; --force --resume goes on from there"
    )
    assert encode_corpus(replace(job, shard_size=50, resume=True)).kept_rows == 100
    assert encode_corpus(replace(other, force=True, resume=True)).kept_rows == 60
    encode_corpus(replace(other, output=tmp_path / "fresh"))
    assert (job.output / "notes.txt").read_text() == "mine"
    (job.output / "notes.txt").unlink()
    assert tree(job.output) == tree(tmp_path / "fresh")


@pytest.mark.parametrize("step", range(7))
def test_a_replacement_that_is_interrupted_is_ended_the_next_time(job, tmp_path, monkeypatch, step) -> None:
    """It moves four shards, the job's description, what is written anew and what says that it is complete."""
    encode_corpus(replace(job, shard_size=10))
    other = replace(job, model=replace(job.model, truncate_dim=8))
    encode_corpus(replace(other, output=tmp_path / "fresh"))
    shutil.copytree(tmp_path / "fresh", job.output / ".next")
    steps, moved = itertools.count(), Path.replace

    def replace_some(path: Path, target: Path) -> Path:
        if next(steps) == step:
            raise KeyboardInterrupt
        return moved(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_some)
        with pytest.raises(KeyboardInterrupt):
            JobFolder(job.output, ".parquet").take_over()
    with pytest.raises(ArtifactError, match="a job that was interrupted in it"):
        encode_corpus(other)
    assert encode_corpus(replace(other, resume=True)).kept_rows == 100
    assert tree(job.output) == tree(tmp_path / "fresh")


@pytest.mark.scorecard("F1")
def test_a_job_killed_while_it_replaces_another_leaves_that_as_it_was(long_job, tmp_path) -> None:
    chosen = replace(long_job, shard_size=50)
    before = tree(chosen.output)
    process = start(chosen, "--force")
    while len(list((chosen.output / ".next").glob("part-*"))) < 5:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert old_of(chosen) == before
    done = start(chosen, "--force", "--resume")
    assert done.communicate(timeout=100)[1] == ""
    encode_corpus(replace(chosen, output=tmp_path / "fresh"))
    assert tree(chosen.output) == tree(tmp_path / "fresh")


@pytest.mark.scorecard("F2")
def test_an_interrupted_process_says_how_to_go_on(long_job, tmp_path) -> None:
    chosen = replace(long_job, output=tmp_path / "interrupted")
    process = start(chosen)
    while shards_of(chosen) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(chosen.output.glob(".*"))
    encode_corpus(replace(chosen, resume=True))
    assert tree(chosen.output) == tree(long_job.output)


@pytest.mark.scorecard("F3")
def test_a_full_disk_leaves_complete_shards(long_job, tmp_path) -> None:
    """A limit on the size of files stands for the disk: the second shard is larger."""
    texts = texts_of(100) + [f"{text} {text}" for text in texts_of(100)]
    file = write_texts(tmp_path, "txt", texts, "growing")
    chosen = replace(long_job, inputs=[file], output=tmp_path / "full")
    small = replace(chosen, format=Format.JSONL, output=tmp_path / "sizes")
    encode_corpus(small)
    sizes = [path.stat().st_size for path in sorted(small.output.glob("part-*"))]
    limit = (sizes[0] + sizes[1]) // 2
    process = start(
        chosen,
        "--output-format",
        "jsonl",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 1
    assert f"Error: writing to {chosen.output} failed: File too large" in said
    assert "Hint: 1 shards are complete: free some space, then go on with --resume" in said
    encode_corpus(replace(small, output=chosen.output, resume=True))
    assert tree(chosen.output) == tree(small.output)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(job, tmp_path) -> None:
    (tmp_path / "read-only").mkdir(mode=0o500)
    with pytest.raises(ArtifactError, match="failed: Permission denied"):
        encode_corpus(replace(job, output=tmp_path / "read-only" / "out"))


@pytest.mark.scorecard("F3")
def test_a_folder_that_cannot_be_made(job, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError) as caught:
        encode_corpus(replace(job, output=tmp_path / "file" / "out"))
    assert caught.value.message == f"writing to {tmp_path / 'file' / 'out'} failed: Not a directory"
    assert caught.value.hint == "name another place: -o"


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"output": None}, "the job has no output", "name a folder or a file"),
        ({"format": Format.NPZ}, "results of a dense model cannot be written as npz", "npy, jsonl, parquet"),
        ({"output": Path("x.csv")}, "x.csv is neither .npy nor .jsonl nor .parquet", "a file's ending"),
        (
            {"output": Path("x.npy"), "format": Format.JSONL},
            "the output is x.npy, and its format jsonl",
            "leave",
        ),
        (
            {"format": Format.NPY, "id_column": "key"},
            ".npy files have no ids, without which --id-column",
            "Parquet",
        ),
        (
            {"output": Path("x.npy"), "on_error": OnError.REJECT},
            "--on-error reject makes no sense",
            "Parquet",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(job, change, message, hint) -> None:
    with pytest.raises(OptionError) as caught:
        encode_corpus(replace(job, **change))
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["shard_size", "chunk_size", "workers"])
@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, 0.5, "2", ""])
def test_sizes_are_positive(job, name, value) -> None:
    with pytest.raises(OptionError) as caught:
        replace(job, **{name: value})
    assert caught.value.message == f"{name} is {value!r}"
    assert caught.value.hint == "a positive whole number"


@pytest.mark.parametrize("name", ["shard_size", "chunk_size"])
def test_sizes_are_given(job, name) -> None:
    with pytest.raises(OptionError, match=f"{name} is None"):
        replace(job, **{name: None})
    assert replace(job, workers=None).workers is None
