"""Models by name: folders, the Hub's cache, and a Hub that speaks over HTTP on this machine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import FakeHub

from stopt import ArtifactError, OptionError, SentenceTransformer, SourceError, SparseEncoder, hub
from stopt.artifact import default_file
from stopt.spec import Backend

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# ---- folders and names ----------------------------------------------------------------------------------------------


def test_a_folder_is_itself(tmp_path) -> None:
    assert hub.fetch(tmp_path) == hub.Source(tmp_path, str(tmp_path), None)
    assert hub.fetch(str(tmp_path)).folder == tmp_path


def test_a_folder_goes_before_a_repository_of_its_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "org/name@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.fetch("org/name@v1").revision is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "the empty path does not exist"),
        ("./nowhere", "./nowhere does not exist"),
        ("/nowhere/at/all", "/nowhere/at/all does not exist"),
        ("~/nowhere", "~/nowhere does not exist"),
        ("a/b/c", "a/b/c does not exist"),
        ("a\\b", "does not exist"),
        ("not a name/x", "no folder not a name/x, and it is no Hub id either"),
        ("a/b..c", "it is no Hub id either"),
        ("org/name", "no folder org/name, and org/name is neither cached nor reachable"),
        ("name", "no folder name, and sentence-transformers/name is neither cached nor reachable"),
        ("org/name@v1", "no folder org/name@v1, and org/name is neither cached nor reachable"),
        ("org/name@", "org/name@ names no revision after the @"),
    ],
)
def test_what_is_nowhere_is_an_error_with_a_hint(tmp_path, reference, message) -> None:
    with pytest.raises(SourceError) as caught:
        hub.fetch(reference, cache_folder=tmp_path)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_is_not_a_model(tmp_path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(SourceError, match="is a file, not a model folder"):
        hub.fetch(tmp_path / "model.onnx")


def test_two_revisions_contradict_each_other(tmp_path) -> None:
    with pytest.raises(OptionError, match="name different revisions"):
        hub.fetch("org/name@v1", revision="v2", cache_folder=tmp_path)


# ---- the cache ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as huggingface_hub leaves it: blobs, a snapshot of links, a reference."""
    home = tmp_path / "cache/models--org--name"
    snapshot = home / "snapshots" / COMMIT
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True)
    (home / "blobs/1").write_text("{}", encoding="utf-8")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    for name in ("main", "v1"):
        (home / "refs" / name).write_text(COMMIT, encoding="utf-8")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("reference", "revision"),
    [
        ("org/name", None),
        ("org/name@v1", None),
        ("org/name", "v1"),
        ("org/name@v1", "v1"),
        (f"org/name@{COMMIT}", None),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_what_is_cached_is_found_offline(cache, reference, revision, local) -> None:
    source = hub.fetch(reference, revision=revision, cache_folder=cache, local_files_only=local)
    assert source.folder == cache / "models--org--name/snapshots" / COMMIT
    assert (source.name, source.revision) == ("org/name", COMMIT)


def test_the_cache_of_sentence_transformers_is_used(cache, monkeypatch) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(cache))
    assert hub.fetch("org/name").revision == COMMIT


def test_another_revision_is_not_taken_instead(cache) -> None:
    with pytest.raises(SourceError, match="neither cached nor reachable"):
        hub.fetch("org/name@v2", cache_folder=cache)


# ---- over HTTP ------------------------------------------------------------------------------------------------------

REPO = "org/name"


@pytest.fixture
def served(fake_hub: FakeHub, exported: Callable[..., Path]) -> FakeHub:
    """A Hub that has a model with both plain files, and files that nobody needs."""
    fake_hub.model(
        REPO, {**files_of(exported("bert", dense=16)), "onnx/model_O4.onnx": b"other", "w.bin": b"pickle"}
    )
    return fake_hub


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_model_is_fetched_with_only_the_files_that_it_needs(served, exported) -> None:
    found = SentenceTransformer(f"{REPO}@main", backend="onnx").encode("one text")
    expected = SentenceTransformer(exported("bert", dense=16), backend="onnx").encode("one text")
    assert found.tolist() == expected.tolist()
    fetched = [line.partition("?")[0] for line in served.asked(f"^GET /{REPO}/resolve|^GET /storage")]
    assert len(fetched) == len(set(fetched)), "a file was fetched twice"
    large = {line.split("/", 5)[5] for line in served.asked(f"^HEAD /{REPO}/resolve")}
    large = {name for name in large if not name.endswith((".json", ".txt"))}
    assert large == {default_file(Backend.ONNX), "2_Dense/model.safetensors"}


def test_a_branch_is_asked_for_once(served) -> None:
    SentenceTransformer(REPO)
    assert len(served.asked("^GET /api")) == 1


@pytest.mark.parametrize("how", ["local_files_only", "offline", "nobody there"])
def test_what_was_fetched_is_used_without_the_hub(served, monkeypatch, how) -> None:
    first = SentenceTransformer(f"{REPO}@main", backend="onnx").encode("one text")
    served.requests.clear()
    if how == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        from huggingface_hub.utils import reset_sessions

        reset_sessions()
    if how == "nobody there":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    again = SentenceTransformer(REPO, backend="onnx", local_files_only=how == "local_files_only")
    assert again.encode("one text").tolist() == first.tolist()
    assert served.requests == []


def test_a_commit_that_is_cached_needs_no_hub(served) -> None:
    commit = served.repos[REPO].commits[0].oid
    for _ in range(2):
        SentenceTransformer(f"{REPO}@{commit}", backend="onnx")
    asked = len(served.requests)
    SentenceTransformer(f"{REPO}@{commit}", backend="onnx")
    assert len(served.requests) == asked
    # another file of the same commit is fetched without asking what the commit is
    SentenceTransformer(f"{REPO}@{commit}", backend="openvino")
    assert len(served.asked("^GET /api")) == 1


def test_a_file_that_is_not_there_is_told_with_those_that_are(served) -> None:
    with pytest.raises(
        ArtifactError, match=r"org/name has no model_O9.onnx; its onnx files: onnx/model"
    ) as caught:
        SentenceTransformer(REPO, model_kwargs={"file_name": "model_O9.onnx"})
    assert caught.value.hint == "did you mean 'onnx/model_O4.onnx'?"
    with pytest.raises(
        ArtifactError, match=r"org/name has no my.xml; its openvino files: openvino/openvino_model.xml"
    ):
        SentenceTransformer(REPO, model_kwargs={"file_name": "my.xml"})


def test_a_file_at_the_root_is_found(fake_hub, exported) -> None:
    files = files_of(exported("bert"))
    files["model.onnx"] = files.pop("onnx/model.onnx")
    fake_hub.model(REPO, files)
    model = SentenceTransformer(REPO, backend="onnx")
    assert model.encode("one text").shape == (32,)
    assert model.file.name == "model.onnx"


def test_a_folder_between_is_looked_into(fake_hub, exported) -> None:
    files = files_of(exported("bert"))
    files["variants/onnx/model.onnx"] = files.pop("onnx/model.onnx")
    fake_hub.model(REPO, files)
    for options in ({"subfolder": "variants"}, {"file_name": "variants/onnx/model.onnx"}):
        model = SentenceTransformer(REPO, backend="onnx", model_kwargs=options)
        assert model.encode("one text").shape == (32,)


def test_the_files_of_routes_are_fetched(fake_hub, exported) -> None:
    folder = exported("bert", kind="inference-free")
    fake_hub.model(REPO, {**files_of(folder), "onnx/other.onnx": b"x"})
    assert any(name.endswith("/onnx/model.onnx") for name in files_of(folder)), "no file in a route's folder"
    there, here = (SparseEncoder(name, backend="onnx") for name in (REPO, folder))
    for method in ("encode_query", "encode_document"):
        vectors = [getattr(model, method)(["one text"]).toarray().tolist() for model in (there, here)]
        assert vectors[0] == vectors[1]
    assert not fake_hub.asked("other.onnx|openvino")


def test_a_part_of_a_model_is_not_taken_for_all_of_it(served, monkeypatch) -> None:
    source = hub.fetch(REPO)
    (source.folder / "modules.json").unlink()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SourceError, match=r"only a part of org/name at .* is cached; missing: modules.json"
    ) as caught:
        hub.fetch(REPO, local_files_only=True)
    assert caught.value.hint == "fetch it once with a connection"


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (
            404,
            "RepoNotFound",
            "and no Hub repository org/name for you",
            "name a model folder",
        ),
        (
            401,
            "RepoNotFound",
            "and no Hub repository org/name for you",
            "name a model folder",
        ),
        (401, "", "the Hub does not accept the token", "hf auth login"),
        (403, "GatedRepo", "org/name is gated", "hf auth login"),
        (403, "", "org/name may not be read with this token", "hf auth login"),
        (404, "RevisionNotFound", "org/name has no revision 'v1'", "branch, tag or commit"),
        (429, "", "too many requests", "try again in 17 s"),
        (500, "", "the Hub answered 500", "try again later"),
        (503, "", "the Hub answered 503", "try again later"),
    ],
)
def test_what_the_hub_refuses_is_told(served, status, code, message, hint) -> None:
    served.fault("GET /api", status, code=code, times=-1, headers={"Retry-After": "17"})
    with pytest.raises(SourceError, match=message) as caught:
        hub.fetch(f"{REPO}@v1")
    assert hint in caught.value.hint


def test_a_repository_without_a_main_branch_is_told(served) -> None:
    served.fault("GET /api", 404, code="RevisionNotFound")
    with pytest.raises(SourceError, match="org/name has no revision 'main'"):
        hub.fetch(REPO)


def test_nobody_listening_is_not_reachable(fake_hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="org/name is neither cached nor reachable"):
        hub.fetch(REPO)


def test_another_process_takes_the_address_from_its_environment(served, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    args = [sys.executable, "-m", "stopt", "inspect", REPO, "--format", "quiet"]
    done = subprocess.run(args, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "dense\n", "")
