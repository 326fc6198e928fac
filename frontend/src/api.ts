// Comes in: a way to fetch. Goes out: what the server's HTTP API says, decoded, or one sentence of what went wrong.
// Every URL is relative, because a reverse proxy may add a prefix.
import {
  type Decoded,
  decodeError,
  decodeHistory,
  decodeStatus,
  decodeTables,
  type History,
  type JournalStatus,
  type TableStatus,
} from './protocol';

type Fetch = (url: string, options?: { readonly method: 'PUT' }) => Promise<Response>;

export function fetchHistory(fetch: Fetch, seconds: number): Promise<Decoded<History>> {
  return get(fetch, `api/activity?window=${seconds}`, decodeHistory);
}

export function fetchTables(fetch: Fetch): Promise<Decoded<readonly TableStatus[]>> {
  return get(fetch, 'api/tables', decodeTables);
}

export function fetchStatus(fetch: Fetch): Promise<Decoded<JournalStatus>> {
  return get(fetch, 'api/status', decodeStatus);
}

/** Journals the table from now on; null, or why the server refuses. */
export async function watchTable(fetch: Fetch, { schema, table }: TableStatus): Promise<string | null> {
  const url = `api/tables/${encodeURIComponent(`${schema}.${table}`)}/watch`;
  const answer = await ask(() => fetch(url, { method: 'PUT' }));
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
    return { ok: false, problem: `${url}: ${answer.status}${error.ok ? `, ${error.value}` : ''}` };
  }
  const decoded = decode(answer.text);
  return decoded.ok ? decoded : { ok: false, problem: `${url}: ${decoded.problem}` };
}

/** Where there is no answer, the status is null and the text says why. */
async function ask(request: () => Promise<Response>): Promise<{ status: number | null; text: string }> {
  try {
    const response = await request();
    return { status: response.status, text: await response.text() };
  } catch (error) {
    return { status: null, text: String(error) };
  }
}
