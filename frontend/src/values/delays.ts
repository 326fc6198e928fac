// Comes in: how many changes arrived with which delay. Goes out: percentiles. Knows no message and no chart.

/** By place in the server's scale: how many changes. */
export type Histogram = ReadonlyMap<number, number>;

/** Place i ends at least * 2 ** (i / perDoubling) seconds, where the next begins. */
export interface DelayScale {
  readonly leastSeconds: number;
  readonly perDoubling: number;
}

/** In milliseconds; within five percent, which is how wide the scale's places are. */
export interface Percentiles {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

/** Null where nothing arrived. */
export function percentilesOf(histograms: Iterable<Histogram>, scale: DelayScale): Percentiles | null {
  const sum = new Map<number, number>();
  let count = 0;
  for (const histogram of histograms) {
    for (const [place, changes] of histogram) {
      sum.set(place, (sum.get(place) ?? 0) + changes);
      count += changes;
    }
  }
  if (count === 0) return null;
  const places = [...sum.keys()].sort((a, b) => a - b);
  const at = (share: number) => {
    let left = share * count;
    const place = places.find((place) => (left -= sum.get(place) ?? 0) <= 0) ?? places.at(-1) ?? 0;
    // The middle of the place, by proportion.
    return scale.leastSeconds * 1000 * 2 ** ((place - 0.5) / scale.perDoubling);
  };
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99) };
}
