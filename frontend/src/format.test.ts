import { LosslessNumber } from 'lossless-json';
import { expect, test } from 'vitest';

import {
  agoText,
  bytesText,
  clockText,
  clockTextWithMs,
  countText,
  quotedName,
  rateText,
  sentenceText,
  shortened,
  sinceText,
  valueText,
  watchSql,
} from './format';

const MORNING = new Date(2026, 10, 22, 9, 4, 7, 20).getTime();

test('counts are grouped', () => {
  expect([0, 999, 12480].map(countText)).toEqual(['0', '999', '12,480']);
});

test('a rate has a decimal only while it is small, and is never rounded to nothing', () => {
  expect([null, 0, 0.04, 0.2, 3.14, 9.94, 9.96, 1248.4].map(rateText)).toEqual([
    '–', '0', '<0.1', '0.2', '3.1', '9.9', '10', '1,248',
  ]);
});

test('times of day', () => {
  expect(clockText(MORNING)).toBe('09:04:07');
  expect(clockTextWithMs(MORNING)).toBe('09:04:07.020');
});

test('a time of another day has its date', () => {
  expect(sinceText(MORNING, MORNING + 3_600_000)).toBe('09:04:07');
  expect(sinceText(MORNING, MORNING + 86_400_000)).toBe('2026-11-22 09:04:07');
});

test('how long ago', () => {
  expect([0, 1.9, 12.7, 60, 3599, 7200].map(agoText)).toEqual([
    'now', 'now', '12 s ago', '1 min ago', '59 min ago', '2 h ago',
  ]);
});

test('values read as JSON, numbers with their digits', () => {
  expect(valueText('new', 20)).toBe('"new"');
  expect(valueText(null, 20)).toBe('null');
  expect(valueText(new LosslessNumber('1.10'), 20)).toBe('1.10');
  expect(valueText([new LosslessNumber('9007199254740993'), { a: true }], 40)).toBe('[9007199254740993,{"a":true}]');
});

test('what is long is shortened, but no character is halved', () => {
  expect(shortened('abcdef', 6)).toBe('abcdef');
  expect(shortened('abcdefg', 6)).toBe('abcde…');
  expect(shortened('abcd😀efg', 6)).toBe('abcd…');
});

test('names are quoted as SQL wants them', () => {
  expect(quotedName('public', 'user "x"')).toBe('"public"."user ""x"""');
});

test('clauses become sentences', () => {
  expect(['read the tables', 'Is it running?', 'ends.', ''].map(sentenceText)).toEqual([
    'Read the tables.', 'Is it running?', 'Ends.', '',
  ]);
});

test('a table is watched by its plain name, an odd one in quotes', () => {
  expect(watchSql('public', 'order')).toBe("SELECT changefeed.watch('public.order');");
  expect(watchSql('public', `O'Neill "x"`)).toBe(`SELECT changefeed.watch('public."O''Neill ""x"""');`);
});

test('sizes as PostgreSQL says them', () => {
  expect([0, 1023, 1024, 221_184, 1_610_612_736, 2 ** 30, 2 ** 52].map(bytesText)).toEqual([
    '0 bytes', '1023 bytes', '1 kB', '216 kB', '1.5 GB', '1 GB', '4096 TB',
  ]);
});
