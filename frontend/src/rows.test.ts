import { beforeEach, expect, test } from 'vitest';

import { valueText } from './format';
import { type Change, Row, ROW_LIMIT_CHARACTERS, Rows } from './rows';

let rows: Rows;

beforeEach(() => {
  rows = new Rows(5);
});

const contentOf = (text: string) => new Row(text, null, 0).content;
const changeOf = (text: string) => contentOf(text) as Change;
const texts = (count: number) =>
  rows.newest(count).map((row) => (row.content.kind === 'foreign' ? row.content.text : row.content.table));

test('a number keeps every digit it came with', () => {
  const { data } = changeOf('{"table":"t","action":"INSERT","data":{"id":9007199254740993,"price":1.10,"e":1E400}}');
  expect(Object.values(data ?? {}).map((value) => valueText(value, 99))).toEqual(['9007199254740993', '1.10', '1E400']);
});

test('a change with all its fields', () => {
  const text =
    '{"table":"orders","action":"UPDATE","data":{"status":"paid"},"schema":"public","old":{"status":"new"},' +
    '"at":"2026-11-22T07:13:08.120931+00:00","xid":"9213","cursor":"c"}';
  expect(contentOf(text)).toEqual({
    kind: 'change',
    table: 'orders',
    action: 'UPDATE',
    schema: 'public',
    data: { status: 'paid' },
    old: { status: 'new' },
    at: Date.UTC(2026, 10, 22, 7, 13, 8, 120),
  });
});

test("the original's three fields are enough", () => {
  expect(contentOf('{"table":"t","action":"DELETE","data":null}')).toMatchObject({
    kind: 'change',
    schema: null,
    old: null,
    at: null,
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
  expect(valueText(data?.['doc'] ?? null, 99)).toBe('{"a":2}');
});

test('a column named like a part of every object is a column', () => {
  const { data } = changeOf('{"table":"t","action":"INSERT","data":{"__proto__":1,"isLosslessNumber":true}}');
  expect(Object.keys(data ?? {})).toEqual(['__proto__', 'isLosslessNumber']);
});

test('of a text too long to parse in passing the beginning is kept', () => {
  const content = contentOf(`{"table":"t","action":"INSERT","data":{"a":"${'x'.repeat(ROW_LIMIT_CHARACTERS)}"}}`);
  expect(content).toMatchObject({ kind: 'foreign', text: expect.stringMatching(/^\{"table":"t"/) });
  expect(content.kind === 'foreign' && content.text.length).toBeLessThan(1000);
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
  expect(rows.newest(4).map((row) => rows.missedSince(row))).toEqual([0, 8, 8, 8]);
});

test('rows that were all missed are something to draw, too', () => {
  const before = rows.revision;
  rows.push([], 3, 0);
  expect(rows.revision).not.toBe(before);
});

test('after a reconnect only what is new is added', () => {
  rows.push(['a', 'b'], 2, 0);
  rows.resume(['a', 'b', 'c', 'd'], 2);
  expect(texts(9)).toEqual(['d', 'c', 'b', 'a']);
  expect(rows.newest(4).map((row) => rows.missedSince(row))).toEqual([0, 0, 0, 0]);
});

test('after a long absence all recent rows are added, and the rest counts as missed', () => {
  rows.push(['a'], 1, 0);
  rows.resume(['x', 'y'], 12);
  expect(texts(9)).toEqual(['y', 'x', 'a']);
  expect(rows.newest(3).map((row) => rows.missedSince(row))).toEqual([10, 10, 10]);
});

test('what was there before the page came is not missed', () => {
  rows.resume(['x', 'y'], 5_000);
  expect(rows.newest(2).map((row) => rows.missedSince(row))).toEqual([0, 0]);
});
