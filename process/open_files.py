"""Raises the limit of open files, and so of sockets, as far as the system allows. Knows no socket."""

import contextlib
import resource

MACOS_LIMIT = 10_240  # OPEN_MAX: macOS accepts no more, even if it calls the hard limit unlimited


def raise_limit() -> float:
    """Raises the soft limit to the hard one; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, MACOS_LIMIT):
        if soft != resource.RLIM_INFINITY and (limit == resource.RLIM_INFINITY or limit > soft):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
    return float("inf") if soft == resource.RLIM_INFINITY else soft
