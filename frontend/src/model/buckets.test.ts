import { beforeEach, expect, test } from 'vitest';

import { Timeline } from './buckets';
import type { Bucket, Counts } from '../feed/protocol';

const INSERT = 0;
const DELETE = 2;
const bucket = (at: number, table: string, ...counts: Counts): Bucket => ({
  at,
  counts: new Map([[table, counts]]),
  delays: null,
});

let timeline: Timeline;

beforeEach(() => {
  timeline = new Timeline(1, 10);
  timeline.knownFrom = 0;
  timeline.advance(100.5);
});

test('counts by table and in all', () => {
  timeline.merge(bucket(100, 'a', 3, 0, 1, 0));
  timeline.merge(bucket(100, 'b', 2, 0, 0, 0));
  expect(timeline.count('a', 100, INSERT)).toBe(3);
  expect(timeline.count(null, 100, INSERT)).toBe(5);
  expect(timeline.count(null, 100, DELETE)).toBe(1);
  expect(timeline.count('never seen', 100, INSERT)).toBe(0);
});

test('merging is idempotent, and the larger count wins whatever comes first', () => {
  timeline.merge(bucket(100, 'a', 3, 0, 0, 0));
  timeline.merge(bucket(100, 'a', 3, 0, 0, 0));
  timeline.merge(bucket(100, 'a', 2, 0, 0, 0));
  expect(timeline.count(null, 100, INSERT)).toBe(3);
  timeline.merge(bucket(100, 'a', 7, 0, 0, 0));
  expect(timeline.count(null, 100, INSERT)).toBe(7);
});

test('a place in the ring is clean when its next step comes', () => {
  timeline.merge(bucket(100, 'a', 3, 0, 0, 0));
  timeline.advance(110);
  expect(timeline.count('a', 110, INSERT)).toBe(0);
  expect(timeline.count(null, 110, INSERT)).toBe(0);
});

test('after a long sleep nothing old is left', () => {
  timeline.merge(bucket(100, 'a', 3, 0, 0, 0));
  timeline.advance(100_000);
  for (let step = 99_991; step <= 100_000; step++) expect(timeline.count('a', step, INSERT)).toBe(0);
});

test('a clock that goes back changes nothing', () => {
  timeline.merge(bucket(100, 'a', 3, 0, 0, 0));
  timeline.advance(95);
  expect(timeline.newest).toBe(100);
  expect(timeline.count('a', 100, INSERT)).toBe(3);
});

test('what is older than the ring or yet to come is unknown, and is not merged', () => {
  timeline.merge(bucket(90, 'a', 9, 0, 0, 0));
  timeline.merge(bucket(101, 'a', 9, 0, 0, 0));
  expect(timeline.count('a', 90, INSERT)).toBeNull();
  expect(timeline.count('a', 101, INSERT)).toBeNull();
  expect(timeline.count('a', 100, INSERT)).toBe(0);
});

test('without data there is null, not zero', () => {
  timeline.spans = [{ from: 95.2, to: 97.5, cause: 'database' }];
  const known = [93, 94, 95, 96, 97, 98].map((step) => timeline.count(null, step, INSERT));
  expect(known).toEqual([0, 0, null, null, null, 0]);
});

test('a count in a step that a span only touches is known', () => {
  timeline.spans = [{ from: 95.2, to: 97.5, cause: 'database' }];
  timeline.merge(bucket(97, 'a', 4, 0, 0, 0));
  expect(timeline.count('a', 97, INSERT)).toBe(4);
  expect(timeline.count('b', 97, INSERT)).toBe(0);
});

test('a span without an end lasts, and nothing is known before counting began', () => {
  timeline.knownFrom = 93;
  timeline.spans = [{ from: 99, to: null, cause: 'browser' }];
  expect(timeline.count(null, 92, INSERT)).toBeNull();
  expect(timeline.count(null, 93, INSERT)).toBe(0);
  expect(timeline.count(null, 100, INSERT)).toBeNull();
});

test('a rate is the mean of the known steps, per second, unknown when its last step is', () => {
  timeline.spans = [{ from: 97, to: 98, cause: 'database' }];
  timeline.merge(bucket(96, 'a', 4, 0, 0, 0));
  timeline.merge(bucket(98, 'a', 2, 0, 0, 0));
  expect(timeline.rate('a', 98, 3, INSERT)).toBe(3);
  expect(timeline.rate('a', 97, 3, INSERT)).toBeNull();
});

test('steps may be longer than a second', () => {
  const slow = new Timeline(5, 10);
  slow.knownFrom = 0;
  slow.advance(100);
  slow.merge(bucket(95, 'a', 20, 0, 0, 0));
  expect(slow.rate('a', slow.stepOf(95), 1, INSERT)).toBe(4);
});

test('the total of a table takes all actions of the steps asked for', () => {
  timeline.merge(bucket(98, 'a', 9, 9, 9, 9));
  timeline.merge(bucket(99, 'a', 1, 2, 3, 4));
  timeline.merge(bucket(100, 'a', 1, 0, 0, 0));
  expect(timeline.total('a', 100, 2)).toBe(11);
});

test('delays are replaced by what knows of more changes, and leave with their step', () => {
  const delays = (at: number, ...places: [number, number][]) =>
    timeline.merge({ at, counts: new Map(), delays: new Map(places) });
  delays(100, [3, 5]);
  delays(100, [3, 5], [4, 1]);
  delays(100, [3, 2]);
  delays(90, [1, 1]);
  expect([...timeline.delays(100)]).toEqual([
    [3, 5],
    [4, 1],
  ]);
  expect(timeline.delays(90).size).toBe(0);
  timeline.advance(110);
  expect(timeline.delays(100).size).toBe(0);
  expect(timeline.delays(110).size).toBe(0); // which lies where it was
});

test('counts and rates of some tables together', () => {
  timeline.merge(bucket(100, 'a', 3, 0, 1, 0));
  timeline.merge(bucket(100, 'b', 2, 0, 0, 0));
  timeline.merge(bucket(100, 'c', 9, 0, 0, 0));
  expect(timeline.countOf(['a', 'b'], 100, INSERT)).toBe(5);
  expect(timeline.countOf([], 100, INSERT)).toBe(0);
  expect(timeline.countOf(['a'], 80, INSERT)).toBeNull();
  expect(timeline.rate(['a', 'b'], 100, 2, INSERT)).toBe(2.5);
});
