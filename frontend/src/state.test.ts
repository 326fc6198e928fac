import { beforeEach, expect, test } from 'vitest';

import type { Activity, Counts, Database, Gap, Hello } from './protocol';
import { apply, applyHistory, changesCounted, dismiss, initialState, notify, setConnection, type State } from './state';
import { chartOf, journalOf, numbersOf, statusOf, tablesOf, tailOf } from './picture';
import { titleOf } from './title';

const INSERTS = 1;
const LISTENING: Database = { state: 'listening', name: 'demo', since: 1000, reason: null };
const LOST: Database = { state: 'lost', name: 'demo', since: 2005, reason: 'gone' };
const NOW = 2000;
const AT = 2_000_000;

const hello = (changes: Partial<Hello> = {}): Hello => ({
  type: 'hello',
  version: '0.1.0',
  database: LISTENING,
  now: NOW,
  since: 1000,
  stepSeconds: 1,
  totals: new Map(),
  other: 0,
  cursor: null,
  recent: [],
  ...changes,
});
const activity = (now: number, changes: Partial<Activity> = {}): Activity => ({
  type: 'activity',
  now,
  totals: new Map(),
  other: 0,
  buckets: [],
  rows: { of: 0, changes: [] },
  cursor: null,
  ...changes,
});
const totals = (table: string, ...counts: Counts) => new Map([[table, counts]]);
const insert = (id: number) => `{"table":"orders","action":"INSERT","data":{"id":${id}}}`;

let state: State;

/** INSERTs per second by server second. */
const inserts = (from: number, to: number, now = AT) => {
  const data = chartOf(state, now);
  return Array.from({ length: to - from + 1 }, (_, place) => data[INSERTS][data[0].indexOf(from + place)]);
};

beforeEach(() => {
  state = initialState();
  setConnection(state, { state: 'open' });
});

test('totals are absolute: a message repeated changes nothing', () => {
  apply(state, hello({ totals: totals('orders', 5, 0, 0, 0) }), AT);
  const message = activity(2001, { totals: totals('orders', 7, 1, 0, 0), other: 2 });
  apply(state, message, AT);
  apply(state, message, AT);
  expect(changesCounted(state.server)).toBe(10);
  expect(numbersOf(state, AT)).toMatchObject({ totals: [7, 1, 0, 0], other: 2 });
});

test('before its history is here, the time before the page is unknown; then it is known', () => {
  apply(state, hello(), AT);
  expect(inserts(1997, 1999)).toEqual([null, null, null]);
  const buckets = [{ at: 1998, counts: totals('orders', 3, 0, 0, 0) }];
  applyHistory(state, { now: NOW, since: 1000, buckets, deaf: [] });
  expect(inserts(1997, 1999)).toEqual([0, 3, 0]);
});

test('the second that is still being counted is not drawn', () => {
  apply(state, hello(), AT);
  apply(state, activity(2003.4, { buckets: [{ at: 2003, counts: totals('orders', 9, 0, 0, 0) }] }), AT);
  expect(chartOf(state, AT)[0].at(-1)).toBe(2002);
});

test('the chart begins with the first whole second counted, but is never shorter than a minute nor longer than five', () => {
  const seconds = () => chartOf(state, AT)[0].length;
  apply(state, hello({ since: 1989.5 }), AT);
  expect(seconds()).toBe(60);
  apply(state, activity(2090), AT);
  expect(chartOf(state, AT)[0][0]).toBe(1990);
  apply(state, activity(9000), AT);
  expect(seconds()).toBe(300);
});

test('while the browser is away time goes on, unknown; the history fills it in', () => {
  apply(state, hello(), AT);
  applyHistory(state, { now: NOW, since: 1000, buckets: [], deaf: [] });
  apply(state, activity(2002), AT + 2000);
  setConnection(state, { state: 'waiting', retryAt: 0 });
  expect(inserts(2000, 2004, AT + 5500)).toEqual([0, 0, null, null, null]);
  setConnection(state, { state: 'open' });
  apply(state, hello({ now: 2006 }), AT + 6000);
  expect(inserts(2001, 2005)).toEqual([0, null, null, null, null]);
  const buckets = [{ at: 2003, counts: totals('orders', 4, 0, 0, 0) }];
  applyHistory(state, { now: 2006, since: 1000, buckets, deaf: [] });
  expect(inserts(2001, 2005)).toEqual([0, 0, 4, 0, 0]);
});

test('what the server did not hear stays unknown', () => {
  apply(state, hello(), AT);
  applyHistory(state, { now: NOW, since: 1000, buckets: [], deaf: [[1996, 1998]] });
  expect(inserts(1995, 1998)).toEqual([0, null, null, 0]);
});

test('while the server has lost its database nothing is known', () => {
  apply(state, hello(), AT);
  applyHistory(state, { now: NOW, since: 1000, buckets: [], deaf: [] });
  apply(state, { type: 'database', ...LOST }, AT);
  apply(state, activity(2008), AT);
  expect(inserts(2004, 2007)).toEqual([0, null, null, null]);
  apply(state, { type: 'database', ...LISTENING, since: 2009 }, AT);
  apply(state, activity(2011), AT);
  expect(inserts(2008, 2010)).toEqual([null, 0, 0]);
});

test('the time a restarted server was down stays unknown, what was counted before stays drawn', () => {
  apply(state, hello(), AT);
  applyHistory(state, { now: NOW, since: 1000, buckets: [], deaf: [[1997, 1998]] });
  apply(state, activity(2001, { buckets: [{ at: 2000, counts: totals('orders', 6, 0, 0, 0) }] }), AT);
  setConnection(state, { state: 'waiting', retryAt: 0 });
  setConnection(state, { state: 'open' });
  apply(state, hello({ now: 2006, since: 2004, totals: totals('orders', 1, 0, 0, 0) }), AT);
  applyHistory(state, { now: 2006, since: 2004, buckets: [], deaf: [] });
  expect(inserts(1996, 2005)).toEqual([0, null, 0, 0, 6, null, null, null, 0, 0]);
  expect(numbersOf(state, AT).counted).toBe(1);
});

test('with a journal the time a restarted server was down is filled in, and its counts go on', () => {
  apply(state, hello({ since: 1990, cursor: 'c0' }), AT);
  applyHistory(state, { now: NOW, since: 1990, buckets: [], deaf: [] });
  const second = { at: 2000, counts: totals('orders', 6, 0, 0, 0) };
  const rows = { of: 6, changes: [insert(6)] };
  apply(state, activity(2001, { totals: totals('orders', 6, 0, 0, 0), buckets: [second], rows, cursor: 'c6' }), AT);
  expect(state.server?.cursor).toBe('c6');
  setConnection(state, { state: 'waiting', retryAt: 0 });
  expect(inserts(1999, 2004, AT + 5500)).toEqual([0, 6, null, null, null, null]);
  setConnection(state, { state: 'open' });
  // Its successor counts from the oldest change on; while it was down there were three more.
  const recent = [insert(6), insert(8), insert(9)];
  apply(state, hello({ now: 2006, since: 1998, totals: totals('orders', 9, 0, 0, 0), recent, cursor: 'c9' }), AT);
  expect(state.server?.cursor).toBe('c9');
  expect(numbersOf(state, AT).counted).toBe(9);
  expect(tailOf(state)).toMatchObject({ counted: 9, missed: 6 }); // five of the first, one of the others
  expect(tailOf(state).lines.map((line) => line.id)).toEqual(['9', '8', '6']);
  const buckets = [second, { at: 2003, counts: totals('orders', 3, 0, 0, 0) }];
  applyHistory(state, { now: 2006, since: 1998, buckets, deaf: [] });
  expect(inserts(1997, 2005)).toEqual([0, 0, 0, 6, 0, 0, 3, 0, 0]);
});

test('what the journal brings of a time in which the database was away fills that in', () => {
  apply(state, hello({ cursor: 'c0' }), AT);
  applyHistory(state, { now: NOW, since: 1000, buckets: [], deaf: [] });
  apply(state, { type: 'database', ...LOST }, AT);
  apply(state, activity(2008), AT);
  apply(state, { type: 'database', ...LISTENING, since: 2009 }, AT);
  applyHistory(state, { now: 2009, since: 1000, buckets: [], deaf: [] });
  apply(state, activity(2011, { buckets: [{ at: 2006, counts: totals('orders', 2, 0, 0, 0) }] }), AT);
  expect(inserts(2004, 2010)).toEqual([0, 0, 2, 0, 0, 0, 0]);
});

test('the journal in one line, and nothing where there is none', () => {
  apply(state, hello(), AT);
  expect(journalOf(state, AT)).toBeNull();
  const journal = { bytes: 12 << 20, oldest: NOW - 3 * 3600, retentionHours: 24, retentionBytes: 1 << 30 };
  state.status = { journal, incomplete: [] };
  expect(journalOf(state, AT)?.text).toBe('12 MB of 1 GB · oldest 3 h ago');
  state.status = { journal: { ...journal, oldest: null }, incomplete: [] };
  expect(journalOf(state, AT)?.text).toBe('12 MB of 1 GB');
  state.status = { journal: null, incomplete: [] };
  expect(journalOf(state, AT)).toBeNull();
});

test('a table that is not wholly watched is marked, one without changes is still named', () => {
  apply(state, hello({ totals: totals('public.a', 1, 0, 0, 0) }), AT);
  state.status = { journal: null, incomplete: ['public.a', 'public.b'] };
  expect(tablesOf(state, AT)).toMatchObject({
    lines: [{ name: 'public.a', isIncomplete: true }],
    incomplete: ['public.a', 'public.b'],
  });
});

test('the tail says of how many it is a sample', () => {
  apply(state, hello({ totals: totals('orders', 100, 0, 0, 0), recent: [insert(1)] }), AT);
  expect(tailOf(state)).toMatchObject({ counted: 100, missed: 0 });
  const rows = { of: 50, changes: [insert(2)] };
  apply(state, activity(2001, { totals: totals('orders', 150, 0, 0, 0), rows }), AT);
  expect(tailOf(state)).toMatchObject({ counted: 150, missed: 49 });
  expect(tailOf(state).lines.map((line) => line.id)).toEqual(['2', '1']);
});

test('after a reconnect rows come once, and those that were missed are counted', () => {
  apply(state, hello({ totals: totals('orders', 10, 0, 0, 0), recent: [insert(1)] }), AT);
  setConnection(state, { state: 'waiting', retryAt: 0 });
  setConnection(state, { state: 'open' });
  apply(state, hello({ totals: totals('orders', 12, 0, 0, 0), recent: [insert(1), insert(2), insert(3)] }), AT);
  expect(tailOf(state)).toMatchObject({ missed: 0 });
  expect(tailOf(state).lines.map((line) => line.id)).toEqual(['3', '2', '1']);
});

test('a line of the tail says what changed', () => {
  const update = '{"table":"o","schema":"s","action":"UPDATE","data":{"k":7,"a":"y","b":1.10},"old":{"a":"x"}}';
  const foreign = '{"something": "else"}';
  const recent = ['{"table":"o","action":"TRUNCATE","data":null}', '{"table":"o","action":"DELETE","data":{"k":7,"a":null}}', update, foreign];
  apply(state, hello({ recent }), AT);
  const [first, second, third, fourth] = tailOf(state).lines;
  expect(first).toMatchObject({ time: 'earlier', action: null, parts: [{ kind: 'text', text: foreign }] });
  expect(second).toMatchObject({
    table: 's.o',
    id: '7',
    parts: [{ kind: 'changed', name: 'a', before: '"x"', after: '"y"' }],
  });
  expect(third).toMatchObject({ table: 'o', id: '7', parts: [{ kind: 'value', name: 'a', value: 'null' }] });
  expect(fourth).toMatchObject({ action: 'TRUNCATE', id: '' });
});

test('tables come with the busiest of the last minute first', () => {
  const all = new Map<string, Counts>([['big', [900, 0, 0, 0]], ['busy', [5, 0, 0, 0]]]);
  apply(state, hello({ totals: all }), AT);
  apply(state, activity(2003, { buckets: [{ at: 2001, counts: totals('busy', 5, 0, 0, 0) }] }), AT);
  const { lines, of } = tablesOf(state, AT);
  expect(of).toBe(2);
  expect(lines.map(({ name, total, lastSeenAgo }) => [name, total, lastSeenAgo])).toEqual([
    ['busy', 5, 2],
    ['big', 900, null],
  ]);
});

test('public is left out of a name, unless that is another table\'s', () => {
  const all = new Map<string, Counts>([['public.a', [1, 0, 0, 0]], ['sales.a', [1, 0, 0, 0]], ['public.b', [1, 0, 0, 0]]]);
  const recent = ['public', 'sales'].map((schema) => `{"schema":"${schema}","table":"a","action":"INSERT","data":{}}`);
  const shown = () => [
    ...tablesOf(state, AT).lines.map((line) => line.shownName),
    ...tailOf(state).lines.map((line) => line.shownTable),
  ];
  apply(state, hello({ totals: all, recent }), AT);
  expect(shown()).toEqual(['a', 'b', 'sales.a', 'sales.a', 'a']);
  apply(state, activity(2001, { totals: totals('a', 1, 0, 0, 0) }), AT);
  expect(shown()).toEqual(['a', 'public.a', 'b', 'sales.a', 'sales.a', 'public.a']);
});

test('the same problem again is one notice', () => {
  notify(state, { kind: 'problem', what: 'a', whatToDo: '' });
  notify(state, { kind: 'problem', what: 'b', whatToDo: '' });
  notify(state, { kind: 'problem', what: 'a', whatToDo: '' });
  expect(state.notices).toMatchObject([{ what: 'b', times: 1 }, { what: 'a', times: 2 }]);
});

test('notices are bounded, those left out are counted, and a reader dismisses them', () => {
  for (const what of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) notify(state, { kind: 'problem', what, whatToDo: '' });
  expect(state.notices).toHaveLength(5);
  expect(state.noticesDropped).toBe(2);
  for (const notice of state.notices) dismiss(state, notice.id);
  expect(state).toMatchObject({ notices: [], noticesDropped: 0 });
});

test('a gap is told', () => {
  const gap: Gap = { type: 'gap', from: null, to: null, since: 1, until: 2, why: 'lost', whatToDo: 'read again' };
  apply(state, gap, AT);
  expect(state.notices).toMatchObject([{ kind: 'gap', gap: { why: 'lost', whatToDo: 'read again' } }]);
});

test('the status counts down to the next attempt', () => {
  setConnection(state, { state: 'waiting', retryAt: AT + 2_100 });
  expect(statusOf(state, AT)).toMatchObject({ connection: 'waiting', retryInSeconds: 3 });
  expect(statusOf(state, AT + 9_000).retryInSeconds).toBe(0);
});

test('the title says first what is off', () => {
  apply(state, hello(), AT);
  expect(titleOf(state)).toBe('psqlisten2websocket');
  apply(state, { type: 'database', ...LOST }, AT);
  expect(titleOf(state)).toBe('(database off) psqlisten2websocket');
  setConnection(state, { state: 'waiting', retryAt: 0 });
  expect(titleOf(state)).toBe('(off) psqlisten2websocket');
});
