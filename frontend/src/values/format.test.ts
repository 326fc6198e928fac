import { expect, test } from 'vitest';

import {
  agoText,
  bytesText,
  clockText,
  clockTextWithMs,
  countText,
  delayText,
  kindOf,
  namesOf,
  quotedName,
  rateText,
  sentenceText,
  shareText,
  shortened,
  sinceText,
  tableName,
  timeText,
  valueText,
  watchSql,
} from './format';
import { JsonNumber } from './json';

const MORNING = new Date(2026, 10, 22, 9, 4, 7, 20).getTime();

test('counts are grouped', () => {
  expect([0, 999, 12480].map(countText)).toEqual(['0', '999', '12,480']);
});

test('a rate has a decimal only while it is small, and is never rounded to nothing', () => {
  expect([null, 0, 0.04, 0.2, 3.14, 9.94, 9.96, 1248.4].map(rateText)).toEqual([
    '–',
    '0',
    '<0.1',
    '0.2',
    '3.1',
    '9.9',
    '10',
    '1,248',
  ]);
});

test('times of day', () => {
  expect(clockText(MORNING, 'local')).toBe('09:04:07');
  expect(clockTextWithMs(MORNING, 'local')).toBe('09:04:07.020');
});

test('a time of another day has its date', () => {
  expect(sinceText(MORNING, MORNING + 3_600_000, 'local')).toBe('09:04:07');
  expect(sinceText(MORNING, MORNING + 86_400_000, 'local')).toBe('2026-11-22 09:04:07');
});

test('how long ago', () => {
  expect([0, 1.9, 12.7, 60, 3599, 7200].map(agoText)).toEqual([
    'now',
    'now',
    '12 s ago',
    '1 min ago',
    '59 min ago',
    '2 h ago',
  ]);
});

test('times in UTC say so', () => {
  expect(timeText(Date.UTC(2026, 0, 2, 3, 4, 5, 6), 'utc')).toBe('2026-01-02 03:04:05.006 UTC');
  expect(timeText(MORNING, 'local')).toBe('2026-11-22 09:04:07.020');
});

test('values read as JSON, numbers with their digits, bytes with their length', () => {
  expect(valueText('new', 20)).toBe('"new"');
  expect(valueText(null, 20)).toBe('null');
  expect(valueText('', 20)).toBe('""');
  expect(valueText(new JsonNumber('1.10'), 20)).toBe('1.10');
  expect(valueText([new JsonNumber('9007199254740993'), new Map([['a', true]])], 40)).toBe(
    '[9007199254740993, {"a": true}]',
  );
  expect(valueText(String.raw`\xdeadbeef`, 8)).toBe(String.raw`\xdeadb… (4 bytes)`);
  expect(valueText(String.raw`\x00`, 8)).toBe(String.raw`\x00 (1 byte)`);
});

test('kinds of values are distinguished', () => {
  const values = [null, '', 'null', new JsonNumber('1'), '1', true, [], new Map(), String.raw`\x`, String.raw`\x0`];
  expect(values.map(kindOf)).toEqual([
    'null',
    'text',
    'text',
    'number',
    'text',
    'boolean',
    'json',
    'json',
    'bytes',
    'text',
  ]);
});

test('delays have two digits and a unit that fits', () => {
  expect([null, 0.05, 0.44, 9.4, 9.6, 38.4, 994, 996, 12_345, 120_000, 7_200_000].map(delayText)).toEqual([
    '–',
    '0.1 ms',
    '0.4 ms',
    '9.4 ms',
    '9.6 ms',
    '38 ms',
    '990 ms',
    '1.0 s',
    '12 s',
    '2 min',
    '2 h',
  ]);
});

test('a share is all or nothing only where it is so', () => {
  expect(
    [
      [0, 0],
      [5, 5],
      [9_999, 10_000],
      [200, 1_250],
      [3, 100],
      [1, 1_000_000],
      [0, 5],
    ].map(([part, of]) => shareText(part!, of!)),
  ).toEqual(['100 %', '100 %', '>99 %', '16 %', '3.0 %', '<0.1 %', '0.0 %']);
});

test('what is long is shortened, but no character is halved', () => {
  expect(shortened('abcdef', 6)).toBe('abcdef');
  expect(shortened('abcdefg', 6)).toBe('abcde…');
  expect(shortened('abcd😀efg', 6)).toBe('abcd…');
});

test('names are quoted as SQL wants them', () => {
  expect(quotedName('public', 'user "x"')).toBe('"public"."user ""x"""');
});

test("a table's name is quoted where it could be misread, as the server writes it", () => {
  for (const [schema, table, name] of [
    ['public', 'orders', 'public.orders'],
    ['Odd Name', 't', 'Odd Name.t'],
    ['sales', 'eu.orders', 'sales."eu.orders"'],
    ['sales.eu', 'orders', '"sales.eu".orders'],
    ['public', 'Odd "Name', 'public."Odd ""Name"'],
  ] as const) {
    expect(tableName(schema, table)).toBe(name);
    expect(namesOf(name)).toEqual([schema, table]);
  }
});

test('clauses become sentences', () => {
  expect(['read the tables', 'Is it running?', 'ends.', ''].map(sentenceText)).toEqual([
    'Read the tables.',
    'Is it running?',
    'Ends.',
    '',
  ]);
});

test('a table is watched by its plain name, an odd one in quotes', () => {
  expect(watchSql('public', 'order')).toBe("SELECT changefeed.watch('public.order');");
  expect(watchSql('public', `O'Neill "x"`)).toBe(`SELECT changefeed.watch('public."O''Neill ""x"""');`);
});

test('sizes as PostgreSQL says them', () => {
  expect([0, 1023, 1024, 221_184, 1_610_612_736, 2 ** 30, 2 ** 52].map(bytesText)).toEqual([
    '0 bytes',
    '1023 bytes',
    '1 kB',
    '216 kB',
    '1.5 GB',
    '1 GB',
    '4096 TB',
  ]);
});
