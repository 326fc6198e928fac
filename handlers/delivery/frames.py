"""Text in, WebSocket frames out. Knows no socket, so that a frame is made once and written to every client."""

import struct
from collections.abc import Iterable
from functools import lru_cache

_FINAL_TEXT = 0x81  # FIN and opcode 1 (RFC 6455, 5.2); what a server sends is not masked (5.1)


def text_frames(texts: Iterable[str]) -> bytes:
    """Encodes each text as one unmasked message, and joins them."""
    parts = []
    for text in texts:
        payload = text.encode()
        parts.append(_head(len(payload)))
        parts.append(payload)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _head(length: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", _FINAL_TEXT, length)
    if length < 1 << 16:
        return struct.pack("!BBH", _FINAL_TEXT, 126, length)
    return struct.pack("!BBQ", _FINAL_TEXT, 127, length)
