"""Bytes of one client's stream in, the changes in them out: how many there are, and when each was written.

Frames are not looked at, but for pings, which must be answered.
"""

from collections.abc import Iterator

# Each change carries sixteen digits, which say when it was written, and after them these words.
MARK = b" microseconds since 1970"
_DIGITS = 16
# The end of what was read is kept, since a mark and its digits may be cut anywhere. It is a byte too short for a whole one,
# which would count twice.
TAIL = _DIGITS + len(MARK) - 1
_PING, _PONG, _MASKED = 0x89, 0x8A, 0x80  # RFC 6455, 5.2; with FIN
_PING_BYTES = 8  # no server measured here puts more into one, and in JSON no byte so small follows a ping's first


class Stream:
    """Counts the changes in what one client is sent, wherever a read cuts them. A read goes to buffer[TAIL:]."""

    def __init__(self) -> None:
        self._tail = bytes(TAIL)

    def changes(self, buffer: bytearray, taken: int) -> int:
        """How many are whole with the bytes taken now; before these is put what came last."""
        end = TAIL + taken
        buffer[:TAIL] = self._tail
        self._tail = bytes(buffer[end - TAIL : end])
        return buffer.count(MARK, _DIGITS, end)


def written_at_us(buffer: bytearray, taken: int) -> Iterator[int]:
    """When each of these changes was written."""
    end = TAIL + taken
    found = buffer.find(MARK, _DIGITS, end)
    while found >= 0:
        yield int(buffer[found - _DIGITS : found])
        found = buffer.find(MARK, found + len(MARK), end)


def pongs(buffer: bytearray, taken: int) -> bytes:
    """Answers to the pings among these bytes, masked with zeros. One to a ping that was answered before does no harm."""
    answers, end = b"", TAIL + taken
    found = buffer.find(_PING, 0, end)
    while 0 <= found < end - 1:
        length = buffer[found + 1]
        if length <= _PING_BYTES and found + 2 + length <= end:
            answers += bytes((_PONG, _MASKED | length, 0, 0, 0, 0)) + buffer[found + 2 : found + 2 + length]
        found = buffer.find(_PING, found + 1, end)
    return answers
