import { expect, test } from 'vitest';

import { alertName, durationText, raisedOf } from './alerts';
import type { Alert } from '../model/choices';
import type { Counts } from '../feed/protocol';
import { finest, initialState, setConnection } from '../model/state';

const ABOVE: Alert = { kind: 'above', action: 0, perSecond: 2 };
const QUIET: Alert = { kind: 'quiet', action: 0, table: 'public.orders', seconds: 60 };

function stateWith(at: number, table: string, ...counts: Counts) {
  const state = initialState();
  setConnection(state, { state: 'open' });
  const timeline = finest(state);
  timeline.knownFrom = 0;
  timeline.advance(1000);
  timeline.merge({ at, counts: new Map([[table, counts]]), delays: null });
  return state;
}
const raised = (state: ReturnType<typeof stateWith>, ...alerts: Alert[]) => raisedOf(state, alerts, 1_000_000).length;

test('a rate above its threshold is raised, the mean of some seconds counts', () => {
  expect(raised(stateWith(999, 'public.orders', 11, 0, 0, 0), ABOVE)).toBe(1);
  expect(raised(stateWith(999, 'public.orders', 10, 0, 0, 0), ABOVE)).toBe(0);
});

test('a table that was quiet for long enough is raised, and not without data', () => {
  expect(raised(stateWith(941, 'public.orders', 1, 0, 0, 0), QUIET)).toBe(0);
  expect(raised(stateWith(940, 'public.orders', 1, 0, 0, 0), QUIET)).toBe(1);
  expect(raised(stateWith(999, 'public.items', 1, 0, 0, 0), QUIET)).toBe(1);
  const unknown = stateWith(940, 'public.orders', 1, 0, 0, 0);
  finest(unknown).spans = [{ cause: 'database', from: 980, to: 981 }];
  expect(raised(unknown, QUIET)).toBe(0);
});

test('without a connection nothing is raised', () => {
  const state = stateWith(900, 'public.orders', 1, 0, 0, 0);
  setConnection(state, { state: 'waiting', retryAt: 0, code: 1006, reason: '' });
  expect(raised(state, QUIET)).toBe(0);
});

test('alerts have names', () => {
  expect([ABOVE, QUIET].map(alertName)).toEqual(['more than 2 INSERT/s', 'no INSERT in orders for 1 min']);
  expect([90, 300, 7200].map(durationText)).toEqual(['90 s', '5 min', '2 h']);
});
