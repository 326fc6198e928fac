import { expect, test } from 'vitest';

import { lonePlaces, timesHeight, unknownRuns, zoomedAround } from './chart';

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

test('what is pointed at stays where it is while more or less is shown around it', () => {
  expect(zoomedAround({ from: 1000, to: 1100 }, 1025, 0.5, 2000)).toEqual({ from: 1013, to: 1063 });
  expect(zoomedAround({ from: 1000, to: 1100 }, 1025, 2, 2000)).toEqual({ from: 975, to: 1175 });
});

test('it ends at now, at a day and at some seconds', () => {
  expect(zoomedAround({ from: 1000, to: 1100 }, 1050, 2, 1100)).toEqual({ from: 900, to: 1100 });
  expect(zoomedAround({ from: 10_000, to: 90_000 }, 90_000, 2, 90_000)).toEqual({ from: 3_600, to: 90_000 });
  expect(zoomedAround({ from: 1000, to: 1006 }, 1006, 0.5, 2000)).toEqual({ from: 1001, to: 1006 });
});
