import { expect, test } from 'vitest';

import { type Choices, DEFAULTS, queryOf, readChoices } from './choices';

test('an address without a query is the defaults, and the defaults have none', () => {
  expect(readChoices('')).toEqual(DEFAULTS);
  expect(queryOf(DEFAULTS)).toBe('');
});

test('everything that can be chosen comes back from the address', () => {
  const choices: Choices = {
    window: '1h',
    zoom: { from: 1000.5, to: 1060 },
    conditions: [
      { kind: 'table', table: 'public.orders', isExcluded: false },
      { kind: 'table', table: 'a&b.ü', isExcluded: true },
      { kind: 'table', table: 'public.odd name', isExcluded: false },
      { kind: 'action', action: 'INSERT' },
      { kind: 'action', action: 'TRUNCATE' },
      { kind: 'column', column: 'status', value: 'a=b&c\n', isExcluded: false },
      { kind: 'column', column: 'status', value: '', isExcluded: true },
      { kind: 'text', text: 'two words' },
    ],
    sort: 'total',
    pace: '1000',
    pinned: ['public.a', 'b'],
    row: '4d2.AY3f-_',
    zone: 'utc',
    theme: 'dark',
    isKiosk: true,
    hasKeys: false,
    alerts: [
      { kind: 'above', action: 0, perSecond: 99.5 },
      { kind: 'quiet', action: 2, table: 'public.orders', seconds: 300 },
      { kind: 'quiet', action: 0, table: null, seconds: 60 },
    ],
  };
  expect(readChoices(queryOf(choices))).toEqual(choices);
});

test('several conditions in one field of the address are several', () => {
  expect(readChoices('?t=orders+op%3Aupdate+status%3Dpaid').conditions).toEqual([
    { kind: 'table', table: 'orders', isExcluded: false },
    { kind: 'action', action: 'UPDATE' },
    { kind: 'column', column: 'status', value: 'paid', isExcluded: false },
  ]);
});

test('nonsense falls back to the defaults', () => {
  expect(
    readChoices('?w=9y&from=5&to=4&op=x&c=nothing&q=&sort=x&tz=mars&theme=pink&kiosk=2&alert=x&alert=i=0/0'),
  ).toEqual(DEFAULTS);
});
