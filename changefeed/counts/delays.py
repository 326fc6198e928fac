"""A delay in, its place in a histogram out.

The places grow evenly in proportion, so that percentiles made from the counts are within five percent over the whole
range, and histograms of different times can simply be added.
"""

import math

LEAST_SECONDS = 0.0001
PER_DOUBLING = 8  # places
LAST = PER_DOUBLING * 30  # some 30 hours


def delay_index(seconds: float) -> int:
    """Place i ends with LEAST_SECONDS * 2 ** (i / PER_DOUBLING), where the next begins; place 0 holds all below."""
    if seconds <= LEAST_SECONDS:
        return 0
    return min(LAST, math.ceil(PER_DOUBLING * math.log2(seconds / LEAST_SECONDS)))
