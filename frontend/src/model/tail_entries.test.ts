import { beforeEach, expect, test } from 'vitest';

import { type Columns, jsonText } from '../values/json';
import { type Change, TailEntries, TailEntry } from './tail_entries';

let rows: TailEntries;

beforeEach(() => {
  rows = new TailEntries(5);
});

const contentOf = (text: string) => new TailEntry(text, 0, null, 0).content;
const changeOf = (text: string) => contentOf(text) as Change;
const texts = (count: number) => rows.newest(count).map((row) => row.text);

test('a number keeps every digit it came with', () => {
  const { data } = changeOf('{"table":"t","action":"INSERT","data":{"id":9007199254740993,"price":1.10,"e":1E400}}');
  expect([...(data?.values() ?? [])].map((value) => jsonText(value))).toEqual(['9007199254740993', '1.10', '1E400']);
});

test('a change with all its fields', () => {
  const text =
    '{"table":"orders","action":"UPDATE","data":{"status":"paid"},"schema":"public","old":{"status":"new"},' +
    '"at":"2026-11-22T07:13:08.120931+00:00","xid":"9213","cursor":"c"}';
  expect(contentOf(text)).toEqual({
    kind: 'change',
    table: 'public.orders',
    action: 'UPDATE',
    data: new Map([['status', 'paid']]),
    old: new Map([['status', 'new']]),
    at: Date.UTC(2026, 10, 22, 7, 13, 8, 120),
    cursor: 'c',
    xid: '9213',
    count: 1,
    cut: null,
  });
});

test("the original's three fields are enough", () => {
  expect(contentOf('{"table":"t","action":"DELETE","data":null}')).toMatchObject({
    kind: 'change',
    table: 't',
    old: null,
    at: null,
    cursor: null,
  });
});

test.each(['{"hello": 1}', '[1, 2]', '12', 'not JSON', '{"table":"t","action":"VACUUM","data":{}}', '[['.repeat(9999)])(
  'what is no change is shown as it came: %.20s',
  (text) => {
    expect(contentOf(text)).toEqual({ kind: 'foreign', text });
  },
);

test('a key that comes twice does not hide the change', () => {
  const { data } = changeOf('{"table":"t","action":"INSERT","data":{"doc":{"a":1,"a":2}}}');
  expect(jsonText(data?.get('doc') ?? null)).toBe('{"a": 2}');
});

test('a column named like a part of every object is a column', () => {
  const { data } = changeOf('{"table":"t","action":"INSERT","data":{"__proto__":1,"constructor":true}}');
  expect([...(data?.keys() ?? [])]).toEqual(['__proto__', 'constructor']);
});

test('a row that the server cut says how long it is and how it begins', () => {
  const change = changeOf(
    '{"name":"public.t","action":"INSERT","at":null,"cursor":"c","cut":{"characters":99999,"beginning":"{"}}',
  );
  expect(change).toMatchObject({
    table: 'public.t',
    data: null as Columns | null,
    cut: { characters: 99999, beginning: '{' },
  });
});

test('a row is known by its head without being parsed again', () => {
  const row = new TailEntry('{"table":"t","action":"INSERT","schema":"s","at":"1970-01-01T00:00:01Z"}', 0, null, 0);
  expect(row.head).toEqual({ table: 's.t', action: 'INSERT', at: 1000 });
  expect(row.head).toBe(row.head);
  expect(new TailEntry('[]', 0, null, 0).head).toBeNull();
});

test('the newest come first, and the oldest leave', () => {
  rows.push(['a', 'b', 'c', 'd', 'e', 'f', 'g'], 7, 0);
  expect(texts(3)).toEqual(['g', 'f', 'e']);
  expect(texts(99)).toEqual(['g', 'f', 'e', 'd', 'c']);
});

test('a sample tells how many are missing since a row', () => {
  rows.push(['a'], 1, 0);
  rows.push(['b', 'c'], 10, 0);
  rows.push(['d'], 1, 0);
  expect(rows.newest(4).map((row) => rows.missed - row.missedBefore)).toEqual([0, 0, 0, 8]);
});

test('after a reconnect only what is new is added', () => {
  rows.push(['a', 'b'], 2, 0);
  rows.resume(['a', 'b', 'c', 'd'], 2, null);
  expect(texts(9)).toEqual(['d', 'c', 'b', 'a']);
  expect(rows.newest(4).map((row) => rows.missed - row.missedBefore)).toEqual([0, 0, 0, 0]);
});

test('after a long absence all recent rows are added, and the rest counts as missed', () => {
  rows.push(['a'], 1, 0);
  rows.resume(['x', 'y'], 12, null);
  expect(texts(9)).toEqual(['y', 'x', 'a']);
  expect(rows.newest(3).map((row) => rows.missed - row.missedBefore)).toEqual([0, 0, 10]);
});

test('what was there before the page came is not missed', () => {
  rows.resume(['x', 'y'], 5_000, null);
  expect(rows.newest(2).map((row) => rows.missed - row.missedBefore)).toEqual([0, 0]);
});
