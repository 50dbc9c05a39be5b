"""The part of the Hugging Face Hub's read API that its clients need to pull adapters: `HF_ENDPOINT` may point here.

With it unmodified `snapshot_download`, `hf_hub_download`, `HfApi.model_info` and `PeftModel.from_pretrained` work.
Knows the hub's paths, headers and error codes (as huggingface_hub 2.4 reads them); where files come from, the catalog
knows. Paths were decoded once by the server, and files are only looked up in a version's own list of names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adreg.errors import BadReference, NotFoundError
from adreg.references import Reference, check_alias, check_name
from adreg.registry.hub.reference import DEFAULT_BRANCH, is_commit

if TYPE_CHECKING:
    from fastapi import APIRouter
    from starlette.requests import Request
    from starlette.responses import Response

_NUMBER = re.compile(r"v?([1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """A file of a version: `sha256` in hex, and where its bytes lie."""

    size: int
    sha256: str
    path: Path


@dataclass(frozen=True)
class HubRepo:
    """A version as the hub shows it. `commit`: 40 hex digits that only ever mean these files. `created_at`: ISO 8601."""

    id: str
    commit: str
    files: Mapping[str, HubFile]
    created_at: str
    tags: tuple[str, ...] = ()


class Catalog(Protocol):
    """Where versions come from. Called from worker threads, several at a time."""

    def find(self, repo_id: str, revision: str) -> HubRepo:
        """The version that `revision` of `repo_id` means, as `hub_revision` reads it.

        Raises `NotFoundError`: of kind `version` where the name exists and the revision does not.
        """
        ...


def hub_revision(repo_id: str, revision: str) -> Reference:
    """The registry's reference for a hub revision: `main` is the newest, `v3` and `3` are versions, 40 hex digits the
    beginning of a digest, everything else an alias. Raises `NotFoundError`."""
    try:
        name = check_name(repo_id)
    except BadReference as error:
        raise NotFoundError("adapter", repo_id) from error
    number = _NUMBER.fullmatch(revision)
    if revision == DEFAULT_BRANCH:
        return Reference(name)
    if number:
        return Reference(name, version=int(number[1]))
    if is_commit(revision):
        return Reference(name, digest=f"sha256:{revision}")
    try:
        return Reference(name, alias=check_alias(revision))
    except BadReference as error:
        raise NotFoundError("version", f"{repo_id}:{revision}") from error


def hub_router(catalog: Catalog) -> APIRouter:
    """The routes, for names with and without a namespace. Include it last: it owns `/{name}/resolve/...`."""
    from fastapi import APIRouter

    router = APIRouter()
    for repo in ("{space}/{name}", "{name}"):  # in this order an adapter may be called `tree`
        routes: dict[str, Callable[[HubRepo, Request], Response]] = {
            f"/api/models/{repo}/revision/{{revision}}": _info,
            f"/api/models/{repo}/tree/{{revision}}": _tree,
            f"/api/models/{repo}/tree/{{revision}}/{{path:path}}": _no_folder,
            f"/{repo}/resolve/{{revision}}/{{path:path}}": _file,
            f"/api/models/{repo}": _info,
        }
        for path, answer in routes.items():
            router.add_route(path, _endpoint(catalog, answer), methods=["GET", "HEAD"], include_in_schema=False)
    return router


def _endpoint(catalog: Catalog, answer: Callable[[HubRepo, Request], Response]) -> Callable[[Request], Response]:
    """A handler that finds the version first; not async, so that it runs in a worker thread."""

    def handle(request: Request) -> Response:
        named = request.path_params
        repo_id = "/".join(named[part] for part in ("space", "name") if part in named)
        revision = named.get("revision", DEFAULT_BRANCH)
        try:
            hub_revision(repo_id, revision)  # before the names reach the catalog
            return answer(catalog.find(repo_id, revision), request)
        except NotFoundError as error:
            return _error("RevisionNotFound" if error.kind == "version" else "RepoNotFound", str(error))

    return handle


def _info(repo: HubRepo, request: Request) -> Response:
    """`HfApi.model_info`; with `blobs` each file's size and checksum."""
    from starlette.responses import JSONResponse

    detailed = request.query_params.get("blobs", "").lower() in ("true", "1")
    siblings = [{"rfilename": name, **(_blob(file) if detailed else {})} for name, file in sorted(repo.files.items())]
    body = {
        "_id": repo.commit[:24],
        "id": repo.id,
        "modelId": repo.id,
        "sha": repo.commit,
        "createdAt": _moment(repo.created_at),
        "lastModified": _moment(repo.created_at),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "library_name": "peft",
        "tags": ["peft", *repo.tags],
        "siblings": siblings,
    }
    return JSONResponse(body, headers={"X-Repo-Commit": repo.commit})


def _moment(iso: str) -> str:
    """A time in the one spelling that the hub's clients parse."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _blob(file: HubFile) -> dict[str, Any]:
    pointer = _pointer(file)
    lfs = {"size": file.size, "sha256": file.sha256, "pointerSize": len(pointer)}
    return {"size": file.size, "blobId": _git_sha1(pointer), "lfs": lfs}


def _tree(repo: HubRepo, request: Request) -> Response:
    """`HfApi.list_repo_tree`: all files on one page, each with its checksum."""
    from starlette.responses import JSONResponse

    entries = []
    for name, file in sorted(repo.files.items()):
        pointer = _pointer(file)
        lfs = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer)}
        entries.append({"type": "file", "path": name, "size": file.size, "oid": _git_sha1(pointer), "lfs": lfs})
    return JSONResponse(entries, headers={"X-Repo-Commit": repo.commit})


def _no_folder(repo: HubRepo, request: Request) -> Response:
    """An adapter has no folders, and clients ask for some to see."""
    return _error("EntryNotFound", "there is no such folder", repo.commit)


def _file(repo: HubRepo, request: Request) -> Response:
    """`hf_hub_download`: HEAD for the metadata, GET with ranges for the bytes. Never a page for a browser to run."""
    from starlette.responses import FileResponse

    file = repo.files.get(request.path_params["path"])
    if file is None:
        return _error("EntryNotFound", "there is no such file", repo.commit)
    try:
        status = file.path.stat()
    except FileNotFoundError:
        status = None
    if status is None or status.st_size != file.size:
        return _error("", "the stored file is damaged", repo.commit, 500)
    headers = {
        "ETag": f'"{file.sha256}"',
        "X-Linked-ETag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
        "X-Repo-Commit": repo.commit,
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
    }
    return FileResponse(file.path, headers=headers, media_type="application/octet-stream", stat_result=status)


def _error(code: str, message: str, commit: str = "", status: int = 404) -> Response:
    """An error as the hub's clients read it: the code decides which exception they raise."""
    from starlette.responses import JSONResponse

    plain = message.encode("ascii", "backslashreplace").decode()
    headers = {"X-Error-Code": code, "X-Error-Message": plain, "X-Repo-Commit": commit}
    return JSONResponse({"error": message}, status, {name: value for name, value in headers.items() if value})


def _pointer(file: HubFile) -> bytes:
    """The file's Git LFS pointer (github.com/git-lfs/git-lfs, docs/spec.md): the hub lists large files by it."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
