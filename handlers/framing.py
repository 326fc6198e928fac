"""Text in, WebSocket frames out. Logic without a socket, so that a frame is made once and written to every client."""

import struct

_FINAL_TEXT = 0x81  # FIN and opcode 1 (RFC 6455, 5.2); what a server sends is not masked (5.1)


def text_frame(text: str) -> bytes:
    """One whole text message as a client must read it."""
    payload = text.encode()
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", _FINAL_TEXT, length) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", _FINAL_TEXT, 126, length) + payload
    return struct.pack("!BBQ", _FINAL_TEXT, 127, length) + payload
