"""A Hugging Face Hub on this machine, over HTTP, as huggingface_hub 0.36 speaks to it; it fails on demand.

Large files are served from a second port, as the Hub's storage is on another host. What the API looks like is read from
huggingface_hub's own source: hf_api.py, _commit_api.py, lfs.py, file_download.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["TOKEN", "Commit", "FakeHub", "Fault", "Repo", "blob_id"]

TOKEN = "hf_CANARYcanaryCANARYcanaryCANARY0001"
LARGE = ("*.onnx", "*.bin", "*.safetensors", "*.onnx_data", "*.data")
CREATED = "2026-01-01T00:00:00.000Z"


def blob_id(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Commit:
    """A commit: everything in the repository at it."""

    oid: str
    title: str
    description: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A model repository: commits by branch (pull requests are branches), and its discussions."""

    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": []})
    pulls: list[dict[str, Any]] = field(default_factory=list)
    private: bool = False
    names: list[Any] | None = None  # what is listed beside the real names
    raw: bytes | None = None  # what is answered instead of a description

    def commit(
        self, files: Mapping[str, bytes], title: str = "init", *, to: str = "main", text: str = ""
    ) -> str:
        """Add a commit with changed files; returns its id."""
        history = self.branches.setdefault(to, [])
        merged = {**(history[-1].files if history else {}), **files}
        number = sum(map(len, self.branches.values()))
        oid = hashlib.sha1(f"{to}{number}{sorted(map(blob_id, merged.values()))}".encode()).hexdigest()
        history.append(Commit(oid, title, text, merged))
        return oid

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch or an id stands for."""
        if self.branches.get(revision):
            return self.branches[revision][-1]
        known = [each for history in self.branches.values() for each in history]
        return next((each for each in known if each.oid == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        """What main holds now."""
        return self.branches["main"][-1].files

    @property
    def commits(self) -> list[Commit]:
        """History of main, oldest first."""
        return self.branches["main"]


@dataclass
class Fault:
    """Something that goes wrong with requests whose ``METHOD /path`` matches.

    Attributes:
        where: Regular expression.
        status: Answer with this status.
        code: The Hub's own name of the error, in a header.
        headers: Further headers of the answer.
        message: Text of the error; ``{token}`` stands for the Authorization header that came in.
        times: How often; -1 is always.
        after: Do what was asked first, then fail.
        cut: Close the connection after so many bytes of the real answer.
        unread: Close the connection after reading so many bytes of what is sent.
        drip_s: Pause after every byte of the real answer.
        pad: Bytes that are added to, or taken from, the real answer.
        redirect: Where to redirect to.
    """

    where: str
    status: int = 0
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    times: int = 1
    after: bool = False
    cut: int | None = None
    unread: int | None = None
    drip_s: float = 0.0
    pad: int = 0
    redirect: str = ""


class _HangUp(Exception):
    """Close the connection now."""


@dataclass
class Answer:
    """Status, headers and body of an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _error(status: int, message: str, code: str = "") -> Answer:
    answer = _json({"error": message}, status)
    answer.headers["X-Error-Message"] = message
    if code:
        answer.headers["X-Error-Code"] = code
    return answer


class FakeHub:
    """The server.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        storage: Address of the large files.
        repos: Repositories by name.
        faults: What goes wrong next.
        requests: ``METHOD /path`` of every request, in order.
        received: Every body that was sent here.
        leaked: Authorization headers that reached the storage, which has no business with them.
        tokens: Tokens that may write.
        part_size: Size above which a file is uploaded in parts.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.received: list[bytes] = []
        self.leaked: list[str] = []
        self.tokens = {TOKEN}
        self.part_size = 1 << 30
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._servers = [_Server(("127.0.0.1", 0), handler) for _ in range(2)]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def close(self) -> None:
        """Stop it."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def model(self, name: str, files: Mapping[str, bytes], **options: Any) -> Repo:
        """Add a repository with one commit."""
        repo = self.repos[name] = Repo(**options)
        repo.commit(files)
        return repo

    def fault(self, where: str, status: int = 0, **options: Any) -> None:
        """Let something go wrong."""
        self.faults.append(Fault(where, status, **options))

    def asked(self, pattern: str) -> list[str]:
        """The requests that match."""
        return [each for each in self.requests if re.search(pattern, each)]

    # ---- answers ----------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        """Answer a request."""
        split = urlsplit(target)
        path, query = unquote(split.path), {key: each[0] for key, each in parse_qs(split.query).items()}
        for pattern, respond in self._routes():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return respond(found, query, headers, body)
        return _error(404, f"no such page: {method} {path}")

    def _routes(self) -> list[tuple[str, Callable[..., Answer]]]:
        name = r"(?P<name>[^/]+/[^/]+?)"
        return [
            (rf"GET /api/models/{name}(/revision/(?P<revision>.+))?", self._info),
            (rf"GET /api/models/{name}/tree/(?P<revision>refs/pr/\d+|[^/]+)(?P<inside>/.*)?", self._tree),
            (rf"GET /api/models/{name}/discussions", self._discussions),
            (rf"GET /api/models/{name}/discussions/(?P<number>\d+)", self._discussion),
            (rf"POST /api/models/{name}/discussions/(?P<number>\d+)/comment/bb/edit", self._edit),
            (rf"(GET|HEAD) /{name}/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<file>.+)", self._resolve),
            (r"(GET|HEAD) /storage/(?P<oid>\w+)", self._stored),
            (r"POST /api/repos/create", self._create),
            (r"POST /api/validate-yaml", lambda *_: _json({"errors": [], "warnings": []})),
            (rf"POST /api/models/{name}/branch/(?P<revision>.+)", self._branch),
            (rf"POST /api/models/{name}/preupload/(?P<revision>.+)", self._preupload),
            (rf"POST /{name}\.git/info/lfs/objects/batch", self._batch),
            (r"PUT /storage/(?P<oid>\w+)(/(?P<part>\d+))?", self._store),
            (r"POST /storage/(?P<oid>\w+)", self._complete),
            (r"POST /verify", self._verify),
            (rf"POST /api/models/{name}/commit/(?P<revision>.+)", self._commit),
        ]

    def _find(self, found: re.Match[str], headers: Any) -> Repo | Answer:
        repo = self.repos.get(found["name"])
        if repo is None or (repo.private and not self._writer(headers)):
            return _error(401 if not self._writer(headers) else 404, "Repository not found", "RepoNotFound")
        return repo

    def _writer(self, headers: Any) -> bool:
        return headers.get("Authorization", "").removeprefix("Bearer ") in self.tokens

    def _info(self, found: re.Match[str], query: Mapping[str, str], headers: Any, _: bytes) -> Answer:
        repo = self._find(found, headers)
        if isinstance(repo, Answer):
            return repo
        if repo.raw is not None:
            return Answer(200, repo.raw, {"Content-Type": "application/json"})
        commit = repo.at(found["revision"] or "main")
        if commit is None:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        siblings = []
        for file, content in commit.files.items():
            entry: dict[str, Any] = {"rfilename": file}
            if "blobs" in query:
                entry |= {"size": len(content), "blobId": blob_id(content)}
                if self.is_large(file, content):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        siblings += [{"rfilename": each} for each in repo.names or ()]
        document = {"_id": "1", "id": found["name"], "private": repo.private, "sha": commit.oid}
        return _json({**document, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, found: re.Match[str], _: Any, headers: Any, __: bytes) -> Answer:
        repo = self._find(found, headers)
        commit = None if isinstance(repo, Answer) else repo.at(found["revision"])
        if commit is None:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        if found["inside"]:  # nobody here looks into a folder that is there
            return _error(404, "no such folder", "EntryNotFound")
        return _json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
                for path, content in commit.files.items()
            ]
        )

    @staticmethod
    def is_large(file: str, content: bytes) -> bool:
        """Whether a file is kept in the storage."""
        return any(fnmatch(file, each) for each in LARGE) and bool(content)

    def _resolve(self, found: re.Match[str], _: Mapping[str, str], headers: Any, __: bytes) -> Answer:
        repo = self._find(found, headers)
        if isinstance(repo, Answer):
            return repo
        commit = repo.at(found["revision"])
        if commit is None:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        content = commit.files.get(found["file"])
        if content is None:
            return _error(404, "Entry not found", "EntryNotFound")
        if not self.is_large(found["file"], content):
            etag = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": commit.oid}
            return Answer(200, content, etag)
        digest = hashlib.sha256(content).hexdigest()
        self.large[digest] = content
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        place = {"Location": f"{self.storage}/storage/{digest}", "X-Repo-Commit": commit.oid}
        return Answer(302, b"", {**linked, **place})

    def _stored(self, found: re.Match[str], _: Mapping[str, str], headers: Any, __: bytes) -> Answer:
        if "Authorization" in headers:
            self.leaked.append(headers["Authorization"])
        content = self.large.get(found["oid"])
        if content is None:
            return _error(404, "no such object")
        if asked := re.fullmatch(r"bytes=(\d+)-", headers.get("Range", "")):
            start, total = int(asked[1]), len(content)
            if start >= total:
                return _error(416, "Range Not Satisfiable")
            return Answer(206, content[start:], {"Content-Range": f"bytes {start}-{total - 1}/{total}"})
        return Answer(200, content, {"ETag": f'"{found["oid"]}"'})

    def _create(self, _: re.Match[str], __: Mapping[str, str], headers: Any, body: bytes) -> Answer:
        if not self._writer(headers):
            return _error(401, "Invalid credentials in Authorization header")
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return _error(409, "You already created this model repo")
        self.model(name, {".gitattributes": b"*.onnx filter=lfs"}, private=bool(asked.get("private")))
        return _json({"url": f"{self.url}/{name}", "name": name})

    def _branch(self, found: re.Match[str], _: Mapping[str, str], headers: Any, body: bytes) -> Answer:
        if not self._writer(headers):
            return _error(403, "Forbidden")
        repo = self.repos[found["name"]]
        if found["revision"] in repo.branches:
            return _error(409, "Reference already exists")
        repo.branches[found["revision"]] = list(repo.branches["main"])
        return _json({})

    def _preupload(self, found: re.Match[str], _: Mapping[str, str], headers: Any, body: bytes) -> Answer:
        repo = self._find(found, headers)
        if isinstance(repo, Answer):
            return repo
        commit = repo.at(found["revision"])
        if commit is None:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        ignored = commit.files.get(".gitignore", b"").decode().split()
        described = []
        for each in json.loads(body)["files"]:
            path, size = each["path"], each["size"]
            there = commit.files.get(path)
            described.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if self.is_large(path, b"x" * bool(size)) else "regular",
                    "shouldIgnore": any(fnmatch(path, pattern) for pattern in ignored),
                    "oid": blob_id(there) if there is not None else None,
                }
            )
        return _json({"files": described})

    def _batch(self, _: re.Match[str], __: Mapping[str, str], headers: Any, body: bytes) -> Answer:
        if not self._writer(headers):
            return _error(403, "Forbidden")
        asked = json.loads(body)
        assert asked["hash_algo"] == "sha256"
        objects = []
        for each in asked["objects"]:
            place = f"{self.storage}/storage/{each['oid']}"
            upload: dict[str, Any] = {"href": place}
            if each["size"] > self.part_size:
                count = -(-each["size"] // self.part_size)
                upload["header"] = {f"{part + 1:05}": f"{place}/{part + 1}" for part in range(count)}
                upload["header"]["chunk_size"] = str(self.part_size)
            if each["oid"] not in self.large:
                each = {**each, "actions": {"upload": upload, "verify": {"href": f"{self.url}/verify"}}}
            objects.append(each)
        return _json({"transfer": "basic", "objects": objects})

    def _store(self, found: re.Match[str], _: Mapping[str, str], headers: Any, body: bytes) -> Answer:
        if "Authorization" in headers:
            self.leaked.append(headers["Authorization"])
        if found["part"]:
            self.parts[found["oid"], int(found["part"])] = body
            return Answer(200, b"", {"ETag": f'"part{found["part"]}"'})
        return self._keep(found["oid"], body)

    def _complete(
        self, found: re.Match[str], _: Mapping[str, str], __: Mapping[str, str], body: bytes
    ) -> Answer:
        numbers = [each["partNumber"] for each in json.loads(body)["parts"]]
        return self._keep(found["oid"], b"".join(self.parts[found["oid"], number] for number in numbers))

    def _keep(self, oid: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != oid:
            return _error(400, "the content does not have the hash that was announced")
        self.large[oid] = content
        return Answer(200)

    def _verify(self, _: re.Match[str], __: Mapping[str, str], ___: Mapping[str, str], body: bytes) -> Answer:
        asked = json.loads(body)
        known = len(self.large.get(asked["oid"], b"")) == asked["size"]
        return _json({}) if known else _error(404, "not there")

    def _commit(self, found: re.Match[str], query: Mapping[str, str], headers: Any, body: bytes) -> Answer:
        repo = self._find(found, headers)
        if isinstance(repo, Answer):
            return repo
        if not self._writer(headers):
            return _error(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = lines[0]["value"]
        base = repo.at(found["revision"])
        assert base is not None
        parent = header.get("parentCommit", base.oid)
        pull = query.get("create_pr") == "1"
        if parent != base.oid and not pull:
            return _error(412, "A commit has happened since. Please refresh and try again.")
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and value["oid"] in self.large:
                files[value["path"]] = self.large[value["oid"]]
            else:
                return _error(400, f"cannot commit {line}")
        branch, answer = found["revision"], {}
        if pull:
            number = len(repo.pulls) + 1
            branch = f"refs/pr/{number}"
            started = repo.at(parent)
            assert started is not None
            repo.branches[branch] = [started]
            repo.pulls.append({"num": number, "title": header["summary"], "text": header["description"]})
            answer["pullRequestUrl"] = f"{self.url}/{found['name']}/discussions/{number}"
        oid = repo.commit(files, header["summary"], to=branch, text=header["description"])
        page = f"{self.url}/{found['name']}/commit/{oid}"
        return _json({"success": True, "commitOid": oid, "commitUrl": page, "hookOutput": "", **answer})

    def _discussions(self, found: re.Match[str], query: Mapping[str, str], headers: Any, _: bytes) -> Answer:
        repo = self._find(found, headers)
        if isinstance(repo, Answer):
            return repo
        listed = [
            {
                "num": pull["num"],
                "title": pull["title"],
                "author": {"name": "someone"},
                "createdAt": CREATED,
                "status": pull.get("status", "open"),
                "repo": {"name": found["name"], "type": "model"},
                "isPullRequest": pull.get("pull", True),
            }
            for pull in reversed(repo.pulls)
        ]
        if query.get("type") == "pull_request":
            listed = [each for each in listed if each["isPullRequest"]]
        if query.get("status"):
            listed = [each for each in listed if each["status"] == query["status"]]
        return _json({"count": len(listed), "start": 0, "discussions": listed})

    def _discussion(self, found: re.Match[str], _: Any, headers: Any, __: bytes) -> Answer:
        repo = self._find(found, headers)
        if isinstance(repo, Answer):
            return repo
        pull = repo.pulls[int(found["number"]) - 1]
        data = {"subject": pull["title"], "oid": "0" * 40}
        events = [{"id": "AA", "type": "commit", "createdAt": CREATED, "data": data}, _comment(pull["text"])]
        about = {"num": pull["num"], "title": pull["title"], "status": "open", "createdAt": CREATED}
        about |= {"isPullRequest": True, "repo": {"name": found["name"], "type": "model"}, "events": events}
        return _json({**about, "changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "diff": ""})

    def _edit(self, found: re.Match[str], _: Any, headers: Any, body: bytes) -> Answer:
        if not self._writer(headers):
            return _error(403, "Forbidden")
        pull = self.repos[found["name"]].pulls[int(found["number"]) - 1]
        pull["text"] = json.loads(body)["content"]
        return _json({"updatedComment": _comment(pull["text"])})


def _comment(text: str) -> dict[str, Any]:
    data = {"edited": False, "hidden": False, "latest": {"raw": text}}
    return {"id": "BB", "type": "comment", "createdAt": CREATED, "data": data}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536

    def handle_any(self) -> None:
        hub, line = self.hub, f"{self.command} {self.path}"
        with hub.lock:
            hub.requests.append(line)
            fault = next((each for each in hub.faults if each.times and re.search(each.where, line)), None)
            if fault is not None:
                fault.times -= 1
        try:
            body = self._body(fault)
            hub.received.append(body)
            if fault is not None and fault.status and not fault.after:
                self._send(self._failure(fault), None)
                return
            if fault is not None and fault.redirect:
                self._send(Answer(302, b"", {"Location": fault.redirect}), None)
                return
            with hub.lock:
                answer = hub.answer(self.command, self.path, self.headers, body)
            if fault is not None and fault.after:
                answer = self._failure(fault)
            self._send(answer, fault)
        except (_HangUp, ConnectionError):
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _body(self, fault: Fault | None) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.unread is not None:
            self.rfile.read(min(size, fault.unread))
            raise _HangUp
        return self.rfile.read(size)

    def _failure(self, fault: Fault) -> Answer:
        if not fault.status:
            raise _HangUp
        message = fault.message.replace("{token}", self.headers.get("Authorization", "none"))
        answer = _error(fault.status, message or "as asked for", fault.code)
        answer.headers.update(fault.headers)
        return answer

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        content = answer.body
        if fault is not None and fault.drip_s and self.command == "HEAD":
            self._drip(b"HTTP/1.1 200 OK\r\n", fault.drip_s)
        if fault is not None and fault.pad:
            content = content + b"x" * fault.pad if fault.pad > 0 else content[: fault.pad]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut is not None:
            self.wfile.write(content[: fault.cut])
            self.wfile.flush()
            raise _HangUp
        if fault is not None and fault.drip_s:
            self._drip(content, fault.drip_s)
            return
        self.wfile.write(content)

    def _drip(self, content: bytes, pause_s: float) -> None:
        for position in range(len(content)):
            self.wfile.write(content[position : position + 1])
            self.wfile.flush()
            time.sleep(pause_s)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
