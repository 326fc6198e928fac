import { expect, test } from 'vitest';

import { percentilesOf } from './delays';

const SCALE = { leastSeconds: 0.0001, perDoubling: 8 };
const placeOf = (ms: number) => Math.max(0, Math.ceil(8 * Math.log2(ms / 0.1)));
const histogram = (...delays: number[]) => {
  const counts = new Map<number, number>();
  for (const ms of delays) counts.set(placeOf(ms), (counts.get(placeOf(ms)) ?? 0) + 1);
  return counts;
};

test('percentiles are within five percent of the true ones, over several histograms', () => {
  const delays = Array.from({ length: 1000 }, (_, n) => 1.01 ** n);
  const found = percentilesOf([histogram(...delays.slice(0, 300)), histogram(...delays.slice(300))], SCALE)!;
  expect(found.p50 / delays[499]!).toBeCloseTo(1, 1);
  expect(found.p95 / delays[949]!).toBeCloseTo(1, 1);
  expect(found.p99 / delays[989]!).toBeCloseTo(1, 1);
});

test('one change is all percentiles, and none is none', () => {
  const found = percentilesOf([histogram(5)], SCALE)!;
  expect(found.p50).toBe(found.p99);
  expect(found.p50 / 5).toBeCloseTo(1, 1);
  expect(percentilesOf([histogram()], SCALE)).toBeNull();
});
