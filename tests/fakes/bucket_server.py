"""A server of buckets on loopback that speaks S3's listing and objects, and Google's, as far as they are asked."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.fakes.web_server import WebServer, answer


class BucketServer(WebServer):
    """One bucket, `data`; `page_size` objects are listed at once."""

    def __init__(self, certificates: Path | None = None) -> None:
        super().__init__(certificates)
        self.objects: dict[str, bytes] = {}
        self.page_size = 2
        self.is_endless = False
        self.sizes: dict[str, int] = {}
        """What the listing says of sizes, where it lies."""
        self.wanted: str | None = None
        """How `Authorization` must begin."""
        self.fallback = self._serve

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        if self.wanted is not None and not (request.headers.get("Authorization") or "").startswith(self.wanted):
            answer(request, b"<Error><Code>AccessDenied</Code></Error>", status=403)
            return
        url = urlsplit(request.path)
        fields = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path == "/storage/v1/b/data/o":
            self._list_gcs(request, fields)
        elif url.path.startswith("/storage/v1/b/data/o/"):
            self._object(request, unquote(url.path.removeprefix("/storage/v1/b/data/o/")))
        elif url.path == "/data" and fields.get("list-type") == "2":
            self._list_s3(request, fields)
        elif url.path.startswith("/data/"):
            self._object(request, unquote(url.path.removeprefix("/data/")))
        else:
            answer(request, b"<Error><Code>NoSuchBucket</Code></Error>", status=404)

    def _page(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        names = sorted(name for name in self.objects if name.startswith(prefix))
        start = int(token or 0)
        if self.is_endless:
            return names[:1], str(start + 1)
        end = start + self.page_size
        return names[start:end], str(end) if end < len(names) else None

    def _size(self, name: str) -> int:
        return self.sizes.get(name, len(self.objects[name]))

    def _list_gcs(self, request: BaseHTTPRequestHandler, fields: dict[str, str]) -> None:
        names, following = self._page(fields.get("prefix", ""), fields.get("pageToken"))
        listing: dict[str, object] = {"items": [{"name": each, "size": str(self._size(each))} for each in names]}
        if following is not None:
            listing["nextPageToken"] = following
        answer(request, json.dumps(listing).encode(), Content_Type="application/json")

    def _list_s3(self, request: BaseHTTPRequestHandler, fields: dict[str, str]) -> None:
        names, following = self._page(fields.get("prefix", ""), fields.get("continuation-token"))
        items = "".join(
            f"<Contents><Key>{escape(quote(name, safe='/'))}</Key><Size>{self._size(name)}</Size>"
            "<Owner><ID>x</ID></Owner></Contents>"
            for name in names
        )
        more = f"<NextContinuationToken>{following}</NextContinuationToken>" if following is not None else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>data</Name><EncodingType>url</EncodingType><IsTruncated>{str(following is not None).lower()}"
            f"</IsTruncated>{more}{items}</ListBucketResult>"
        )
        answer(request, text.encode(), Content_Type="application/xml")

    def _object(self, request: BaseHTTPRequestHandler, name: str) -> None:
        if name in self.objects:
            answer(request, self.objects[name])
        else:
            answer(request, b"<Error><Code>NoSuchKey</Code></Error>", status=404)
