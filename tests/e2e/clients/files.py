"""Files of an environment: up, listed, down; an archive; a name that is taken."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from typing import Any

from tests.e2e.clients.observing import AGENT, bash, results

LARGE_BYTES = (2 * 8 << 20) + 5
"""Three pieces."""


def look(sdk: Any) -> dict[str, Any]:
    made = sdk.interactions.create(
        agent=AGENT, input=bash("mkdir -p out && echo 1,2 > out/table.csv"), environment="remote"
    )
    environment = made.environment_id
    files = sdk.environments.files
    large = os.urandom(LARGE_BYTES)
    uploaded = files.upload(environment=environment, path="workspace/data/large.bin", file=io.BytesIO(large))
    empty = files.upload(environment=environment, path="/workspace/empty", file=b"", mime_type="text/plain")
    try:
        files.upload(environment=environment, path="workspace/empty", file=b"x", http_options={"timeout": 30_000})
        taken = "replaced"
    except Exception as error:
        taken = f"{type(error).__name__} {error}"
    files.upload(environment=environment, path="workspace/empty", file=b"full", overwrite=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("a/b.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    unpacked = files.upload(environment=environment, path="workspace/unpacked", file=archive.getvalue(), extract=True)
    listed = files.list(environment=environment, path="workspace", recursive=True)
    page = files.list(environment=f"environments/{environment}", path="/workspace", page_size=2)
    rest = files.list(environment=environment, path="workspace", page_size=2, page_token=page.next_page_token)
    said = sdk.interactions.create(
        agent=AGENT, input=bash("sha256sum data/large.bin; cat empty unpacked/a/b.txt"), environment=environment
    )
    found = sdk.environments.get(id=environment)
    try:
        files.download(environment=environment, path="workspace/none")
        missing = "found"
    except Exception as error:
        missing = str(error)
    seen = {
        "uploaded": [[each.path, each.size_bytes] for each in uploaded.files],
        "empty": [[each.path, each.size_bytes, each.mime_type] for each in empty.files],
        "taken": taken,
        "unpacked": [each.path for each in unpacked.files],
        "listed": [[each.path, each.type.lower(), each.size_bytes] for each in listed.files],
        "pages": [[each.name for each in one.files] for one in (page, rest)],
        "table": files.download(environment=environment, path="workspace/out/table.csv").decode(),
        "came_back": files.download(environment=environment, path="workspace/data/large.bin") == large,
        "folder": _members(files.download(environment=environment, path="workspace/out")),
        "sha256_is_right": hashlib.sha256(large).hexdigest() in results(said)[0],
        "said": results(said)[0].splitlines()[1:],
        "missing": missing,
        "file_count": found.file_count,
        "size_bytes": found.size_bytes,
    }
    sdk.environments.delete(id=environment)
    return seen


def _members(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()
