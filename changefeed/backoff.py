"""Delays between retries. Knows no connection and no clock; randomness is an argument."""

import random
from collections.abc import Callable, Iterator


def backoff(
    first_seconds: float = 0.2, most_seconds: float = 1.0, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Endless delays in seconds: none before the first retry, then anywhere below a bound that doubles.

    That is "full jitter" (Brooker, Exponential Backoff and Jitter, 2015): many clients that lost the same server at
    the same moment do not return at the same moment. The bound is low: a refused connection costs PostgreSQL little,
    and clients should be back well within a second of its return.
    """
    yield 0.0
    bound = first_seconds
    while True:
        yield uniform(0.0, bound)
        bound = min(bound * 2, most_seconds)
