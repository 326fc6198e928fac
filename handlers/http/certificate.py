"""Loads a TLS certificate, and reloads it when its files change: a renewal needs no restart."""

import asyncio
import logging
import ssl
from pathlib import Path

from settings.table import Settings, SettingsError

logger = logging.getLogger("handlers.certificate")

LOOK_SECONDS = 5.0


class Certificate:
    """`context` holds the last valid pair of certificate and key; open connections keep theirs."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises OSError, or its subclass ssl.SSLError, if the files cannot be loaded."""
        self._cert = cert
        self._key = key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._seen = self._stamp()
        self._load(self.context)

    def reload(self) -> None:
        """Loads the files again. If they do not match, as while they are being written, keeps the earlier ones."""
        self._seen = self._stamp()
        try:
            # Checked in a fresh context first: one that failed to load cannot be used any more.
            self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
            self._load(self.context)
        except OSError as error:
            logger.warning("could not reload the certificate %s: %s", self._cert, error.strerror or error)
        else:
            logger.info("reloaded the certificate %s", self._cert)

    async def follow(self) -> None:
        """Reloads the files after each change, once they have stopped changing. Runs until cancelled."""
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
    """None if the settings name no certificate. Raises SettingsError."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise SettingsError("--tls-cert and --tls-key must be used together")
    try:
        return Certificate(cert, key)
    except OSError as error:
        raise SettingsError(
            f"--tls-cert {cert} with --tls-key {key} cannot be used: {error.strerror or error}"
        ) from None


def _no_password() -> str:
    """Without this OpenSSL would ask for a password on the terminal."""
    return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
