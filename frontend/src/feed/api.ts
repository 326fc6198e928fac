// Comes in: a way to fetch. Goes out: the HTTP API's answer, decoded, or one sentence of what went wrong.
// Every URL is relative, because a reverse proxy may add a prefix.
import { tableName } from '../values/format';
import {
  type ChangesPage,
  decodeChanges,
  type Decoded,
  decodeError,
  decodeHistory,
  decodePlace,
  decodeSession,
  decodeStatus,
  decodeTables,
  type History,
  type JournalStatus,
  type Session,
  type TableStatus,
} from './protocol';

export type Fetch = (url: string, options?: { readonly method: 'PUT' | 'DELETE' }) => Promise<Response>;

/** Everything that the server keeps in buckets of this many seconds. */
export function fetchHistory(fetch: Fetch, stepSeconds: number): Promise<Decoded<History>> {
  return get(fetch, `api/activity?step=${stepSeconds}`, decodeHistory);
}

export function fetchTables(fetch: Fetch): Promise<Decoded<readonly TableStatus[]>> {
  return get(fetch, 'api/tables', decodeTables);
}

export function fetchStatus(fetch: Fetch): Promise<Decoded<JournalStatus>> {
  return get(fetch, 'api/status', decodeStatus);
}

export function fetchSession(fetch: Fetch): Promise<Decoded<Session>> {
  return get(fetch, 'api/session', decodeSession);
}

/** The text of the one change that has this cursor. */
export function fetchChange(fetch: Fetch, cursor: string): Promise<Decoded<string>> {
  return get(fetch, `api/change?cursor=${encodeURIComponent(cursor)}`, (text) => ({ ok: true, value: text }));
}

/** The cursor before everything the journal has since then. `at`: epoch seconds. */
export function fetchPlace(fetch: Fetch, at: number): Promise<Decoded<string>> {
  return get(fetch, `api/place?at=${at}`, decodePlace);
}

export function fetchChanges(fetch: Fetch, cursor: string): Promise<Decoded<ChangesPage>> {
  return get(fetch, `api/changes?limit=2000&since=${encodeURIComponent(cursor)}`, decodeChanges);
}

/** Journals the table from now on, or no longer; null, or why the server refuses. */
export async function setWatched(
  fetch: Fetch,
  { schema, table }: TableStatus,
  isWatched: boolean,
): Promise<string | null> {
  const url = `api/tables/${encodeURIComponent(tableName(schema, table))}/watch`;
  const answer = await ask(() => fetch(url, { method: isWatched ? 'PUT' : 'DELETE' }));
  if (answer.status === 200) return null;
  const error = decodeError(answer.text);
  if (error.ok) return error.value;
  return answer.status === null ? answer.text : `the server answered with ${answer.status}`;
}

async function get<T>(fetch: Fetch, url: string, decode: (text: string) => Decoded<T>): Promise<Decoded<T>> {
  const answer = await ask(() => fetch(url));
  if (answer.status === null) return { ok: false, problem: `${url}: ${answer.text}` };
  if (answer.status !== 200) {
    const error = decodeError(answer.text);
    return { ok: false, problem: error.ok ? error.value : `${url}: ${answer.status}` };
  }
  const decoded = decode(answer.text);
  return decoded.ok ? decoded : { ok: false, problem: `${url}: ${decoded.problem}` };
}

/** Without an answer, the status is null and the text says why. */
async function ask(request: () => Promise<Response>): Promise<{ status: number | null; text: string }> {
  try {
    const response = await request();
    return { status: response.status, text: await response.text() };
  } catch (error) {
    return { status: null, text: String(error) };
  }
}
