"""A server on loopback that speaks as much of the Hugging Face Hub's HTTP interface as
`huggingface_hub` and `datasets` ask for: models and data sets from local folders.

    with Hub() as hub:
        hub.add("model", "someone/tiny", folder)
        subprocess.run([...], env=hub.environment(tmp_path / "cache"))

What is answered, and with which headers, follows huggingface_hub's `hf_api.py`, `file_download.py`
and `utils/_http.py`. HF_ENDPOINT is read when huggingface_hub is imported, so whatever is tested
runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KINDS = ("model", "dataset", "space")
_VERBS = ("revision", "tree", "paths-info", "refs", "resolve", "raw")
TOKEN = "hf_" + "x" * 34  # sees private repositories; it has not been granted gated ones
GRANTED = "hf_" + "y" * 34  # sees private and gated ones


@dataclass
class Repo:
    """A repository: what its files were at each commit, and what branches and tags point at."""

    kind: str
    name: str
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None


class Hub:
    """The server; `url` is where it listens, `requests` what it was asked: ('GET', '/api/...').

    broken   parts of paths, each with the status that such requests are answered with
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self.requests: list[tuple[str, str]] = []
        self.broken: dict[str, int] = {}
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self, kind: str, name: str, content: Path | Mapping[str, bytes | str], *,
        gated: bool = False, private: bool = False, alias: str | None = None,
        refs: tuple[str, ...] = ("main",),
    ) -> str:  # fmt: skip
        """Put the files of a folder into a repository, as a new commit; returns its hash.

        content   a folder, or texts by path
        alias     an older name, from which the Hub redirects
        refs      branches and tags that point at the commit from now on
        """
        assert kind in KINDS
        files = _files(content)
        repo = self.repos.setdefault((kind, name), Repo(kind, name))
        repo.gated, repo.private = gated, private
        digest = hashlib.sha1(f"{kind} {name}".encode())
        for path, data in sorted(files.items()):
            digest.update(f"{path}\0{len(data)}\0".encode() + data)
        commit = digest.hexdigest()
        repo.commits[commit] = files
        repo.refs |= dict.fromkeys(refs, commit)
        if alias is not None:
            self.aliases[kind, alias] = name
        return commit

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """The environment of a process that uses this hub and keeps what it loads in `home`."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "HUGGING_FACE_"))}
        for name in ("TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            kept.pop(name, None)
        asked = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1",
                 "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                 "NO_PROXY": "127.0.0.1"}  # fmt: skip
        return kept | asked | ({"HF_TOKEN": token} if token else {}) | more

    def files_asked(self) -> set[str]:
        """The files whose contents were sent, by their path in their repository."""
        sent = (path for method, path in self.requests if method == "GET")
        return {path.split("/resolve/")[1].partition("/")[2].partition("?")[0]
                for path in sent if "/resolve/" in path}  # fmt: skip


def _files(content: Path | Mapping[str, bytes | str]) -> dict[str, bytes]:
    if isinstance(content, Path):
        found = sorted(p for p in content.rglob("*") if p.is_file())
        return {p.relative_to(content).as_posix(): p.read_bytes() for p in found}
    return {n: d.encode() if isinstance(d, str) else d for n, d in content.items()}


class _Refused(Exception):
    """An answer other than 200: status, and the headers that say what is the matter."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self.headers = {n: v for n, v in named.items() if v} | headers


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.hub.requests.append((self.command, self.path))
        try:
            for part, status in self.server.hub.broken.items():
                if part in self.path:
                    raise _Refused(status)
            where = urlsplit(self.path)
            segments = [unquote(s) for s in where.path.strip("/").split("/")]
            if segments[0] == "api":
                self._api(segments[1:], parse_qs(where.query), body)
            else:
                self._resolve(segments)
        except _Refused as refused:
            text = json.dumps({"error": str(refused) or "refused"}).encode()
            self._send(refused.status, text, refused.headers)

    def _repo(self, kind: str, segments: list[str]) -> tuple[Repo, list[str]]:
        """The repository that a path begins with, and the rest of the path."""
        for count in (2, 1):
            name, after = "/".join(segments[:count]), segments[count : count + 1]
            if count == 1 and after and after[0] not in _VERBS:
                break  # the second part of a longer name
            if (kind, name) in self.server.hub.aliases:
                new = self.path.replace(f"/{name}", f"/{self.server.hub.aliases[kind, name]}", 1)
                raise _Refused(307, Location=new)
            repo = self.server.hub.repos.get((kind, name))
            if repo is not None and (not repo.private or self._token() in (TOKEN, GRANTED)):
                return repo, segments[count:]
        if self._token() is None:
            raise _Refused(401, "RepoNotFound", "Invalid username or password.")
        raise _Refused(404, "RepoNotFound", "Repository not found")

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.commit_of(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, segments: list[str], query: dict[str, list[str]], body: bytes) -> None:
        kind = segments[0].removesuffix("s")
        if kind not in KINDS:
            raise _Refused(401 if kind.startswith("whoami") else 404)
        repo, rest = self._repo(kind, segments[1:])
        if not rest or rest[0] == "revision":
            return self._json(_info(repo, self._commit(repo, rest[1] if rest else "main")))
        if rest[0] == "refs":
            return self._json({"branches": [{"name": n, "ref": f"refs/heads/{n}",
                                             "targetCommit": c} for n, c in repo.refs.items()],
                               "tags": [], "converts": []})  # fmt: skip
        if rest[0] not in ("tree", "paths-info") or len(rest) < 2:
            raise _Refused(404)
        files = repo.commits[self._commit(repo, rest[1])]
        if rest[0] == "paths-info":
            asked = parse_qs(body.decode()).get("paths", [])
            return self._json([row for p in asked for row in _rows(files) if row["path"] == p])
        folder, deep = "/".join(rest[2:]), query.get("recursive", [""])[0].lower() == "true"
        under = [r for r in _rows(files) if not folder or r["path"].startswith(f"{folder}/")]
        if not under:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
        level = folder.count("/") + 1 if folder else 0
        return self._json([r for r in under if deep or r["path"].count("/") == level])

    def _resolve(self, segments: list[str]) -> None:
        kind = next((k for k in KINDS if segments[0] == f"{k}s"), "model")
        repo, rest = self._repo(kind, segments if kind == "model" else segments[1:])
        if len(rest) < 3 or rest[0] not in ("resolve", "raw"):
            raise _Refused(404)
        if repo.gated and self._token() != GRANTED:
            raise _Refused(403 if self._token() else 401, "GatedRepo",
                           f"Access to {repo.kind} {repo.name} is restricted.")  # fmt: skip
        commit = self._commit(repo, rest[1])
        data = repo.commits[commit].get("/".join(rest[2:]))
        named = {"X-Repo-Commit": commit}
        if data is None:
            raise _Refused(404, "EntryNotFound", "Entry not found", **named)
        named |= {"ETag": f'"{_blob(data)}"', "Accept-Ranges": "bytes"}
        asked = (self.headers.get("Range") or "").removeprefix("bytes=")
        if not asked or "," in asked:
            return self._send(200, data, named)
        first, _, last = asked.partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) if first and last else len(data) - 1, len(data) - 1)
        if start > end:
            raise _Refused(416, **{"Content-Range": f"bytes */{len(data)}"})
        named["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return self._send(206, data[start : end + 1], named)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _info(repo: Repo, commit: str) -> dict[str, Any]:
    names = [{"rfilename": path} for path in sorted(repo.commits[commit])]
    return {"_id": commit[:24], "id": repo.name, "sha": commit, "siblings": names, "tags": [],
            "private": repo.private, "gated": "manual" if repo.gated else False,
            "disabled": False, "downloads": 0, "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z"}  # fmt: skip


def _rows(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Files and folders as the Hub lists a tree."""
    folders = {str(p) for name in files for p in Path(name).parents if str(p) != "."}
    rows = [{"type": "directory", "path": p, "size": 0, "oid": _blob(p.encode())} for p in folders]
    rows += [{"type": "file", "path": n, "size": len(d), "oid": _blob(d)} for n, d in files.items()]
    return sorted(rows, key=lambda row: str(row["path"]))


def _blob(data: bytes) -> str:
    """The hash that git gives a file."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
