import { expect, test } from 'vitest';

import { fetchHistory, fetchTables } from './api';

const answer = (status: number, text: string) => () => Promise.resolve(new Response(text, { status }));

test('URLs are relative, for the sake of a proxy with a prefix', async () => {
  const asked: string[] = [];
  const fetch = (url: string) => {
    asked.push(url);
    return answer(200, '{"tables": []}')();
  };
  await fetchTables(fetch);
  await fetchHistory(fetch, 900);
  expect(asked).toEqual(['api/tables', 'api/activity?window=900']);
});

test("the server's own words are in the problem", async () => {
  const fetch = answer(503, '{"error": {"code": "no_database", "message": "the database is away"}}');
  expect(await fetchTables(fetch)).toEqual({ ok: false, problem: 'api/tables: 503, the database is away' });
});

test("a proxy's page instead of an answer is a problem with its status", async () => {
  expect(await fetchTables(answer(502, '<html>'))).toEqual({ ok: false, problem: 'api/tables: 502' });
});

test('an answer of another shape, and no answer, are problems', async () => {
  expect(await fetchTables(answer(200, '{}'))).toEqual({ ok: false, problem: 'api/tables: "tables" is not a list' });
  const refused = await fetchTables(() => Promise.reject(new TypeError('Failed to fetch')));
  expect(refused).toEqual({ ok: false, problem: 'api/tables: TypeError: Failed to fetch' });
});
