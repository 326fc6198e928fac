"""Reads cursors of the SQL function changefeed.cursor(), see sql/cursor.sql. Knows no client.

The text is `q.` and, by base64url, a signature of 16 bytes and the place: a snapshot as PostgreSQL writes it, when the
last entry of its newest transaction was made (in microseconds since 1970, 0 if unknown), and how many statements were
lost until then. It reveals no more than changes do, so it is valid with any rights. The signature proves that no client
made it up.
"""

import base64
import binascii
import hmac
from dataclasses import replace
from hashlib import sha256

from changefeed.journal.cursor import NotACursor, Place, Snapshot, witness_of

MARK = "q."
_SIGNATURE_BYTES = 16


class Signature:
    """`key` is the journal's: 32 bytes that only its database holds."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def place(self, text: str) -> Place | None:
        """The cursor's place; None if it is of another journal or was altered. Raises NotACursor if it is malformed."""
        try:
            packed = base64.urlsafe_b64decode(text.removeprefix(MARK) + "=" * (-len(text.removeprefix(MARK)) % 4))
        except (binascii.Error, ValueError):
            packed = b""
        if not text.startswith(MARK) or len(packed) <= _SIGNATURE_BYTES:
            raise NotACursor("this cursor is cut or mangled; take it from changefeed.cursor() as it is")
        signature, place = packed[:_SIGNATURE_BYTES], packed[_SIGNATURE_BYTES:]
        signed = sha256(self._key + sha256(self._key + place).digest()).digest()
        if not hmac.compare_digest(signature, signed[:_SIGNATURE_BYTES]):
            return None
        snapshot, made_at, losses = place.decode().split(" ")
        seen = Snapshot.parse(snapshot)
        witness = witness_of(seen.xmax - 1, int(made_at)) if int(made_at) else 0
        return replace(Place.after(replace(seen, witness=witness)), losses=int(losses))
