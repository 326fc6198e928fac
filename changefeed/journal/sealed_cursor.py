"""A cursor's text in, one that tells nothing out, and back again. Knows no client.

A cursor counts: its id is the journal's own number, so two of them say how many changes lie in between, of whichever
tables. Who may not see every table gets cursors that only a server of the same journal can read, and that are good with
the same rights only: by another's one could tell whether a change came before or after those that one sees.
"""

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from changefeed.journal.cursor import NotACursor

MARK = "s."
ANYBODY = b""  # the holder, to servers before version 5 of the schema
_NONCE_BYTES = 12  # drawn at random: 2**32 cursors of one journal are sealed safely (NIST SP 800-38D, 8.3)
_STEP_BYTES = 64  # the length tells no more than this: a cursor grows with the transactions that are open


class Seal:
    """`key` is the journal's: 32 bytes that only its database tells."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, cursor: str, holder: bytes) -> str:
        """Another text each time. `holder` says for whom; see rights.fingerprint()."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = cursor.encode().ljust(-(-len(cursor) // _STEP_BYTES) * _STEP_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, plain, holder)
        return MARK + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, text: str, holder: bytes) -> str | None:
        """None where it was sealed for another journal or holder. Raises NotACursor for what was never sealed."""
        mark, text = text[: len(MARK)], text[len(MARK) :]
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            sealed = b""
        if mark != MARK or len(sealed) <= _NONCE_BYTES:
            raise NotACursor("this is no cursor that was given with such rights; take it from a change or from hello")
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], holder).decode().rstrip()
        except InvalidTag:
            return None
