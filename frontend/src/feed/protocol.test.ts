import { expect, test } from 'vitest';

import {
  decodeChanges,
  decodeError,
  decodeHistory,
  decodeMessage,
  decodePlace,
  decodeStatus,
  decodeTables,
} from './protocol';

const DATABASE = { state: 'listening', name: 'demo', since: '2026-11-22T07:00:00Z', reason: null };
const HELLO = {
  type: 'hello',
  server: { version: '0.1.0', started_at: '2026-11-22T07:00:00Z' },
  database: DATABASE,
  now: 1763800000.25,
  since: '2025-11-22T07:00:00Z',
  steps: { 1: 900, 60: 1440 },
  delays: { least_seconds: 0.0001, per_doubling: 8 },
  paces: { all: { rows_per_second: 5000, characters_per_second: 1_000_000 } },
  totals: { 'public.orders': [1, 2, 3, 4] },
  other: 5,
  cursor: null,
  recent: ['{}'],
};
const ACTIVITY = {
  type: 'activity',
  number: 7,
  now: 1763800000.25,
  totals: {},
  other: 0,
  buckets: { 1: [{ at: 1763799999, counts: { orders: [1, 0, 0, 0] }, delays: { 12: 1 } }] },
  rows: { of: 2, changes: ['{"a": 1.10}'] },
  cursor: '2.AbC-_',
};

const decoded = (message: unknown) => decodeMessage(JSON.stringify(message));
const problemOf = (message: unknown) => {
  const result = decoded(message);
  return result.ok ? null : result.problem;
};

test('hello', () => {
  expect(decoded(HELLO)).toEqual({
    ok: true,
    value: {
      type: 'hello',
      version: '0.1.0',
      database: { state: 'listening', name: 'demo', since: Date.UTC(2026, 10, 22, 7) / 1000, reason: null },
      now: 1763800000.25,
      hasHistory: true,
      since: Date.UTC(2025, 10, 22, 7) / 1000,
      steps: new Map([
        [1, 900],
        [60, 1440],
      ]),
      delayScale: { leastSeconds: 0.0001, perDoubling: 8 },
      rowsAtMost: 5000,
      payload: 'full',
      totals: new Map([['public.orders', [1, 2, 3, 4]]]),
      other: 5,
      cursor: null,
      recent: ['{}'],
    },
  });
});

test('activity keeps the texts of changes as they are', () => {
  expect(decoded(ACTIVITY)).toMatchObject({
    ok: true,
    value: {
      number: 7,
      rows: { of: 2, changes: ['{"a": 1.10}'], matching: null, withheld: null },
      counts: {
        buckets: new Map([
          [1, [{ at: 1763799999, counts: new Map([['orders', [1, 0, 0, 0]]]), delays: new Map([[12, 1]]) }]],
        ]),
      },
      cursor: '2.AbC-_',
    },
  });
});

test('activity without counts says nothing of them', () => {
  const { totals, other, buckets, ...rest } = ACTIVITY;
  expect(decoded(rest)).toMatchObject({ ok: true, value: { counts: null } });
});

test('database, gap, error and going_away', () => {
  expect(decoded({ type: 'database', ...DATABASE, state: 'lost', reason: 'gone' })).toMatchObject({
    value: { type: 'database', state: 'lost', reason: 'gone' },
  });
  const gap = { type: 'gap', from: null, to: 'c', since: DATABASE.since, until: DATABASE.since, why: 'w' };
  expect(decoded({ ...gap, what_to_do: 'd' })).toMatchObject({ value: { to: 'c', why: 'w', whatToDo: 'd' } });
  expect(decoded({ ...gap, since: null, until: null, what_to_do: 'd' })).toMatchObject({
    value: { since: null, until: null },
  });
  expect(decoded({ type: 'error', code: 'c', message: 'm' })).toMatchObject({ value: { message: 'm' } });
  expect(decoded({ type: 'going_away', reconnect_in_ms: 12 })).toMatchObject({ value: { reconnectInMs: 12 } });
});

test('a table named like a part of every object is a table', () => {
  const totals = JSON.parse('{"__proto__": [1, 0, 0, 0]}') as unknown;
  const result = decoded({ ...ACTIVITY, totals });
  expect(result.ok && result.value.type === 'activity' && result.value.counts?.totals.get('__proto__')).toEqual([
    1, 0, 0, 0,
  ]);
});

test.each([
  ['an unknown type', { type: 'surprise' }, 'its type "surprise" is unknown'],
  ['no type', {}, '"type" is not a text'],
  ['not an object', [1], 'the message is not an object'],
  ['an unknown state', { ...HELLO, database: { ...DATABASE, state: 'odd' } }, 'the database state "odd" is unknown'],
  ['three counts', { ...ACTIVITY, totals: { t: [1, 2, 3] } }, 'the counts of t are not 4 numbers'],
  ['a negative count', { ...ACTIVITY, totals: { t: [1, 2, 3, -4] } }, 'the counts of t are not 4 numbers'],
  ['a time that is none', { ...HELLO, since: 'yesterday' }, '"since" is not a time'],
  ['no steps', { ...HELLO, steps: {} }, '"steps" is empty'],
  ['rows that are not texts', { ...ACTIVITY, rows: { of: 1, changes: [{}] } }, '"changes" holds other than texts'],
])('a message with %s is a problem, not a message', (_, message, problem) => {
  expect(problemOf(message)).toBe(problem);
});

test('a text that is not JSON is a problem', () => {
  const result = decodeMessage('{"type":');
  expect(!result.ok && result.problem).toContain('not JSON');
});

test('history, with and without deaf spans', () => {
  const history = { now: 2, since: DATABASE.since, step_seconds: 1, totals: {}, other: 0, buckets: [] };
  expect(decodeHistory(JSON.stringify(history))).toMatchObject({ ok: true, value: { deaf: [] } });
  expect(
    decodeHistory(
      JSON.stringify({
        ...history,
        deaf: [
          [1, 2],
          [3, null],
        ],
      }),
    ),
  ).toMatchObject({
    value: {
      deaf: [
        [1, 2],
        [3, null],
      ],
    },
  });
  expect(decodeHistory(JSON.stringify({ ...history, deaf: [[1]] }))).toMatchObject({ ok: false });
});

test('tables, and the one shape of errors', () => {
  const table = (watched_by: unknown) =>
    JSON.stringify({
      tables: [
        { schema: 'public', table: 'orders', watched_by, estimated_rows: 9, can_change: false },
      ],
    });
  for (const watchedBy of ['journal', 'notify', null]) {
    expect(decodeTables(table(watchedBy))).toEqual({
      ok: true,
      value: [
        { schema: 'public', table: 'orders', watchedBy, estimatedRows: 9, canChange: false },
      ],
    });
  }
  expect(decodeTables(table('magic'))).toEqual({ ok: false, problem: '"watched_by" is "magic"' });
  expect(decodeError('{"error": {"code": "c", "message": "m"}}')).toEqual({ ok: true, value: 'm' });
});

test('the status of the journal, and that there is none', () => {
  const watched = [
    { schema: 'public', table: 'orders', is_complete: false },
    { schema: 'public', table: 'items', is_complete: true },
  ];
  const journal = { bytes: 12, oldest: '2026-11-22T07:00:00.1234Z', retention_hours: 24, retention_bytes: 99 };
  expect(decodeStatus(JSON.stringify({ journal, watched }))).toEqual({
    ok: true,
    value: {
      journal: {
        bytes: 12,
        oldest: Date.UTC(2026, 10, 22, 7, 0, 0, 123) / 1000,
        retentionHours: 24,
        retentionBytes: 99,
      },
      incomplete: ['public.orders'],
    },
  });
  expect(decodeStatus(JSON.stringify({ journal: { ...journal, oldest: null }, watched: [] }))).toMatchObject({
    value: { journal: { oldest: null } },
  });
  expect(decodeStatus('{"journal": null, "watched": []}')).toEqual({
    ok: true,
    value: { journal: null, incomplete: [] },
  });
});

test('a page of changes keeps every digit', () => {
  const text = '{"changes":[{"data":{"id":9007199254740993}}],"cursor":"c","has_more":true,"gap":null}';
  expect(decodeChanges(text)).toEqual({
    ok: true,
    value: { changes: ['{"data": {"id": 9007199254740993}}'], cursor: 'c', hasMore: true },
  });
  expect(decodeChanges('{"changes":{}}')).toMatchObject({ ok: false });
  expect(decodePlace('{"cursor":"c"}')).toEqual({ ok: true, value: 'c' });
});
