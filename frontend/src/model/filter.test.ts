import { expect, test } from 'vitest';

import { askedOf, type Condition, conditionsOf, conditionText, conditionValue, matcher, troubleOf } from './filter';
import { JsonNumber } from '../values/json';
import { TailEntry } from './tail_entries';

const row = (text: string) => new TailEntry(text, 0, null, 0);
const order = (data: string, more = '') =>
  row(`{"table":"orders","action":"UPDATE","data":${data},"schema":"public"${more},"at":"1970-01-01T00:01:40Z"}`);
const matches = (found: TailEntry, ...typed: string[]) =>
  matcher(typed.flatMap(conditionsOf), null)(found);

test('what is typed becomes a condition, and reads the same again', () => {
  const read: Record<string, Condition> = {
    'table:orders': { kind: 'table', table: 'orders', isExcluded: false },
    '-table:public.orders': { kind: 'table', table: 'public.orders', isExcluded: true },
    'op:insert': { kind: 'action', action: 'INSERT' },
    'status=paid': { kind: 'column', column: 'status', value: 'paid', isExcluded: false },
    'status!=': { kind: 'column', column: 'status', value: '', isExcluded: true },
    '"two words"': { kind: 'text', text: 'two words' },
    'status="in progress"': { kind: 'column', column: 'status', value: 'in progress', isExcluded: false },
    'status=""': { kind: 'column', column: 'status', value: '""', isExcluded: false },
    'status="null"': { kind: 'column', column: 'status', value: '"null"', isExcluded: false },
    '"my column"=1': { kind: 'column', column: 'my column', value: '1', isExcluded: false },
    'table:"sales.odd name"': { kind: 'table', table: 'sales.odd name', isExcluded: false },
    '5"': { kind: 'text', text: '5"' },
    '/api/orders': { kind: 'text', text: '/api/orders' },
    'op:vacuum': { kind: 'text', text: 'op:vacuum' },
  };
  for (const [typed, condition] of Object.entries(read)) {
    expect(conditionsOf(typed)).toEqual([condition]);
    expect(conditionText(condition)).toBe(typed);
  }
  expect(conditionsOf('action:u')).toEqual([{ kind: 'action', action: 'UPDATE' }]);
  expect(conditionsOf('  ')).toEqual([]);
});

test('blanks separate conditions, except within double quotes', () => {
  const typed = '  table:orders  op:insert status="in progress"\t-table:"sales.odd name" text 5" wide ';
  expect(conditionsOf(typed).map(conditionText)).toEqual([
    'table:orders',
    'op:insert',
    'status="in progress"',
    '-table:"sales.odd name"',
    'text',
    '5"',
    'wide',
  ]);
  const escaped = String.raw`a="say \"y\" z"`;
  expect(conditionsOf(escaped)).toEqual([{ kind: 'column', column: 'a', value: 'say "y" z', isExcluded: false }]);
  expect(conditionsOf(escaped).map(conditionText)).toEqual([escaped]);
});

test('a condition that nothing can match is known', () => {
  const trouble = (typed: string, tables: readonly string[] | null = ['public.orders', 'sales.bills']) =>
    conditionsOf(typed).map((condition) => troubleOf(condition, tables));
  expect(trouble('table:orders table:sales.* -table:sales.bills op:insert a=1 text')).toEqual(Array(6).fill(null));
  expect(trouble('table:ordres -table:ordres')).toEqual(Array(2).fill('no table has this name'));
  expect(trouble('table:ordres', null)).toEqual([null]);
  expect(trouble('op:vacuum')).toEqual(['an action is insert, update, delete or truncate']);
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
    const typed = conditionText({ kind: 'column', column: 'a', value: conditionValue(value), isExcluded: false });
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
  const asked = (...typed: string[]) => askedOf(typed.flatMap(conditionsOf));
  expect(
    asked('table:orders', '-table:items', 'op:insert', 'a=x.1', 'status!=new', 'c=null', 'd="two words"', 'text'),
  ).toEqual({
    table: ['orders'],
    action: ['INSERT'],
    filter: ['"a"=eq.x.1'],
  });
  expect(asked('-table:items', 'status!=new', 'text')).toBeNull();
});
