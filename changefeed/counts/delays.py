"""A delay in, the index of its bin in a histogram out.

The bins grow by a constant factor, so that percentiles from the counts are within five percent over the whole range,
and histograms of different times can simply be added.
"""

import math

LEAST_SECONDS = 0.0001
PER_DOUBLING = 8  # bins
LAST = PER_DOUBLING * 30  # some 30 hours


def delay_index(seconds: float) -> int:
    """The bin of a delay. Bin i ends at LEAST_SECONDS * 2 ** (i / PER_DOUBLING); bin 0 holds all below."""
    if seconds <= LEAST_SECONDS:
        return 0
    return min(LAST, math.ceil(PER_DOUBLING * math.log2(seconds / LEAST_SECONDS)))
