import { expect, test } from 'vitest';

import { backoff, DELAY_LIMIT_MS, FIRST_DELAY_LIMIT_MS } from './backoff';

const delays = (count: number, random: () => number) => {
  const all = backoff(random);
  return Array.from({ length: count }, () => all.next().value);
};

test('the first attempt is made at once; then the limit doubles up to the last', () => {
  expect(delays(9, () => 1)).toEqual([0, 300, 600, 1200, 2400, 4800, 9600, DELAY_LIMIT_MS, DELAY_LIMIT_MS]);
});

test('a delay is drawn evenly from all of 0 to its limit', () => {
  expect(delays(3, () => 0)).toEqual([0, 0, 0]);
  expect(delays(3, () => 0.5)).toEqual([0, FIRST_DELAY_LIMIT_MS / 2, FIRST_DELAY_LIMIT_MS]);
});
