"""The files of a TLS certificate in, an ssl context out that follows them: a renewal needs no restart."""

import asyncio
import logging
import ssl
from pathlib import Path

from settings.table import Settings, SettingsError

logger = logging.getLogger("handlers.certificate")

LOOK_SECONDS = 5.0


class Certificate:
    """`context` has what the files had when they last fitted together; open connections keep what they have."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises OSError or ssl.SSLError (which is one) where they cannot be had."""
        self._cert = cert
        self._key = key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._seen = self._stamp()
        self._load(self.context)

    def reload(self) -> None:
        """Takes the files as they are now; where they do not fit, as while they are written, those of before stay."""
        self._seen = self._stamp()
        try:
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))  # a context that failed is of no more use
            self._load(self.context)
        except OSError as error:
            logger.warning("the certificate %s is not reloaded: %s", self._cert, error.strerror or error)
        else:
            logger.info("reloaded the certificate %s", self._cert)

    async def follow(self) -> None:
        """Until cancelled: reloads the files when they were changed, and have been left alone since."""
        before = self._seen
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._stamp()
            if now == before != self._seen:
                self.reload()
            before = now

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._cert, self._key, password=_no_password)

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, (self._cert, self._key)))


def load_certificate(settings: Settings) -> Certificate | None:
    """None where no TLS is asked for. Raises SettingsError."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise SettingsError("--tls-cert and --tls-key need each other")
    try:
        return Certificate(cert, key)
    except OSError as error:
        raise SettingsError(
            f"--tls-cert {cert} with --tls-key {key} cannot be used: {error.strerror or error}"
        ) from None


def _no_password() -> str:
    """Else OpenSSL asks for one on the terminal."""
    return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        said = path.stat()
    except OSError:
        return None
    return said.st_mtime_ns, said.st_size, said.st_ino
