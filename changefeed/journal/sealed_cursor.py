"""Encrypts cursors, so that they reveal nothing, and decrypts them. Knows no client.

A plain cursor contains the journal's own id, so two of them reveal how many changes of any table lie in between.
Clients with limited rights get cursors that only a server of the same journal can read. They are valid only with the
same rights: a foreign one would reveal whether a change came before or after visible ones.
"""

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from changefeed.journal.cursor import NotACursor

SEALED_MARK = "s."
NO_HOLDER = b""  # the holder in cursors of servers before version 5 of the schema
_NONCE_BYTES = 12  # random; safe for 2**32 cursors of one journal (NIST SP 800-38D, 8.3)
_STEP_BYTES = 64  # hides the exact length, which grows with the number of open transactions


class Seal:
    """`key` is the journal's: 32 bytes that only its database holds."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, cursor: str, holder: bytes) -> str:
        """Encrypts a cursor, each time to another text. `holder` is the fingerprint() of the client's rights."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = cursor.encode().ljust(-(-len(cursor) // _STEP_BYTES) * _STEP_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, plain, holder)
        return SEALED_MARK + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, text: str, holder: bytes) -> str | None:
        """Decrypts a cursor; None if it is for another journal or holder. Raises NotACursor if it was never sealed."""
        mark, text = text[: len(SEALED_MARK)], text[len(SEALED_MARK) :]
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            sealed = b""
        if mark != SEALED_MARK or len(sealed) <= _NONCE_BYTES:
            raise NotACursor("this is not a cursor for these rights; take it from a change or from hello")
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], holder).decode().rstrip()
        except InvalidTag:
            return None
