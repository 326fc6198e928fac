import { beforeEach, expect, test } from 'vitest';

import { HeldRows } from './paused_rows';
import { TailEntries } from './tail_entries';

let rows: TailEntries;
let list: HeldRows;
const push = (...texts: string[]) => rows.push(texts, texts.length, 0);
const shown = () => list.shown.map((row) => row.text).join('');

beforeEach(() => {
  rows = new TailEntries(5);
  list = new HeldRows(rows);
  push('a', 'b');
  list.follow();
});

test('it follows what comes, within the bound of the ring', () => {
  expect(shown()).toBe('ba');
  push('c', 'd', 'e', 'f');
  list.follow();
  expect(shown()).toBe('fedcb');
});

test('held, nothing moves and nothing leaves; it says what came, what was not sent and what fell out', () => {
  list.hold('paused');
  rows.push(['c', 'd', 'e', 'f', 'g', 'h'], 10, 0);
  list.follow();
  expect(shown()).toBe('ba');
  expect(list.held).toEqual({ why: 'paused', waiting: 5, notSent: 4, fellOut: 1 });
  push('i');
  expect(list.held).toEqual({ why: 'paused', waiting: 6, notSent: 4, fellOut: 2 });
  list.resume();
  expect(list.held).toBeNull();
  expect(shown()).toBe('ihgfe');
});

test('the first of several reasons is named, and the last one that goes lets it run', () => {
  list.hold('scrolled');
  list.hold('row selected');
  list.hold('paused');
  expect(list.held?.why).toBe('paused');
  list.release('paused');
  expect(list.held?.why).toBe('row selected');
  push('c');
  list.release('scrolled');
  expect(shown()).toBe('ba');
  list.release('row selected');
  expect(shown()).toBe('cba');
  list.release('row selected');
  expect(list.held).toBeNull();
});

test('a filter works at once on what is shown, held or not, and counts what waits', () => {
  list.filter((row) => row.text > 'a');
  expect(shown()).toBe('b');
  push('a', 'c');
  list.follow();
  expect(shown()).toBe('cb');
  list.hold('paused');
  push('a', 'd');
  expect(list.held?.waiting).toBe(1);
  list.filter(() => true);
  expect(shown()).toBe('caba');
  expect(list.held?.waiting).toBe(2);
});

test('without a new match the list is the same one', () => {
  list.filter((row) => row.text === 'a');
  const before = list.shown;
  push('b');
  list.follow();
  expect(list.shown).toBe(before);
});
