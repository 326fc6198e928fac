import { beforeEach, expect, test } from 'vitest';

import { type Choices, DEFAULTS } from './choices';
import { HeldRows } from './paused_rows';
import type { Activity, Bucket, Counts, Database, Gap, Hello, Totals } from '../feed/protocol';
import { chartOf, journalOf, numbersOf, statusOf, tablesOf } from '../pictures/view_model';
import {
  apply,
  applyHistory,
  changesCounted,
  dismiss,
  finest,
  initialState,
  notify,
  setConnection,
  settle,
  type State,
} from './state';
import { tailLineOf } from '../pictures/tail';
import { titleOf } from '../pictures/title';

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
  hasHistory: true,
  steps: new Map([
    [1, 900],
    [60, 1440],
  ]),
  delayScale: { leastSeconds: 0.001, perDoubling: 1 },
  rowsAtMost: 5000,
  payload: 'full',
  totals: new Map(),
  other: 0,
  cursor: null,
  recent: [],
  ...changes,
});
interface Told {
  readonly totals?: Totals;
  readonly other?: number;
  readonly buckets?: readonly Bucket[];
  readonly rows?: { readonly of: number; readonly changes: readonly string[] };
  readonly cursor?: string | null;
}
const activity = (now: number, told: Told = {}): Activity => ({
  type: 'activity',
  number: 1,
  now,
  counts: { totals: told.totals ?? new Map(), other: told.other ?? 0, buckets: new Map([[1, told.buckets ?? []]]) },
  rows: { withheld: null, matching: null, ...(told.rows ?? { of: 0, changes: [] }) },
  cursor: told.cursor ?? null,
});
const history = (now: number, since: number, buckets: readonly Bucket[] = [], deaf: [number, number | null][] = []) =>
  applyHistory(state, { now, since, stepSeconds: 1, buckets, deaf });
const bucket = (at: number, counts: Totals): Bucket => ({ at, counts, delays: null });
const totals = (table: string, ...counts: Counts) => new Map([[table, counts]]);
const insert = (id: number) => `{"table":"orders","action":"INSERT","data":{"id":${id}}}`;

let state: State;

/** INSERTs per second by server second. */
const inserts = (from: number, to: number, now = AT) => {
  const { times, rates } = chartOf(state, DEFAULTS, now);
  return Array.from({ length: to - from + 1 }, (_, place) => rates[0]?.[times.indexOf(from + place)]);
};
const timesOf = (choices: Partial<Choices> = {}) => chartOf(state, { ...DEFAULTS, ...choices }, AT).times;
const linesOf = () => {
  const list = new HeldRows(state.rows);
  list.follow();
  return list.shown.map((row, place) => tailLineOf(row, list.shown[place + 1] ?? null, 'utc', state.server?.totals));
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
  expect(numbersOf(state, DEFAULTS, AT)).toMatchObject({ totals: [7, 1, 0, 0], other: 2 });
});

test('before its history is here, the time before the page is unknown; then it is known', () => {
  apply(state, hello(), AT);
  expect(inserts(1997, 1999)).toEqual([null, null, null]);
  const buckets = [bucket(1998, totals('orders', 3, 0, 0, 0))];
  history(NOW, 1000, buckets);
  expect(inserts(1997, 1999)).toEqual([0, 3, 0]);
});

test('the second that is still being counted is not drawn', () => {
  apply(state, hello(), AT);
  apply(state, activity(2003.4, { buckets: [bucket(2003, totals('orders', 9, 0, 0, 0))] }), AT);
  expect(timesOf().at(-1)).toBe(2002);
});

test('the chart begins with the first whole second counted, but is never shorter than a minute nor longer than its window', () => {
  const seconds = () => timesOf().length;
  apply(state, hello({ since: 1989.5 }), AT);
  expect(seconds()).toBe(60);
  apply(state, activity(2090), AT);
  expect(timesOf()[0]).toBe(1990);
  apply(state, activity(9000), AT);
  expect(seconds()).toBe(300);
  expect(timesOf({ window: '15m' })).toHaveLength(900);
});

test('while the browser is away time goes on, unknown; the history fills it in', () => {
  apply(state, hello(), AT);
  history(NOW, 1000);
  apply(state, activity(2002), AT + 2000);
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  expect(inserts(2000, 2004, AT + 5500)).toEqual([0, 0, null, null, null]);
  setConnection(state, { state: 'open' });
  apply(state, hello({ now: 2006 }), AT + 6000);
  expect(inserts(2001, 2005)).toEqual([0, null, null, null, null]);
  const buckets = [bucket(2003, totals('orders', 4, 0, 0, 0))];
  history(2006, 1000, buckets);
  expect(inserts(2001, 2005)).toEqual([0, 0, 4, 0, 0]);
});

test('what the server did not hear stays unknown', () => {
  apply(state, hello(), AT);
  history(NOW, 1000, [], [[1996, 1998]]);
  expect(inserts(1995, 1998)).toEqual([0, null, null, 0]);
});

test('while the server has lost its database nothing is known', () => {
  apply(state, hello(), AT);
  history(NOW, 1000);
  apply(state, { type: 'database', ...LOST }, AT);
  apply(state, activity(2008), AT);
  expect(inserts(2004, 2007)).toEqual([0, null, null, null]);
  apply(state, { type: 'database', ...LISTENING, since: 2009 }, AT);
  apply(state, activity(2011), AT);
  expect(inserts(2008, 2010)).toEqual([null, 0, 0]);
});

test('the time a restarted server was down stays unknown, what was counted before stays drawn', () => {
  apply(state, hello(), AT);
  history(NOW, 1000, [], [[1997, 1998]]);
  apply(state, activity(2001, { buckets: [bucket(2000, totals('orders', 6, 0, 0, 0))] }), AT);
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  setConnection(state, { state: 'open' });
  apply(state, hello({ now: 2006, since: 2004, totals: totals('orders', 1, 0, 0, 0) }), AT);
  history(2006, 2004);
  expect(inserts(1996, 2005)).toEqual([0, null, 0, 0, 6, null, null, null, 0, 0]);
  expect(numbersOf(state, DEFAULTS, AT).counted).toBe(1);
});

test('with a journal the time a restarted server was down is filled in, and its counts go on', () => {
  apply(state, hello({ since: 1990, cursor: 'c0' }), AT);
  history(NOW, 1990);
  const second = bucket(2000, totals('orders', 6, 0, 0, 0));
  const rows = { of: 6, changes: [insert(6)] };
  apply(state, activity(2001, { totals: totals('orders', 6, 0, 0, 0), buckets: [second], rows, cursor: 'c6' }), AT);
  expect(state.server?.cursor).toBe('c6');
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  expect(inserts(1999, 2004, AT + 5500)).toEqual([0, 6, null, null, null, null]);
  setConnection(state, { state: 'open' });
  // Its successor counts from the oldest change on; while it was down there were three more.
  const recent = [insert(6), insert(8), insert(9)];
  apply(state, hello({ now: 2006, since: 1998, totals: totals('orders', 9, 0, 0, 0), recent, cursor: 'c9' }), AT);
  expect(state.server?.cursor).toBe('c9');
  expect(numbersOf(state, DEFAULTS, AT).counted).toBe(9);
  expect(state.rows.missed).toBe(6); // five of the first, one of the others
  expect(linesOf().map((line) => line.id)).toEqual(['9', '8', '6']);
  const buckets = [second, bucket(2003, totals('orders', 3, 0, 0, 0))];
  history(2006, 1998, buckets);
  expect(inserts(1997, 2005)).toEqual([0, 0, 0, 6, 0, 0, 3, 0, 0]);
});

test('what the journal brings of a time in which the database was away fills that in', () => {
  apply(state, hello({ cursor: 'c0' }), AT);
  history(NOW, 1000);
  apply(state, { type: 'database', ...LOST }, AT);
  apply(state, activity(2008), AT);
  apply(state, { type: 'database', ...LISTENING, since: 2009 }, AT);
  history(2009, 1000);
  apply(state, activity(2011, { buckets: [bucket(2006, totals('orders', 2, 0, 0, 0))] }), AT);
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

test('a table that is not completely watched is marked, one without changes is still named', () => {
  apply(state, hello({ totals: totals('public.a', 1, 0, 0, 0) }), AT);
  state.status = { journal: null, incomplete: ['public.a', 'public.b'] };
  expect(tablesOf(state, DEFAULTS, AT)).toMatchObject({
    lines: [{ name: 'public.a', isIncomplete: true }],
    incomplete: ['public.a', 'public.b'],
  });
});

test('the tail says of how many it is a sample', () => {
  apply(state, hello({ totals: totals('orders', 100, 0, 0, 0), recent: [insert(1)] }), AT);
  expect(state.rows.missed).toBe(0);
  const rows = { of: 50, changes: [insert(2)] };
  apply(state, activity(2001, { totals: totals('orders', 150, 0, 0, 0), rows }), AT);
  expect(state.rows.missed).toBe(49);
  expect(linesOf()[0]?.missed).toBe('· 49 more ·');
  apply(state, activity(2001, { rows: { of: 1, changes: [insert(3)] } }), AT);
  expect(linesOf().map((line) => line.missed)).toEqual(['', '· 49 more ·', '']);
  expect(numbersOf(state, DEFAULTS, AT)).toMatchObject({ sent: 2, sentOf: 51 });
  expect(linesOf().map((line) => line.id)).toEqual(['3', '2', '1']);
});

test('after a reconnect rows come once, and those that were missed are counted', () => {
  apply(state, hello({ totals: totals('orders', 10, 0, 0, 0), recent: [insert(1)] }), AT);
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  setConnection(state, { state: 'open' });
  apply(state, hello({ totals: totals('orders', 12, 0, 0, 0), recent: [insert(1), insert(2), insert(3)] }), AT);
  expect(state.rows.missed).toBe(0);
  expect(linesOf().map((line) => line.id)).toEqual(['3', '2', '1']);
});

test('what happened while the page was away is reported where it is missing', () => {
  apply(state, hello({ totals: totals('orders', 10, 0, 0, 0), recent: [insert(1)] }), AT);
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  setConnection(state, { state: 'open' });
  apply(state, hello({ totals: totals('orders', 17, 0, 0, 0), recent: [insert(7), insert(8)] }), AT + 61_000);
  const [from, to] = [AT, AT + 61_000].map((at) => new Date(at).toISOString().slice(11, 19));
  const missed = `5 not received, ${from} – ${to} (counted, but not here)`;
  expect(linesOf().map((line) => line.missed)).toEqual(['', missed, '']);
});

test('a line of the tail says what changed', () => {
  const update = '{"table":"o","schema":"s","action":"UPDATE","data":{"k":7,"a":"y","b":1.10},"old":{"a":"x"}}';
  const foreign = '{"something": "else"}';
  const recent = [
    '{"table":"o","action":"TRUNCATE","data":null}',
    '{"table":"o","action":"DELETE","data":{"k":7,"a":null}}',
    update,
    foreign,
  ];
  apply(state, hello({ recent }), AT);
  const [first, second, third, fourth] = linesOf();
  expect(first).toMatchObject({ time: 'earlier', action: null, parts: [{ lead: '', text: foreign, look: 'words' }] });
  expect(second).toMatchObject({
    table: 's.o',
    id: '7',
    parts: [
      { lead: 'a: ', text: '"x"', look: 'old' },
      { lead: ' → ', text: '"y"', look: 'text' },
    ],
  });
  expect(third).toMatchObject({
    table: 'o',
    id: '7',
    parts: [{ lead: 'a: ', text: 'null', look: 'null' }],
  });
  expect(fourth).toMatchObject({ action: 'TRUNCATE', id: '' });
});

test('tables come with the busiest of the last minute first', () => {
  const all = new Map<string, Counts>([
    ['big', [900, 0, 0, 0]],
    ['busy', [5, 0, 0, 0]],
  ]);
  apply(state, hello({ totals: all }), AT);
  apply(state, activity(2003, { buckets: [bucket(2001, totals('busy', 5, 0, 0, 0))] }), AT);
  const { lines, of } = tablesOf(state, DEFAULTS, AT);
  expect(of).toBe(2);
  expect(lines.map(({ name, total, lastSeenAgo }) => [name, total, lastSeenAgo])).toEqual([
    ['busy', 5, 2],
    ['big', 900, null],
  ]);
});

test("public is left out of a name, unless that is another table's", () => {
  const all = new Map<string, Counts>([
    ['public.a', [1, 0, 0, 0]],
    ['sales.a', [1, 0, 0, 0]],
    ['public.b', [1, 0, 0, 0]],
  ]);
  const recent = ['public', 'sales'].map((schema) => `{"schema":"${schema}","table":"a","action":"INSERT","data":{}}`);
  const shown = () => [
    ...tablesOf(state, DEFAULTS, AT).lines.map((line) => line.shownName),
    ...linesOf().map((line) => line.shownTable),
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
  expect(state.notices).toMatchObject([
    { what: 'b', times: 1 },
    { what: 'a', times: 2 },
  ]);
});

test('notices are bounded, those left out are counted, and a reader dismisses them', () => {
  for (const what of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) notify(state, { kind: 'problem', what, whatToDo: '' });
  expect(state.notices).toHaveLength(5);
  expect(state.noticesDropped).toBe(2);
  for (const notice of state.notices) dismiss(state, notice.id);
  expect(state).toMatchObject({ notices: [], noticesDropped: 0 });
});

test('a gap is shown', () => {
  const gap: Gap = { type: 'gap', from: null, to: null, since: 1, until: 2, why: 'lost', whatToDo: 'read again' };
  apply(state, gap, AT);
  expect(state.notices).toMatchObject([{ kind: 'gap', gap: { why: 'lost', whatToDo: 'read again' } }]);
});

test('the status counts down to the next attempt', () => {
  setConnection(state, { state: 'waiting', retryAt: AT + 2_100, code: 1006, reason: '' });
  expect(statusOf(state, AT)).toMatchObject({ connection: 'waiting', retryInSeconds: 3 });
  expect(statusOf(state, AT + 9_000).retryInSeconds).toBe(0);
});

test('the title says first what is off', () => {
  apply(state, hello(), AT);
  expect(titleOf(state)).toBe('psqlisten2websocket');
  apply(state, { type: 'database', ...LOST }, AT);
  expect(titleOf(state)).toBe('(database off) psqlisten2websocket');
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  expect(titleOf(state)).toBe('(off) psqlisten2websocket');
});

test('a coarser step has its own history, and a longer window shows it', () => {
  apply(state, hello(), AT);
  applyHistory(state, {
    now: NOW,
    since: 1000,
    stepSeconds: 60,
    buckets: [bucket(1920, totals('orders', 120, 0, 0, 0))],
    deaf: [],
  });
  const { times, rates, stepSeconds } = chartOf(state, { ...DEFAULTS, window: '24h' }, AT);
  expect(stepSeconds).toBe(60);
  expect(rates[0]?.[times.indexOf(1920)]).toBe(2);
  expect(rates[0]?.[times.indexOf(1860)]).toBe(0);
});

test('zoomed, the chart shows that span, and the tables what changed in it', () => {
  apply(state, hello({ totals: totals('orders', 9, 0, 0, 0) }), AT);
  history(NOW, 1000, [bucket(1990, totals('orders', 3, 0, 0, 0)), bucket(1995, totals('orders', 6, 0, 0, 0))]);
  const choices = { ...DEFAULTS, zoom: { from: 1988, to: 1991 } };
  expect(chartOf(state, choices, AT)).toMatchObject({ times: [1988, 1989, 1990, 1991], rates: [[0, 0, 3, 0], {}, {}] });
  expect(tablesOf(state, choices, AT)).toMatchObject({ isOfSpan: true, lines: [{ total: 3 }] });
});

test('a filter of tables is one of the numbers and the chart too', () => {
  const all = new Map<string, Counts>([
    ['public.a', [5, 0, 0, 0]],
    ['public.b', [7, 1, 0, 0]],
  ]);
  apply(state, hello({ totals: all }), AT);
  history(NOW, 1000, [
    bucket(
      1999,
      new Map([
        ['public.a', [5, 0, 0, 0]],
        ['public.b', [7, 1, 0, 0]],
      ]),
    ),
  ]);
  const choices: Choices = { ...DEFAULTS, conditions: [{ kind: 'table', table: 'b', isExcluded: false }] };
  expect(numbersOf(state, choices, AT)).toMatchObject({ of: ['public.b'], counted: 8, totals: [7, 1, 0, 0] });
  expect(chartOf(state, choices, AT).rates[0]?.at(-1)).toBe(7);
});

test('delays are shown in percentiles, unknown where nothing arrived', () => {
  apply(state, hello(), AT);
  apply(
    state,
    activity(2001, {
      buckets: [
        {
          at: 2000,
          counts: new Map(),
          delays: new Map([
            [3, 99],
            [10, 1],
          ]),
        },
      ],
    }),
    AT,
  );
  const { times, delays } = chartOf(state, DEFAULTS, AT);
  expect(delays.map((line) => Math.round(line[times.indexOf(2000)] ?? 0))).toEqual([6, 6, 6]);
  expect(delays[0]?.[times.indexOf(1999)]).toBeNull();
  expect(numbersOf(state, DEFAULTS, AT).delays?.p99).toBeCloseTo(5.66, 1);
});

test('tables are sorted as chosen, the pinned first', () => {
  const all = new Map<string, Counts>([
    ['a', [1, 0, 0, 0]],
    ['b', [3, 0, 0, 0]],
    ['c', [2, 0, 0, 0]],
  ]);
  apply(state, hello({ totals: all }), AT);
  const names = (choices: Partial<Choices>) =>
    tablesOf(state, { ...DEFAULTS, ...choices }, AT)
      .lines.map(({ name }) => name)
      .join('');
  expect([names({ sort: 'total' }), names({ sort: 'name' }), names({ sort: 'name', pinned: ['c'] })]).toEqual([
    'bca',
    'abc',
    'cab',
  ]);
});

test('a problem that is over is no notice any more', () => {
  notify(state, { kind: 'problem', topic: 'history', what: 'a', whatToDo: '' });
  notify(state, { kind: 'problem', topic: 'tables', what: 'b', whatToDo: '' });
  settle(state, 'history');
  expect(state.notices).toMatchObject([{ what: 'b' }]);
});

test('rows that are withheld are counted as not sent, and it says why', () => {
  apply(state, hello(), AT);
  const withheld = activity(2001);
  apply(state, { ...withheld, rows: { of: 5, changes: [], matching: null, withheld: 'behind' } }, AT);
  expect(state.rows.missed).toBe(5);
  expect(statusOf(state, AT).withheld).toBe('behind');
});

test('of rows that the server filtered, the share is of those that fit; all the others count as not sent', () => {
  apply(state, hello(), AT);
  const filtered = activity(2001);
  apply(state, { ...filtered, rows: { of: 500, changes: [insert(1)], matching: 1, withheld: null } }, AT);
  expect(numbersOf(state, DEFAULTS, AT)).toMatchObject({ sent: 1, sentOf: 1 });
  expect(state.rows.missed).toBe(499);
});

/** A page that was there before the server was restarted. */
const paged = (): State => {
  const state = initialState();
  setConnection(state, { state: 'open' });
  apply(state, hello({ totals: totals('metrics', 3_000_000, 0, 0, 0), cursor: 'c1' }), AT);
  applyHistory(state, { now: NOW, since: 1000, stepSeconds: 1, buckets: [bucket(1990, totals('metrics', 8, 0, 0, 0))], deaf: [] });
  setConnection(state, { state: 'waiting', retryAt: AT + 1000, code: 1001, reason: '' });
  setConnection(state, { state: 'open' });
  return state;
};
const loading = { now: 2010, since: 2008, hasHistory: false, cursor: 'c2' } as const;

test('while the server still counts what was before no total is shown, and no table is forgotten', () => {
  const state = paged();
  apply(state, hello({ ...loading, totals: totals('orders', 1, 0, 0, 0) }), AT + 10_000);
  const numbers = numbersOf(state, DEFAULTS, AT);
  expect([numbers.counted, ...numbers.totals]).toEqual([null, null, null, null, null]);
  expect(numbers.since).toBe(2_008_000);
  const { lines, hasHistory } = tablesOf(state, DEFAULTS, AT);
  expect(hasHistory).toBe(false);
  expect(lines.map(({ name, total, lastSeenAgo }) => [name, total, lastSeenAgo])).toEqual([
    ['metrics', null, null],
    ['orders', null, null],
  ]);
});

test('while the server still counts what was before, what is counted in part is unknown', () => {
  const state = paged();
  apply(state, hello(loading), AT + 10_000);
  apply(state, activity(2010, { buckets: [bucket(2007, totals('orders', 1, 0, 0, 0))] }), AT + 10_000);
  const timeline = finest(state);
  expect([1990, 2007].map((step) => timeline.count(null, step, 0))).toEqual([8, null]);
});

test('the hello that comes when what was before is counted makes an old page equal to a new one', () => {
  const [old, fresh] = [paged(), initialState()];
  apply(old, hello(loading), AT + 10_000);
  const loaded = hello({ now: 2012, totals: totals('metrics', 7, 0, 0, 0), recent: [insert(1)], cursor: 'c3' });
  setConnection(fresh, { state: 'open' });
  for (const state of [old, fresh]) {
    apply(state, loaded, AT + 12_000);
    applyHistory(state, { now: 2012, since: 1000, stepSeconds: 1, buckets: [bucket(1990, totals('metrics', 7, 0, 0, 0))], deaf: [] });
  }
  expect(numbersOf(old, DEFAULTS, AT)).toEqual(numbersOf(fresh, DEFAULTS, AT));
  expect(tablesOf(old, DEFAULTS, AT)).toEqual(tablesOf(fresh, DEFAULTS, AT));
  expect(chartOf(old, DEFAULTS, AT)).toEqual(chartOf(fresh, DEFAULTS, AT));
  expect([old.rows.pushed, old.rows.missed]).toEqual([1, 0]); // nothing was missed: the connection was there
});

test('before the first message nothing is counted, rather than zero', () => {
  const numbers = numbersOf(initialState(), DEFAULTS, AT);
  expect([numbers.counted, numbers.other, ...numbers.totals]).toEqual([null, null, null, null, null, null]);
});

test('delays are unknown where changes came whose delay nobody measured, and where nothing is known', () => {
  apply(state, hello({ since: 1984 }), AT);
  history(NOW, 1984, [
    bucket(1985, totals('orders', 8, 0, 0, 0)), // counted from the journal after a restart
    { ...bucket(1986, totals('orders', 1, 0, 0, 0)), delays: new Map([[3, 1]]) },
  ]);
  const { times, measured } = chartOf(state, DEFAULTS, AT);
  const at = (time: number) => measured[times.indexOf(time)];
  expect([at(1983), at(1984), at(1985), at(1987)]).toEqual([null, 0, null, 0]);
  expect(at(1986)).toBeGreaterThan(0);
});
