import { expect, test } from 'vitest';

import { fetchChange, fetchChanges, fetchHistory, fetchPlace, fetchStatus, fetchTables, setWatched } from './api';

const answer = (status: number, text: string) => () => Promise.resolve(new Response(text, { status }));

test('URLs are relative, for the sake of a proxy with a prefix', async () => {
  const asked: string[] = [];
  const fetch = (url: string) => {
    asked.push(url);
    return answer(200, '{"tables": []}')();
  };
  await fetchTables(fetch);
  await fetchHistory(fetch, 60);
  await fetchChange(fetch, '1.a-_');
  await fetchPlace(fetch, 1.5);
  await fetchChanges(fetch, '1.a-_');
  await fetchStatus(fetch);
  expect(asked).toEqual([
    'api/tables',
    'api/activity?step=60',
    'api/change?cursor=1.a-_',
    'api/place?at=1.5',
    'api/changes?limit=2000&since=1.a-_',
    'api/status',
  ]);
});

test("the server's own words are in the problem", async () => {
  const fetch = answer(503, '{"error": {"code": "no_database", "message": "the database is away"}}');
  expect(await fetchTables(fetch)).toEqual({ ok: false, problem: 'the database is away' });
});

test("a proxy's page instead of an answer is a problem with its status", async () => {
  expect(await fetchTables(answer(502, '<html>'))).toEqual({ ok: false, problem: 'api/tables: 502' });
});

test('an answer of another shape, and no answer, are problems', async () => {
  expect(await fetchTables(answer(200, '{}'))).toEqual({ ok: false, problem: 'api/tables: "tables" is not a list' });
  const refused = await fetchTables(() => Promise.reject(new TypeError('Failed to fetch')));
  expect(refused).toEqual({ ok: false, problem: 'api/tables: TypeError: Failed to fetch' });
});

test('a table is watched by its name, whatever is in it', async () => {
  const asked: unknown[] = [];
  const watch = (table: string, respond: () => Promise<Response>) =>
    setWatched(
      (...request: unknown[]) => {
        asked.push(request);
        return respond();
      },
      { schema: 'public', table, watchedBy: null, estimatedRows: 0, canChange: true },
      true,
    );
  expect(await watch('a/b "c"?', answer(200, '{"is_watched": true}'))).toBeNull();
  expect(asked).toEqual([['api/tables/public.%22a%2Fb%20%22%22c%22%22%3F%22/watch', { method: 'PUT' }]]);
  expect(await watch('a', answer(409, '{"error": {"code": "c", "message": "it is locked"}}'))).toBe('it is locked');
  expect(await watch('a', answer(502, '<html>'))).toBe('the server answered with 502');
  expect(await watch('a', () => Promise.reject(new TypeError('Failed to fetch')))).toBe('TypeError: Failed to fetch');
});
