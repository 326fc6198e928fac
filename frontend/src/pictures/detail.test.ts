import { expect, test } from 'vitest';

import { detailOf } from './detail';

const columns = (text: string) =>
  detailOf(text).columns.map(({ name, before, after, isChanged }) => [name, before, after, isChanged]);

test('an update has both values of each column, and says which differ', () => {
  const text = '{"table":"t","action":"UPDATE","data":{"id":"a","status":"paid","note":null},"old":{"status":"new"}}';
  expect(columns(text)).toEqual([
    ['id', 'a', 'a', false],
    ['status', 'new', 'paid', true],
    ['note', null, null, false],
  ]);
});

test('an insert has only what came, a delete only what went', () => {
  expect(columns('{"table":"t","action":"INSERT","data":{"a":""}}')).toEqual([['a', undefined, '', true]]);
  expect(columns('{"table":"t","action":"DELETE","data":{"a":null}}')).toEqual([['a', null, undefined, true]]);
});

test('an update whose trigger tells no old values says so', () => {
  const detail = detailOf('{"table":"t","action":"UPDATE","data":{"a":true}}');
  expect(detail.lacksOld).toBe(true);
  expect(detail.columns).toEqual([{ name: 'a', before: undefined, after: true, isChanged: false }]);
});
