"""How many files, and so sockets, the process may have open: as many as the system lets it. Knows no socket."""

import contextlib
import resource

MACOS_LIMIT = 10_240  # OPEN_MAX: it takes no more, even where it calls the hard limit unlimited


def raise_limit() -> float:
    """Raises the soft limit to the hard one; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, MACOS_LIMIT):
        if soft != resource.RLIM_INFINITY and (limit == resource.RLIM_INFINITY or limit > soft):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
    return float("inf") if soft == resource.RLIM_INFINITY else soft
