"""Formats times as they are sent to clients."""

from datetime import UTC, datetime


def iso(at: datetime) -> str:
    """UTC with a Z, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_of(epoch_seconds: float) -> str:
    return iso(datetime.fromtimestamp(epoch_seconds, UTC))
