import { expect, test } from 'vitest';

import type { Change } from './options';
import { RowSet, UnsafeKey } from './row_set';

interface Item {
  id: number;
  name?: string;
}

const insert = (data: Item): Change<Item> => ({ table: 't', action: 'INSERT', data });
const update = (old: Partial<Item>, data: Item, filter?: 'enter' | 'leave'): Change<Item> => ({
  table: 't', action: 'UPDATE', data, old, ...(filter && { filter }),
});
const remove = (data: Item): Change<Item> => ({ table: 't', action: 'DELETE', data });

const setOf = (...rows: Item[]) => {
  const set = new RowSet<Item>(['id']);
  for (const row of rows) set.add(row);
  return set;
};
const after = (set: RowSet<Item>, ...changes: Change<Item>[]) => {
  for (const change of changes) expect(set.apply(change)).toBe(true);
  return set.list();
};
const sorted = (rows: Item[]) => rows.toSorted((one, other) => one.id - other.id);

const A = { id: 1, name: 'A' };
const B = { id: 2, name: 'B' };
const C = { id: 3, name: 'C' };

test('rows come, change where they are, and go', () => {
  expect(after(setOf(A, B), insert(C))).toEqual([A, B, C]);
  expect(after(setOf(A, B, C), update({ name: 'B' }, { id: 2, name: 'b' }))).toEqual([A, { id: 2, name: 'b' }, C]);
  expect(after(setOf(A, B, C), remove(B))).toEqual([A, C]);
  expect(after(setOf(A, B), { table: 't', action: 'TRUNCATE', data: null }, insert(C))).toEqual([C]);
});

test('an UPDATE moves a row into the filter, and out of it', () => {
  expect(after(setOf(A), update({ name: 'x' }, B, 'enter'))).toEqual([A, B]);
  expect(after(setOf(A, B), update({ name: 'B' }, { id: 2, name: 'x' }, 'leave'))).toEqual([A]);
  expect(after(setOf(A, B), update({ id: 2, name: 'B' }, { id: 9, name: 'x' }, 'leave'))).toEqual([A]);
});

test('a key may change', () => {
  expect(after(setOf(A, B), update({ id: 1 }, { id: 7, name: 'A' }))).toEqual([B, { id: 7, name: 'A' }]);
});

test('keys may be moved along, or swapped, by one statement', () => {
  const moved = [update({ id: 1 }, { id: 2, name: 'A' }), update({ id: 2 }, { id: 3, name: 'B' }), update({ id: 3 }, { id: 4, name: 'C' })];
  const expected = [{ id: 2, name: 'A' }, { id: 3, name: 'B' }, { id: 4, name: 'C' }];
  expect(sorted(after(setOf(A, B, C), ...moved))).toEqual(expected);
  expect(sorted(after(setOf(A, B, C), ...moved.toReversed()))).toEqual(expected);
  const swapped = [update({ id: 1 }, { id: 2, name: 'A' }), update({ id: 2 }, { id: 1, name: 'B' })];
  expect(sorted(after(setOf(A, B), ...swapped))).toEqual([{ id: 1, name: 'B' }, { id: 2, name: 'A' }]);
  const equal = { id: 2, name: 'A' };
  expect(sorted(after(setOf(A, equal), update({ id: 1 }, equal), update({ id: 2 }, A)))).toEqual([A, equal]);
});

test('of two rows that have one key for a moment, the one that is meant changes and goes', () => {
  const twin = { id: 2, name: 'twin' };
  expect(after(setOf(B), insert(twin), remove(twin))).toEqual([B]);
  expect(after(setOf(B), insert(twin), remove(B))).toEqual([twin]);
  expect(after(setOf(B), insert(twin), update({ name: 'twin' }, { id: 2, name: 'x' }), remove(B))).toEqual([{ id: 2, name: 'x' }]);
});

test('a statement above row_limit does not say which rows it changed', () => {
  expect(setOf(A).apply({ table: 't', action: 'UPDATE', data: null, count: 5000 })).toBe(false);
});

test('a row that is not there is put there by its UPDATE, and not missed by its DELETE', () => {
  expect(after(setOf(A), update({ name: 'b' }, B), remove(C))).toEqual([A, B]);
});

test('a key is its value, and a list of values if it has several columns or is no simple value', () => {
  expect(setOf().keyOf(A)).toBe(1);
  const set = new RowSet<{ a: unknown; b: unknown }>(['a', 'b']);
  expect(set.keyOf({ a: 7, b: 'x' })).toBe('[7,"x"]');
  expect(set.keyOf({ a: 9007199254740993n, b: null })).toBe('["9007199254740993",null]');
  expect(new RowSet<{ id: unknown }>(['id']).keyOf({ id: { value: '12' } })).toBe('[{"value":"12"}]');
});

test('a key whose digits were lost is refused, and so is one that is missing', () => {
  expect(() => setOf(JSON.parse('{"id": 9007199254740993}') as Item)).toThrow(UnsafeKey);
  expect(() => setOf({ name: 'A' } as Item)).toThrow('the rows have no column id');
  expect(setOf({ id: 1.5 }).list()).toEqual([{ id: 1.5 }]);
});

test('random statements over random rows leave what PostgreSQL has', () => {
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 48271) % 2147483647;
    return seed % below;
  };
  for (let round = 0; round < 300; round += 1) {
    const table = new Map<number, string>(); // id, name
    const set = setOf();
    for (let statement = 0; statement < 30; statement += 1) {
      const ids = [...table.keys()];
      if (random(3) === 0 || ids.length === 0) {
        const id = random(8);
        if (table.has(id)) continue;
        table.set(id, `${random(2)}`);
        set.apply(insert({ id, name: table.get(id)! }));
      } else if (random(3) === 0) {
        const id = ids[random(ids.length)]!;
        set.apply(remove({ id, name: table.get(id)! }));
        table.delete(id);
      } else {
        // All ids plus one, or turned: with the rows in any order, as a deferred constraint allows it.
        const by = 1 + random(3);
        const next = ids.map((id) => (random(2) ? id + by : id));
        if (new Set(next).size !== next.length) continue;
        const moves = ids.map((id, place) => [id, next[place]!, table.get(id)!] as const).filter(([from, to]) => from !== to);
        moves.sort(() => random(3) - 1);
        for (const [from, to, name] of moves) set.apply(update({ id: from }, { id: to, name }));
        for (const [from] of moves) table.delete(from);
        for (const [, to, name] of moves) table.set(to, name);
      }
      expect(sorted(set.list())).toEqual(sorted([...table].map(([id, name]) => ({ id, name }))));
    }
  }
});
