"""A Hub, or somebody between it and us, that means no good: nothing outside the cache, bounded in time, a typed error."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub

from stopt import CorruptModel, SourceError, StoptError, UntrustedModel, hub
from stopt.hub import calls

pytestmark = pytest.mark.scorecard("H17")

REPO = "org/name"
LIMIT_S = 10.0  # generous: what is expected is well under a second


@pytest.fixture
def served(fake_hub: FakeHub, exported: Callable[..., Path]) -> FakeHub:
    folder = exported("bert")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    fake_hub.model(REPO, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    return fake_hub


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path: Path) -> Iterator[None]:
    """Nothing appears but in the caches; every test ends soon."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LIMIT_S
    assert {path.name for path in tmp_path.iterdir()} <= {"hub-cache", "stopt-cache"}


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "a/../../x.json",
        "/etc/x.json",
        "C:x.json",
        "C:\\x.json",
        "\\\\host\\share\\x.json",
        "..\\x.json",
        "onnx\\..\\..\\x.json",
        "a\0b.json",
        "x" * 300 + ".json",
        "1_Pooling/../../../../refs/main",
    ],
)
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_fetched(served, name) -> None:
    served.repos[REPO].names = [name]
    with pytest.raises(
        UntrustedModel, match=r"org/name lists the file .* which leaves the model folder"
    ) as caught:
        hub.fetch(REPO)
    assert "HF_ENDPOINT" in caught.value.hint
    assert not served.asked("resolve")


@pytest.mark.parametrize("name", [None, 7, ["a"], {"a": 1}])
def test_a_name_that_is_no_text_is_refused(served, name) -> None:
    served.repos[REPO].names = [name]
    with pytest.raises(StoptError):
        hub.fetch(REPO)


@pytest.mark.parametrize("commit", ["../../x", "main", "", "0" * 39 + "/", None])
def test_a_commit_that_is_none_is_refused(served, commit) -> None:
    served.repos[REPO].commits[0].oid = commit
    with pytest.raises(SourceError, match="names the commit") as caught:
        hub.fetch(REPO)
    assert caught.value.hint == "check HF_ENDPOINT"


@pytest.mark.parametrize("pad", [-1, -100_000, 1])
@pytest.mark.parametrize("where", ["GET /storage", "GET /org/name/resolve/.*/config.json"])
def test_a_file_of_another_size_is_refused(served, where, pad) -> None:
    served.fault(where, pad=pad, times=-1)
    with pytest.raises(StoptError) as caught:
        hub.fetch(REPO)
    assert isinstance(caught.value, SourceError | CorruptModel)
    assert caught.value.hint
    served.faults.clear()
    source = hub.fetch(REPO)  # what is left of the attempt is not in the way
    for name in ("config.json", "model.safetensors"):
        assert (source.folder / name).read_bytes() == served.repos[REPO].files[name]


def test_a_large_file_with_other_content_is_refused_and_not_kept(served) -> None:
    hub.fetch(REPO)  # fills the storage
    digest, content = next((key, value) for key, value in served.large.items() if len(value) > 100_000)
    served.large[digest] = content[:-1] + bytes([content[-1] ^ 1])
    source = hub.fetch(REPO)
    for link in source.folder.glob("*.safetensors"):
        Path(os.path.realpath(link)).unlink()
        link.unlink()
    served.answer = _frozen(served)
    for _ in range(2):
        with pytest.raises(CorruptModel, match=r"model.safetensors of org/name arrived damaged") as caught:
            hub.fetch(REPO)
        assert caught.value.hint == "fetch it again"
        assert not list(source.folder.glob("*.safetensors"))


def _frozen(served: FakeHub) -> Callable[..., object]:
    """The Hub as it is, but that its storage keeps what it has."""
    answer, kept = served.answer, dict(served.large)

    def respond(*args: object) -> object:
        found = answer(*args)
        served.large.update(kept)
        return found

    return respond


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("where", ["GET /api", "HEAD /org/name/resolve/.*/config.json", "GET /storage"])
def test_a_hub_that_fails_is_told(served, where, status) -> None:
    served.fault(where, status, times=-1)
    with pytest.raises(SourceError, match=f"the Hub answered {status}") as caught:
        hub.fetch(REPO)
    assert "try again later" in caught.value.hint
    served.faults.clear()
    assert (hub.fetch(REPO).folder / "config.json").is_file()


@pytest.mark.parametrize("where", ["GET /api", "HEAD /org/name/resolve/.*/config.json", "GET /storage"])
def test_a_connection_that_is_cut_is_told_and_goes_on_later(served, where) -> None:
    served.fault(where, cut=100 if where.startswith("GET") else None, unread=0, times=-1)
    with pytest.raises(SourceError) as caught:
        hub.fetch(REPO)
    assert caught.value.hint
    served.faults.clear()
    assert (hub.fetch(REPO).folder / "model.safetensors").stat().st_size > 0


def test_a_download_that_is_cut_once_is_taken_up_where_it_stopped(served) -> None:
    served.fault("GET /storage", cut=100)
    source = hub.fetch(REPO)
    assert (source.folder / "model.safetensors").read_bytes() == served.repos[REPO].files["model.safetensors"]


@pytest.mark.parametrize(
    "where", ["GET /api", "GET /org/name/resolve/.*/config.json", "GET /storage", "HEAD /org/name/resolve"]
)
def test_a_hub_that_drips_is_given_up(served, monkeypatch, where) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.5)
    monkeypatch.setattr(calls, "SLOWEST", 1e9)
    served.fault(where, drip_s=0.3, times=-1)
    with pytest.raises(SourceError, match=r"no answer within [01] s") as caught:
        hub.fetch(REPO)
    assert caught.value.hint == "check the connection and try again"


def test_patience_grows_with_what_is_transferred() -> None:
    assert calls.limit_s(0) == calls.PATIENCE_S
    assert calls.limit_s(90_000_000) > 90_000_000 / calls.SLOWEST


@pytest.mark.parametrize("where", ["GET /api", "HEAD /org/name/resolve", "GET /storage"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_circle_of_redirects_is_told(served, where, absolute) -> None:
    place = where.partition(" ")[2]
    if where.startswith("HEAD"):
        served.model(REPO, {"config.json": b"{}"})  # each file that is fetched runs in the circle by itself
    served.fault(
        f"{where}|/circle{place}", redirect=f"{served.url if absolute else ''}/circle{place}", times=-1
    )
    with pytest.raises(SourceError, match=r"could not be fetched|neither cached nor reachable") as caught:
        hub.fetch(REPO)
    assert caught.value.hint


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'{"sha": 1}', b"\xff" * 10])
def test_an_answer_that_is_none_is_told(served, body) -> None:
    served.repos[REPO].raw = body
    with pytest.raises(SourceError) as caught:
        hub.fetch(REPO)
    assert caught.value.hint
