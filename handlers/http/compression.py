"""Compresses answers with gzip, none for long in one turn of the event loop. Knows no route.

What never changes is compressed once, what is small at once, and what is large in pieces.
"""

import asyncio
import gzip
import hashlib
import zlib
from dataclasses import dataclass

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import GZipContentEncoding

PIECE_BYTES = 64 << 10  # compressed in one turn of the loop, in some 2 ms
GZIP_FORMAT = 16 + zlib.MAX_WBITS  # for zlib: with the header and the checksum of RFC 1952
NEVER = ("q=0", "q=0.0", "q=0.00", "q=0.000")


def accepts_gzip(request: HTTPServerRequest) -> bool:
    """Whether Accept-Encoding names gzip, with a weight above 0 (RFC 9110, 12.5.3)."""
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";")
        if coding == "gzip":
            return weight not in NEVER
    return False


@dataclass(frozen=True)
class Representation:
    """The content as it is sent. Each encoding of it has an entity tag of its own (RFC 9110, 8.8.3)."""

    body: bytes
    etag: str
    is_gzipped: bool = False


class UnchangingContent:
    """A content that is sent again and again, and that is compressed here, once."""

    def __init__(self, content: bytes) -> None:
        tag = hashlib.sha256(content).hexdigest()
        self._plain = Representation(content, f'"{tag}"')
        gzipped = gzip.compress(content, mtime=0)
        is_smaller = len(gzipped) < len(content)
        self._smallest = Representation(gzipped, f'"{tag}-gzip"', True) if is_smaller else self._plain

    def representation_for(self, request: HTTPServerRequest) -> Representation:
        return self._smallest if accepts_gzip(request) else self._plain


class SmallAnswersGzip(GZipContentEncoding):
    """Tornado's encoding, which takes one turn of the loop. It leaves a large answer as it is, unless in pieces."""

    def __init__(self, request: HTTPServerRequest) -> None:
        super().__init__(request)
        self._gzipping = accepts_gzip(request)

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        self._gzipping = self._gzipping and not (finishing and len(chunk) > PIECE_BYTES)
        return super().transform_first_chunk(status_code, headers, chunk, finishing)


async def compress_in_pieces(content: bytes) -> bytes:
    """Everything else may run between the pieces."""
    compressor = zlib.compressobj(GZipContentEncoding.GZIP_LEVEL, wbits=GZIP_FORMAT)
    pieces = []
    for at in range(0, len(content), PIECE_BYTES):
        pieces.append(compressor.compress(content[at : at + PIECE_BYTES]))
        await asyncio.sleep(0)
    return b"".join([*pieces, compressor.flush()])
