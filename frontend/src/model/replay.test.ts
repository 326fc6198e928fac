import { expect, test } from 'vitest';

import { DEFAULTS } from './choices';
import { numbersOf } from '../pictures/view_model';
import type { ChangesPage, Decoded } from '../feed/protocol';
import { Replay } from './replay';

const change = (id: number, second: number) =>
  `{"table":"t","action":"INSERT","data":{"id":${id}},"schema":"s","at":"${new Date(second * 1000).toISOString()}"}`;
const page = (changes: string[], cursor: string, hasMore: boolean): Decoded<ChangesPage> => ({
  ok: true,
  value: { changes, cursor, hasMore },
});
const pages: Record<string, Decoded<ChangesPage>> = {
  a: page([change(1, 99), change(2, 100), change(3, 104)], 'b', true),
  b: page([change(4, 103), change(5, 108), change(6, 110)], 'c', false),
};
const replayOf = (read = (cursor: string) => Promise.resolve(pages[cursor]!)) =>
  new Replay({ span: { from: 100, to: 110 }, databaseName: 'd', cursor: 'a', read });
const settled = () => new Promise((resolve) => setTimeout(resolve));
const ids = (replay: Replay) =>
  replay.state.rows
    .newest(99)
    .map((row) => /"id":(\d)/.exec(row.text)?.[1])
    .join('');

test('a span is played in its time, what lies outside is left out, and all of it is counted', async () => {
  const replay = replayOf();
  replay.advance(0);
  await settled();
  replay.advance(3);
  await settled();
  expect([replay.position, ids(replay)]).toEqual([103, '2']);
  replay.speed = 4;
  replay.advance(0.5);
  expect([replay.position, ids(replay)]).toEqual([105, '432']);
  replay.advance(60);
  expect([replay.isOver, ids(replay)]).toEqual([true, '5432']);
  expect(numbersOf(replay.state, DEFAULTS, 0).totals).toEqual([4, 0, 0, 0]);
});

test('it waits for the page that is still to come', async () => {
  const replay = replayOf();
  replay.advance(50);
  expect(replay.position).toBe(100);
  await settled();
  replay.advance(50);
  expect(replay.position).toBe(104);
});

test('paused it stands still, and a journal that cannot be read says why', async () => {
  const replay = replayOf();
  replay.advance(0);
  await settled();
  replay.isPlaying = false;
  replay.advance(5);
  expect(replay.position).toBe(100);
  const failing = replayOf(() => Promise.resolve({ ok: false, problem: 'away' }));
  failing.advance(0);
  await settled();
  expect(failing.problem).toBe('away');
});
