import { expect, test } from 'vitest';

import { lonePlaces, timesHeight, unknownRuns } from './chart';

test('runs of nulls, the first and the last place of each', () => {
  expect(unknownRuns([null, 1, null, null, 0, null])).toEqual([
    [0, 0],
    [2, 3],
    [5, 5],
  ]);
  expect(unknownRuns([0, 1])).toEqual([]);
});

test('a known value between unknown ones is found, since no line shows it', () => {
  expect(lonePlaces([3, null, 0, null, 1, 2, null, 5])).toEqual([0, 2, 7]);
  expect(lonePlaces([null, 1, 2])).toEqual([]);
});

test('the axis of times has room for a date where one is written', () => {
  expect(timesHeight(null, ['12:00', '12:05'])).toBeLessThan(timesHeight(null, ['12:00\n11-25', '12:05']));
});
