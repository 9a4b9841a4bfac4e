"""The quality figures: against scipy and cases worked out by hand; the files that they are taken on."""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from stopt.errors import CorruptModel, InputError, SourceError
from stopt.quality import (
    QualityReport,
    Retrieval,
    StsPairs,
    ndcg,
    rank_overlap,
    read_retrieval,
    read_sts,
    recall,
    spearman,
)
from stopt.spec import Similarity

DATA = Path(__file__).parent / "data"


# ---- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 6, 1000], ids=["many ties", "ties", "few ties"])
def test_spearman_is_scipys(levels) -> None:
    random = np.random.default_rng(levels)
    a = random.normal(size=400).round(2)
    b = np.round(a + random.normal(size=400) * levels) % levels
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_looks_at_the_order_alone() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -(a**3)) == pytest.approx(-1)
    # ranks 1 2 3 4 and 2 1 3 4: 1 - 6 * 2 / (4 * 15)
    assert spearman(a, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("found", "relevant", "expected"),
    [
        ([1, 0, 0], [1], 1.0),
        ([0, 1, 0], [1], 1 / math.log2(3)),
        ([0] * 10 + [1], [1], 0.0),  # the eleventh result does not count
        ([1, 2], [2, 1], (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))),
        ([0, 0], [1, 1], 0.0),
        ([1, 1], [1, 1, 1], (1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / 2)),
        ([1] * 10, [1] * 20, 1.0),  # ten places are all there are
        ([], [], 0.0),
    ],
)
def test_ndcg_of_cases_made_by_hand(found, relevant, expected) -> None:
    assert ndcg(found, relevant) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "relevant", "expected"),
    [
        ([1, 0, 2], [1, 2, 1, 1], 0.5),
        ([0] * 10 + [1], [1], 0.0),
        ([1] * 10, [1] * 20, 0.5),
        ([1], [1, 0, 0], 1.0),
        ([], [], 0.0),
    ],
)
def test_recall_of_cases_made_by_hand(found, relevant, expected) -> None:
    assert recall(found, relevant) == pytest.approx(expected)


def _on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_rank_overlap_counts_the_neighbours_that_stay() -> None:
    before, after = _on_a_circle(0, 10, 90, 100), _on_a_circle(0, 95, 90, 5)
    assert rank_overlap(before, before, depth=1) == 1.0
    # every nearest neighbour is another one now
    assert rank_overlap(before, after, depth=1) == 0.0
    # with all others looked at, nothing can be lost
    assert rank_overlap(before, after) == 1.0


def test_rank_overlap_of_half_the_neighbours() -> None:
    # 0: {1} stays; 1: {0} stays; 2: 3 -> 1; 3: 2 -> 0
    assert rank_overlap(_on_a_circle(0, 10, 90, 100), _on_a_circle(0, 10, 50, -40), depth=1) == 0.5


def test_rank_overlap_does_not_care_for_length_or_order_of_neighbours() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 8))
    assert rank_overlap(vectors, vectors * np.arange(1, 31)[:, None]) == 1.0


def test_rank_overlap_of_a_single_text_is_whole() -> None:
    assert rank_overlap(np.ones((1, 3)), np.zeros((1, 3))) == 1.0


def test_rank_overlap_with_nan_is_a_number() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 8))
    assert 0 <= rank_overlap(vectors, np.full_like(vectors, np.nan)) < 1


def test_share_kept() -> None:
    assert QualityReport("sts spearman", 0.8, 0.6).kept == pytest.approx(0.75)
    assert math.isnan(QualityReport("sts spearman", 0.0, 0.6).kept)


# ---- measuring ------------------------------------------------------------------------------------------------------


class Encoder:
    """Known vectors of known texts; remembers what it was asked for."""

    def __init__(self, degrees: dict[str, float]) -> None:
        self.degrees = degrees
        self.asked: list[tuple[list[str], str]] = []

    def __call__(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        self.asked.append((list(texts), prompt))
        return _on_a_circle(*(self.degrees[text] for text in texts))


def test_sts_pairs_are_measured() -> None:
    encode = Encoder({"a": 0, "b": 10, "c": 90})
    pairs = StsPairs("mine", ("a", "a", "b"), ("b", "c", "c"), np.array([5.0, 1.0, 2.0]))
    assert pairs.measure(encode, Similarity.COSINE) == {"mine spearman": pytest.approx(1)}
    # no text twice, and no prompt
    assert encode.asked == [(["a", "b", "c"], "")]


def test_retrieval_is_measured() -> None:
    documents = {f"d{i}": f"document {i}" for i in range(12)}
    degrees = {f"document {i}": 10.0 * i for i in range(12)} | {"first": 0, "third": 34, "none": 0}
    encode = Encoder(degrees)
    relevant = {"q1": {"d0": 1}, "q2": {"d3": 2, "d4": 1, "d11": 1}}
    queries = {"q1": "first", "q2": "third", "q3": "none"}
    found = Retrieval("mine", documents, queries, relevant).measure(encode, Similarity.COSINE)
    # q1 finds its document first; q2 has d3 and d4 on the first two places, and d11 is not among its ten
    second = (2 + 1 / math.log2(3)) / (2 + 1 / math.log2(3) + 1 / 2)
    assert found == {
        "mine ndcg@10": pytest.approx((1 + second) / 2),
        "mine recall@10": pytest.approx((1 + 2 / 3) / 2),
    }
    assert encode.asked == [(list(documents.values()), "document"), (["first", "third"], "query")]


def test_many_queries_are_measured_in_blocks() -> None:
    count = 600
    degrees = {f"document {i}": i * 0.3 for i in range(count)} | {f"query {i}": i * 0.3 for i in range(count)}
    found = Retrieval(
        "many",
        {str(i): f"document {i}" for i in range(count)},
        {str(i): f"query {i}" for i in range(count)},
        {str(i): {str(i): 1} for i in range(count)},
    ).measure(Encoder(degrees), Similarity.COSINE)
    assert found == {"many ndcg@10": pytest.approx(1), "many recall@10": 1.0}


# ---- scored pairs from a file ---------------------------------------------------------------------------------------

ROWS = "4.5\tone text\tanother\n0\tthird\tfourth, with a comma\n"


@pytest.mark.parametrize("head", ["", "score\tsentence1\tsentence2\n"], ids=["bare", "header"])
@pytest.mark.parametrize("packed", [False, True], ids=["tsv", "gz"])
def test_scored_pairs_are_read(tmp_path, head, packed) -> None:
    file = tmp_path / ("mine.tsv.gz" if packed else "mine.tsv")
    content = (head + ROWS).encode()
    file.write_bytes(gzip.compress(content) if packed else content)
    pairs = read_sts(file)
    assert pairs.name == "mine"
    assert pairs.first == ("one text", "third")
    assert pairs.second == ("another", "fourth, with a comma")
    assert pairs.scores.tolist() == [4.5, 0.0]


def test_the_pairs_of_the_benchmarks_are_read() -> None:
    pairs = read_sts(DATA / "stsb-en-test.tsv.gz")
    assert len(pairs.scores) == len(pairs.first) == len(pairs.second) == 1379
    assert 0 <= pairs.scores.min() <= pairs.scores.max() <= 5


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (ROWS + "3\tno second\n", "line 3 of {file} has 2 columns", "score, sentence1, sentence2"),
        (ROWS + "\n", "line 3 of {file} has 1 columns", "score, sentence1, sentence2"),
        (ROWS + "high\ta\tb\n", "line 3 of {file}: 'high' is not a score", "with tabs"),
        (ROWS + "nan\ta\tb\n", "line 3 of {file}: 'nan' is not a score", "with tabs"),
        ("", "{file} has 0 scored pairs", "two at least"),
        ("score\ta\tb\n1\ta\tb\n", "{file} has 1 scored pairs", "two at least"),
    ],
)
def test_what_is_no_file_of_scored_pairs(tmp_path, content, message, hint) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_sts(file)
    assert caught.value.message == message.format(file=file)
    assert hint in caught.value.hint


def test_scored_pairs_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.tsv does not exist"):
        read_sts(tmp_path / "nowhere.tsv")
    latin = tmp_path / "latin.tsv"
    latin.write_bytes("1\tä\tb\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"latin\.tsv is not UTF-8 text"):
        read_sts(latin)
    cut = tmp_path / "cut.tsv.gz"
    cut.write_bytes(gzip.compress(ROWS.encode() * 100)[:-20])
    with pytest.raises(CorruptModel, match=r"cut\.tsv\.gz cannot be read") as caught:
        read_sts(cut)
    assert caught.value.hint == "fetch it again"


# ---- retrieval sets from a folder -----------------------------------------------------------------------------------

CORPUS = (
    '{"_id": "d1", "title": "A title", "text": "and text"}\n{"_id": 2, "title": "", "text": "no title"}\n'
)
QUERIES = '{"_id": "q1", "text": "a question"}\n\n{"_id": "q2", "text": "unanswered"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\t2\t0\nq1\telsewhere\t1\n"


def beir(folder: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    (folder / "queries.jsonl").write_text(queries, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_retrieval_set_is_read(tmp_path, packed) -> None:
    folder = beir(tmp_path / "mine")
    if packed:
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    found = read_retrieval(folder)
    assert found.name == "mine"
    assert found.documents == {"d1": "A title and text", "2": "no title"}
    assert found.queries == {"q1": "a question", "q2": "unanswered"}
    assert found.relevant == {"q1": {"d1": 2, "elsewhere": 1}}


def test_judgements_need_no_header(tmp_path) -> None:
    assert read_retrieval(beir(tmp_path / "mine", qrels="q1 d1 1\n")).relevant == {"q1": {"d1": 1}}


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_retrieval_set_without_one_of_its_files(tmp_path, missing) -> None:
    folder = beir(tmp_path / "mine")
    (folder / missing).unlink()
    with pytest.raises(SourceError) as caught:
        read_retrieval(folder)
    assert caught.value.message == f"{folder / missing} does not exist"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"corpus": CORPUS + "{\n"}, r"line 3 of .*corpus\.jsonl is not JSON"),
        ({"corpus": '["d1"]\n'}, r"line 1 of .*corpus\.jsonl has no '_id' and 'text'"),
        ({"corpus": '{"_id": "d1"}\n'}, r"line 1 of .*corpus\.jsonl has no '_id' and 'text'"),
        ({"queries": '{"_id": "q1", "text": null}\n'}, r"line 1 of .*queries\.jsonl has no '_id' and 'text'"),
        ({"qrels": QRELS + "q1 d1\n"}, r"line 5 of .*test\.tsv is not: query id, document id, relevance"),
        (
            {"qrels": QRELS + "q1 d1 very\n"},
            r"line 5 of .*test\.tsv is not: query id, document id, relevance",
        ),
        ({"qrels": "q1 d1 0\nq9 d1 1\n"}, r"mine has no query with a relevant document"),
        ({"qrels": ""}, r"mine has no query with a relevant document"),
    ],
)
def test_what_is_no_retrieval_set(tmp_path, broken, message) -> None:
    with pytest.raises(InputError, match=message):
        read_retrieval(beir(tmp_path / "mine", **broken))


def test_a_compressed_corpus_that_is_cut_short(tmp_path) -> None:
    folder = beir(tmp_path / "mine")
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS.encode() * 50)[:-12])
    with pytest.raises(CorruptModel, match=r"corpus\.jsonl\.gz cannot be read"):
        read_retrieval(folder)
