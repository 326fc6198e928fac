"""Reads cursors of the SQL function changefeed.cursor(), see sql/cursor.sql. Knows no client.

The text is `q.` and, by base64url, a signature of 16 bytes, a random nonce of 16 bytes, and the encrypted place: a
snapshot as PostgreSQL writes it, when the last entry of its newest transaction was made (in microseconds since 1970,
0 if unknown), and how many statements were lost until then. It reveals nothing, so it is valid with any rights. The
signature proves that no client made it up.

PostgreSQL has no cipher without an extension. So the place is combined, byte by byte, with a key stream of SHA-256 by
key, nonce and counter. What this makes is signed, and checked before it is decrypted.
"""

import base64
import binascii
import hmac
from dataclasses import replace
from hashlib import sha256

from changefeed.journal.cursor import MANGLED, NotACursor, Place, Snapshot, witness_of

SIGNED_MARK = "q."
_SIGNATURE_BYTES = 16
_NONCE_BYTES = 16
_BLOCK_BYTES = 32  # of the key stream


class Signature:
    """`key` is the journal's: 32 bytes that only its database holds."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher_key = sha256(key + b"cipher").digest()

    def place(self, text: str) -> Place | None:
        """The cursor's place; None if it is of another journal or was altered. Raises NotACursor if it is malformed."""
        try:
            packed = base64.urlsafe_b64decode(
                text.removeprefix(SIGNED_MARK) + "=" * (-len(text.removeprefix(SIGNED_MARK)) % 4)
            )
        except (binascii.Error, ValueError):
            packed = b""
        if not text.startswith(SIGNED_MARK) or len(packed) <= _SIGNATURE_BYTES + _NONCE_BYTES:
            raise NotACursor(f"{MANGLED}; take it from changefeed.cursor() as it is")
        signature, sealed = packed[:_SIGNATURE_BYTES], packed[_SIGNATURE_BYTES:]
        signed = sha256(self._key + sha256(self._key + sealed).digest()).digest()
        if not hmac.compare_digest(signature, signed[:_SIGNATURE_BYTES]):
            return None
        place = self._decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:])
        snapshot, made_at, losses = place.decode().split()
        seen = Snapshot.parse(snapshot)
        witness = witness_of(seen.xmax - 1, int(made_at)) if int(made_at) else 0
        return replace(Place.after(replace(seen, witness=witness)), losses=int(losses))

    def _decrypt(self, nonce: bytes, encrypted: bytes) -> bytes:
        blocks = range(-(-len(encrypted) // _BLOCK_BYTES))
        stream = b"".join(sha256(self._cipher_key + nonce + i.to_bytes(4)).digest() for i in blocks)
        return bytes(one ^ other for one, other in zip(encrypted, stream, strict=False))
