"""Paths that stay inside a folder, JSON that is what it claims to be, texts line by line."""

import os
from pathlib import Path

import pytest

from stopt import folder as folder_module
from stopt.errors import CorruptModel, SourceError, UntrustedModel
from stopt.folder import contained, read_json, read_json_object, read_texts

# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", ["config.json", "a/b/c.json", "a//b", "./a", "..a", "a..b/c", "", "a/"])
def test_paths_inside_are_joined(tmp_path, relative) -> None:
    assert contained(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize(
    ("parts", "expected"),
    [(("a", "b.json"), "a/b.json"), (("", "b.json"), "b.json"), (("a", ""), "a"), ((), "")],
)
def test_pieces_are_put_together(tmp_path, parts, expected) -> None:
    assert contained(tmp_path, *parts) == tmp_path / expected


@pytest.mark.parametrize(
    "relative",
    [
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "//host/x",
        "C:/x",
        "C:x",
        "C:\\x",
        "\\x",
        "\\\\host\\share",
        "a\\..\\..\\x",
        "a\0b",
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, relative) -> None:
    with pytest.raises(UntrustedModel, match="leaves the model folder") as caught:
        contained(tmp_path, relative)
    assert caught.value.hint


@pytest.mark.parametrize("parts", [("", "/etc/passwd"), ("a", "../../x"), ("..", "x")])
def test_pieces_that_leave_it_together_are_refused(tmp_path, parts) -> None:
    with pytest.raises(UntrustedModel):
        contained(tmp_path, *parts)


@pytest.mark.parametrize("to_folder", [False, True])
def test_links_out_of_the_folder_are_refused(tmp_path, to_folder) -> None:
    root, outside = tmp_path / "model", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "x.json").touch()
    if to_folder:
        (root / "sub").symlink_to(outside)
    else:
        (root / "sub").mkdir()
        (root / "sub/x.json").symlink_to(outside / "x.json")
    with pytest.raises(UntrustedModel, match=r"is a link to .*outside the model folder"):
        contained(root, "sub/x.json")


def test_a_folder_whose_name_begins_alike_is_outside(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model-other").mkdir()
    (tmp_path / "model-other/x").touch()
    (tmp_path / "model/x").symlink_to(tmp_path / "model-other/x")
    with pytest.raises(UntrustedModel):
        contained(tmp_path / "model", "x")


def test_links_inside_are_followed(tmp_path) -> None:
    (tmp_path / "real.json").touch()
    (tmp_path / "link.json").symlink_to("real.json")
    assert contained(tmp_path, "link.json") == tmp_path / "link.json"


def test_a_root_that_is_a_link_is_fine(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/x").touch()
    (tmp_path / "link").symlink_to("model")
    assert contained(tmp_path / "link", "x") == tmp_path / "link/x"


def hub_cache(tmp_path: Path) -> Path:
    snapshot = tmp_path / "models--o--n/snapshots/abc"
    (snapshot / "onnx").mkdir(parents=True)
    (tmp_path / "models--o--n/blobs").mkdir()
    (tmp_path / "models--o--n/blobs/123").touch()
    return snapshot


def test_links_of_a_hub_cache_are_followed(tmp_path) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / "onnx/model.onnx").symlink_to("../../../blobs/123")
    assert contained(snapshot, "onnx/model.onnx").is_file()


@pytest.mark.parametrize("target", ["../../refs/main", "../../../elsewhere", "../other/x"])
def test_other_links_of_a_hub_cache_are_not(tmp_path, target) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / "x").symlink_to(target)
    with pytest.raises(UntrustedModel):
        contained(snapshot, "x")


# ---- JSON -----------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("content", "value"), [(b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}), (b"[]", [])]
)
def test_json_is_read(tmp_path, content, value) -> None:
    assert read_json(write(tmp_path, content)) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
        (b'{"b": {"a": 1, "a": 1}}', "the key 'a' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[Infinity, -Infinity]", "Infinity is not a JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Expecting value"),
    ],
)
def test_what_is_not_json_is_corrupt(tmp_path, content, reason) -> None:
    with pytest.raises(CorruptModel, match=r"x.json is not valid JSON") as caught:
        read_json(write(tmp_path, content))
    assert reason in str(caught.value)
    assert caught.value.hint


def test_text_that_is_not_utf8_is_corrupt(tmp_path) -> None:
    with pytest.raises(CorruptModel, match=r"is not UTF-8 text: .* at byte 1"):
        read_json(write(tmp_path, b'"\xff"'))


def test_a_huge_file_is_not_opened(tmp_path) -> None:
    file = tmp_path / "x.json"
    with file.open("wb") as sparse:
        sparse.truncate(folder_module.MAX_JSON_BYTES + 1)
    with pytest.raises(CorruptModel, match="20,000,001 bytes"):
        read_json(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'"\\ud800"', "has a lone surrogate"),
        (b'{"\\uDfff": 1}', "has a lone surrogate"),
        (b"[" + b"[]," * 2_000_001 + b"0]", "more than 2,000,000 lists and objects"),
    ],
)
def test_json_that_would_fail_later_is_corrupt_at_once(tmp_path, content, reason) -> None:
    with pytest.raises(CorruptModel, match=reason) as caught:
        read_json(write(tmp_path, content))
    assert caught.value.hint == "fetch the file again"


def test_surrogates_in_pairs_are_text(tmp_path) -> None:
    assert read_json(write(tmp_path, b'"\\ud83d\\ude00"')) == "😀"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(CorruptModel, match="is not a regular file") as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.hint


def test_finding_the_key_that_appears_twice_takes_no_time(tmp_path) -> None:
    members = b",".join(b'"%d": 0' % number for number in range(200_000))
    with pytest.raises(CorruptModel, match="the key '199999' appears twice"):
        read_json(write(tmp_path, b"{" + members + b', "199999": 0}'))


def test_a_missing_file_is_a_source_error(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"x.json is missing") as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.hint


def test_a_folder_in_its_place_is_a_source_error(tmp_path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_source_error(tmp_path) -> None:
    file = write(tmp_path, b"{}")
    file.chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        read_json(file)


@pytest.mark.parametrize(
    ("content", "kind"), [(b"[]", "list"), (b"1", "int"), (b"null", "NoneType"), (b'"x"', "str")]
)
def test_an_object_must_be_one(tmp_path, content, kind) -> None:
    with pytest.raises(CorruptModel, match=f"holds a JSON {kind}, expected an object"):
        read_json_object(write(tmp_path, content))


# ---- texts ----------------------------------------------------------------------------------------------------------


def test_lines_keep_everything_but_their_end(tmp_path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes("\ufeff one \n\n\ttwo\u2028still two\r\nlast".encode())
    assert read_texts(file) == [" one ", "", "\ttwo\u2028still two", "last"]


def test_jsonl_goes_by_the_name_unless_told(tmp_path) -> None:
    line = '{"text": "one", "body": "two"}\n'
    for name, given, expected in (
        ("x.jsonl", {}, "one"),
        ("x.ndjson", {"column": "body"}, "two"),
        ("x.txt", {}, line.rstrip()),
        ("x.txt", {"jsonl": True}, "one"),
        ("x.jsonl", {"jsonl": False}, line.rstrip()),
    ):
        (tmp_path / name).write_text(line, encoding="utf-8")
        assert read_texts(tmp_path / name, **given) == [expected]


def test_a_line_without_the_member_is_named_with_what_it_has(tmp_path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "one"}\n{"id": 1, "body": "b"}\n', encoding="utf-8")
    with pytest.raises(
        SourceError, match=r"line 2 of .*x.jsonl has no text 'text'; it has: id, body"
    ) as caught:
        read_texts(file)
    assert "--column" in caught.value.hint
