import { expect, test } from 'vitest';

import { askedOf, type Condition, conditionOf, conditionText, conditionValue, matcher } from './filter';
import { JsonNumber } from '../values/json';
import { TailEntry } from './tail_entries';

const row = (text: string) => new TailEntry(text, 0, null, 0);
const order = (data: string, more = '') =>
  row(`{"table":"orders","action":"UPDATE","data":${data},"schema":"public"${more},"at":"1970-01-01T00:01:40Z"}`);
const matches = (found: TailEntry, ...typed: string[]) =>
  matcher(
    typed.map((text) => conditionOf(text)!),
    null,
  )(found);

test('what is typed becomes a condition, and reads the same again', () => {
  const read: Record<string, Condition> = {
    'table:orders': { kind: 'table', table: 'orders', isExcluded: false },
    '-table:public.orders': { kind: 'table', table: 'public.orders', isExcluded: true },
    'op:insert': { kind: 'action', action: 'INSERT' },
    'status=paid': { kind: 'column', column: 'status', value: 'paid', isExcluded: false },
    'status!=': { kind: 'column', column: 'status', value: '', isExcluded: true },
    'two words': { kind: 'text', text: 'two words' },
    'op:vacuum': { kind: 'text', text: 'op:vacuum' },
  };
  for (const [typed, condition] of Object.entries(read)) {
    expect(conditionOf(typed)).toEqual(condition);
    expect(conditionText(condition)).toBe(typed);
  }
  expect(conditionOf('action:u')).toEqual({ kind: 'action', action: 'UPDATE' });
  expect(conditionOf('  ')).toBeNull();
});

test('a table is named with its schema, without public, or by its schema', () => {
  const found = order('{}');
  expect(['table:orders', 'table:public.orders', 'table:public.*'].map((typed) => matches(found, typed))).toEqual([
    true,
    true,
    true,
  ]);
  expect(['table:order', 'table:sales.orders', '-table:orders'].map((typed) => matches(found, typed))).toEqual([
    false,
    false,
    false,
  ]);
  expect(matches(found, 'table:orders', 'table:items')).toBe(true);
});

test('actions are joined by or, columns and texts by and', () => {
  const found = order('{"status":"paid","id":7}');
  expect(matches(found, 'op:insert', 'op:update')).toBe(true);
  expect(matches(found, 'op:insert')).toBe(false);
  expect(matches(found, 'status=paid', 'id=7', 'PAID')).toBe(true);
  expect(matches(found, 'status=paid', 'id=8')).toBe(false);
  expect(matches(found, 'absent')).toBe(false);
});

test('a value is compared exactly, and null, "null" and nothing are three things', () => {
  expect(matches(order('{"id":9007199254740993}'), 'id=9007199254740993')).toBe(true);
  expect(matches(order('{"id":9007199254740993}'), 'id=9007199254740992')).toBe(false);
  for (const [json, value] of [
    ['null', null],
    ['"null"', 'null'],
    ['""', ''],
    ['"a b"', 'a b'],
    ['true', true],
    ['1.10', new JsonNumber('1.10')],
  ] as const) {
    const typed = `a=${conditionValue(value)}`;
    const equal = ['null', '"null"', '""', '"a b"', 'true', '1.10'].filter((other) =>
      matches(order(`{"a":${other}}`), typed),
    );
    expect(equal).toEqual([json]);
  }
});

test('an update that left a value is shown, and one that has it now is excluded', () => {
  const found = order('{"status":"paid"}', ',"old":{"status":"new"}');
  expect(matches(found, 'status=new')).toBe(true);
  expect(matches(found, 'status!=new')).toBe(true);
  expect(matches(found, 'status!=paid')).toBe(false);
});

test('a span of time takes what was made in it', () => {
  const within = (from: number, to: number) => matcher([], { from, to })(order('{}'));
  expect([within(100, 101), within(99, 100), within(101, 102)]).toEqual([true, false, false]);
});

test('a foreign row has no table and no column, but a text', () => {
  expect(matches(row('["x"]'), 'x')).toBe(true);
  expect(matches(row('["x"]'), 'table:orders')).toBe(false);
  expect(matches(row('["x"]'), 'a!=1')).toBe(false);
});

test('the server is asked for what it understands alike, and never for less than fits', () => {
  const asked = (...typed: string[]) => askedOf(typed.map((text) => conditionOf(text)!));
  expect(
    asked('table:orders', '-table:items', 'op:insert', 'a=x.1', 'status!=new', 'c=null', 'd=two words', 'text'),
  ).toEqual({
    table: ['orders'],
    action: ['INSERT'],
    filter: ['"a"=eq.x.1'],
  });
  expect(asked('-table:items', 'status!=new', 'text')).toBeNull();
});
