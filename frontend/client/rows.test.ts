import { beforeEach, expect, test } from 'vitest';

import { DELAY_LIMIT_MS } from '../src/feed/backoff';
import { FakeClock, FakeSocket } from '../src/feed/fakes';
import type { Environment } from './environment';
import type { FeedError, State } from './options';
import { type LiveRows, type Rows, rows, type RowsOptions } from './rows';

interface Item {
  id: number;
  name: string;
}

let clock: FakeClock;
let sockets: FakeSocket[];
let urls: URL[];
let states: State[];
let errors: FeedError[];
let reported: unknown[];
let seen: Rows<Item>[];
let live: LiveRows<Item>;

class PageSocket extends FakeSocket {
  constructor(url: string) {
    super();
    urls.push(new URL(url));
    sockets.push(this);
  }
}
const environment = (): Environment => ({
  page: 'http://shop.example/',
  window: undefined,
  WebSocket: PageSocket,
  fetch: undefined,
  clock,
  random: () => 1,
  report: (error) => reported.push(error),
});
const follow = (options: Partial<RowsOptions<Item>> = {}) =>
  rows<Item>(
    undefined,
    { table: 'items', onState: (state) => states.push(state), onError: (error) => errors.push(error), ...options },
    environment(),
  );

const last = () => sockets.at(-1)!;
const say = (type: string, fields: object = {}) => last().say(JSON.stringify({ type, ...fields }));
const hello = (cursor: string | null = 'h') => say('hello', { cursor });
const read = (list: Item[], end?: string) =>
  say('rows', { schema: 'public', table: 'items', rows: list, ...(end && { is_last: true, cursor: end }) });
const changes = (cursor: string, ...list: object[]) => say('changes', { changes: list.map((one) => ({ table: 'items', ...one })), cursor });
const insert = (data: Item) => ({ action: 'INSERT', data });
const query = (name: string) => urls.at(-1)!.searchParams.get(name);
const list = () => live.get().list;
const settle = async () => {
  await Promise.resolve();
  clock.pass(1000);
};

const A = { id: 1, name: 'A' };
const B = { id: 2, name: 'B' };
const C = { id: 3, name: 'C' };

beforeEach(async () => {
  clock = new FakeClock();
  [sockets, urls, states, errors, reported, seen] = [[], [], [], [], [], []];
  live = follow();
  live.subscribe((value) => seen.push(value));
  await settle();
});

const loaded = (...items: Item[]) => {
  hello();
  read(items, 'r1');
};

test('it asks for the rows, and shows them when the last have come', async () => {
  expect([query('table'), query('rows'), query('since')]).toEqual(['items', 'true', null]);
  hello();
  read([A]);
  expect(live.get()).toMatchObject({ list: [], isLoaded: false, isLive: false });
  read([B], 'r1');
  expect(live.get()).toMatchObject({ list: [A, B], isLoaded: true, isLive: true });
  expect(states.map(({ state }) => state)).toEqual(['connecting', 'open']);
  await settle();
  expect(seen.map((value) => value.list.length)).toEqual([0, 2]);
});

test('an empty table is loaded', () => {
  loaded();
  expect(live.get()).toMatchObject({ list: [], isLoaded: true, isLive: true });
});

test('the changes after the rows are applied', () => {
  loaded(A, B);
  changes('c1', insert(C), { action: 'DELETE', data: A }, { action: 'UPDATE', data: { id: 2, name: 'b' }, old: { name: 'B' } });
  expect(list()).toEqual([{ id: 2, name: 'b' }, C]);
  expect(live.get().byKey.get(3)).toEqual(C);
});

test('what was shown never changes, and is the same object until the rows change', () => {
  loaded(A);
  const before = live.get();
  expect(live.get()).toBe(before);
  expect(before.byKey).toBe(before.byKey);
  changes('c1', insert(B));
  expect(before.list).toEqual([A]);
  expect(before.byKey.has(2)).toBe(false);
  expect(live.get()).not.toBe(before);
});

test('the changes of a message are shown together, and no more than one state in 16 ms', async () => {
  loaded();
  await settle();
  seen = [];
  changes('c1', insert(A), insert(B));
  await Promise.resolve();
  expect(seen.map((value) => value.list)).toEqual([[A, B]]);
  changes('c2', insert(C));
  changes('c3', { action: 'DELETE', data: A });
  await Promise.resolve();
  expect(seen).toHaveLength(1);
  clock.pass(16);
  expect(seen.map((value) => value.list)).toEqual([[A, B], [B, C]]);
});

test('a list that takes long to show is shown less often', async () => {
  loaded();
  await settle();
  let calls = 0;
  live.subscribe(() => {
    calls += 1;
    clock.pass(50);
  });
  changes('c1', insert(A));
  await Promise.resolve();
  changes('c2', insert(B));
  clock.pass(199);
  expect(calls).toBe(2);
  clock.pass(1);
  expect(calls).toBe(3);
});

test('each who subscribes is called at once, and no more once it has left', async () => {
  loaded(A);
  const heard: number[] = [];
  const run = (value: Rows<Item>) => heard.push(value.list.length);
  const leave = live.subscribe(run);
  const stay = live.subscribe(run);
  expect(heard).toEqual([1, 1]);
  leave();
  changes('c1', insert(B));
  await settle();
  expect(heard).toEqual([1, 1, 2]);
  stay();
});

test('what a subscriber throws is reported, and the others are called', async () => {
  const error = new Error('mine');
  let calls = 0;
  live.subscribe(() => {
    if (calls++) throw error;
  });
  const heard: number[] = [];
  live.subscribe((value) => heard.push(value.list.length));
  loaded(A);
  await settle();
  expect([heard, reported]).toEqual([[0, 1], [error]]);
});

test('a lost connection continues after the last change, and keeps the rows meanwhile', () => {
  loaded(A);
  changes('c1', insert(B));
  last().hangUp();
  expect(live.get()).toMatchObject({ list: [A, B], isLoaded: true, isLive: false });
  clock.pass(DELAY_LIMIT_MS);
  expect([query('rows'), query('since')]).toEqual([null, 'c1']);
  hello('c1');
  expect(live.get().isLive).toBe(true);
  changes('c2', insert(C));
  expect(list()).toEqual([A, B, C]);
});

test('a connection that is lost while the rows come begins again', () => {
  hello();
  read([A]);
  last().hangUp();
  clock.pass(DELAY_LIMIT_MS);
  expect([query('rows'), query('since')]).toEqual(['true', null]);
  loaded(B);
  expect(list()).toEqual([B]);
});

const readsAgain = (...items: Item[]) => {
  const before = list();
  clock.pass(DELAY_LIMIT_MS);
  expect([query('rows'), query('since')]).toEqual(['true', null]);
  hello();
  expect(list()).toEqual(before);
  read(items, 'r2');
  expect(list()).toEqual(items);
  changes('c9', insert({ id: 9, name: 'after' }));
  expect(list()).toEqual([...items, { id: 9, name: 'after' }]);
};

test('after a gap the rows are read again', () => {
  loaded(A, B);
  say('gap', { from: 'c1', to: null, why: 'retention', what_to_do: '' });
  expect(live.get()).toMatchObject({ list: [A, B], isLive: false });
  readsAgain(B, C);
});

test('so they are where a cursor is not known any more', () => {
  loaded(A);
  last().hangUp();
  clock.pass(DELAY_LIMIT_MS);
  hello('new');
  say('gap', { from: null, to: 'new', why: 'restored', what_to_do: '' });
  readsAgain(C);
});

test('so they are after a statement above row_limit, and what follows it is not applied', () => {
  loaded(A, B);
  changes('c1', { action: 'UPDATE', data: null, count: 20_000 }, insert(C));
  expect(list()).toEqual([A, B]);
  readsAgain(C);
});

test('gaps that come again and again are read after ever longer delays', () => {
  const delays = Array.from({ length: 4 }, () => {
    loaded(A);
    say('gap', { why: 'again', what_to_do: '' });
    const state = states.at(-1)!;
    const delay = state.state === 'waiting' ? state.retryAt - clock.now() : NaN;
    clock.pass(delay);
    return delay;
  });
  expect(delays).toEqual([0, 300, 600, 1200]);
});

test('rows that were kept are there at once, and what has changed since is applied', () => {
  live = follow({ since: { list: [A, B], cursor: 'c5' } });
  expect(live.get()).toMatchObject({ list: [A, B], isLoaded: true, isLive: false });
  expect([query('rows'), query('since'), live.cursor]).toEqual([null, 'c5', 'c5']);
  hello('c5');
  expect(live.get().isLive).toBe(true);
  changes('c6', insert(C), { action: 'DELETE', data: A });
  expect([list(), live.cursor]).toEqual([[B, C], 'c6']);
  say('gap', { why: 'retention', what_to_do: '' });
  expect(live.cursor).toBeNull();
  readsAgain(C);
});

test('rows that were kept without a cursor, or with an invalid one, are read again', () => {
  live = follow({ since: { list: [A], cursor: null } });
  expect([list(), query('rows')]).toEqual([[], 'true']);
  live = follow({ since: { list: [A], cursor: 'of elsewhere' } });
  say('error', { code: 'not_a_cursor', message: 'that is no cursor' });
  readsAgain(B);
});

test('there is no cursor to keep while the rows lack a change', () => {
  expect(live.cursor).toBeNull();
  loaded(A);
  expect(live.cursor).toBe('r1');
  changes('c1', insert(B), { action: 'UPDATE', data: null, count: 20_000 });
  expect(live.cursor).toBeNull();
  clock.pass(DELAY_LIMIT_MS);
  expect(live.cursor).toBeNull();
  loaded(C);
  changes('c2', { action: 'DELETE', data: { name: 'without a key' } });
  expect([errors.map(({ code }) => code), live.cursor]).toEqual([['bad_key'], null]);
});

test('a TRUNCATE empties the list', () => {
  loaded(A, B);
  changes('c1', { action: 'TRUNCATE', data: null }, insert(C));
  expect(list()).toEqual([C]);
});

test('the list may be sorted, and the key have another name or several columns', () => {
  live = follow({ key: ['id', 'name'], compare: (one, other) => other.id - one.id });
  loaded(A, C, B);
  expect(list()).toEqual([C, B, A]);
  expect(live.get().byKey.get('[2,"B"]')).toEqual(B);
});

test('rows without a usable key end it, with an error', () => {
  live = follow({ key: 'code' });
  loaded(A);
  expect(errors).toMatchObject([{ code: 'bad_key', isFinal: true, message: expect.stringContaining('no column code') }]);
  expect(states.at(-1)!.state).toBe('failed');
  clock.pass(3_600_000);
  expect(sockets).toHaveLength(2);
});

test('a server that refuses the rows ends it, before and while they come', () => {
  say('error', { code: 'cannot_read', message: 'GRANT SELECT ON items' });
  last().hangUp(1008, 'cannot_read');
  live = follow();
  hello();
  read([A]);
  say('error', { code: 'too_many_rows', message: 'ask for fewer' });
  last().hangUp(1008, 'too_many_rows');
  expect(errors).toMatchObject([{ code: 'cannot_read', isFinal: true }, { code: 'too_many_rows', isFinal: true }]);
  expect(sockets).toHaveLength(2);
});

test('a busy server is asked again', () => {
  hello();
  last().hangUp(1013, 'rows_busy');
  clock.pass(DELAY_LIMIT_MS);
  loaded(A);
  expect([list(), errors]).toEqual([[A], []]);
});

test('what is no request for the rows of one table is refused at once', () => {
  expect(() => follow({ table: '' })).toThrow('rows takes one table');
  expect(() => follow({ columns: 'name' })).toThrow('columns must contain the key id');
  expect(() => follow({ columns: ['id,name'] })).not.toThrow();
  expect(() => follow({ since: 'c' } as never)).toThrow('since takes rows that were kept with their cursor');
  expect(() => follow({ action: 'INSERT' } as never)).toThrow('unknown option action; rows takes table, filter,');
});

test('closed, it stays as it was, and calls nothing', async () => {
  loaded(A);
  await settle();
  seen = [];
  changes('c0', { action: 'UPDATE', data: A, old: {} });
  live.close();
  changes('c1', insert(B));
  await settle();
  expect(live.get()).toMatchObject({ list: [A], isLoaded: true, isLive: false });
  expect(last().isClosed).toBe(true);
  expect(seen).toEqual([]);
});
