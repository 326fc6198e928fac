// Comes in: a way to fetch. Goes out: what the server's HTTP API says, decoded, or one sentence of what went wrong.
// Every URL is relative, because a reverse proxy may add a prefix.
import { type Decoded, decodeError, decodeHistory, decodeTables, type History, type TableStatus } from './protocol';

type Fetch = (url: string) => Promise<Response>;

export function fetchHistory(fetch: Fetch, seconds: number): Promise<Decoded<History>> {
  return get(fetch, `api/activity?window=${seconds}`, decodeHistory);
}

export function fetchTables(fetch: Fetch): Promise<Decoded<readonly TableStatus[]>> {
  return get(fetch, 'api/tables', decodeTables);
}

async function get<T>(fetch: Fetch, url: string, decode: (text: string) => Decoded<T>): Promise<Decoded<T>> {
  let response: Response;
  let text: string;
  try {
    response = await fetch(url);
    text = await response.text();
  } catch (error) {
    return { ok: false, problem: `${url}: ${String(error)}` };
  }
  if (!response.ok) {
    const error = decodeError(text);
    return { ok: false, problem: `${url}: ${response.status}${error.ok ? `, ${error.value}` : ''}` };
  }
  const decoded = decode(text);
  return decoded.ok ? decoded : { ok: false, problem: `${url}: ${decoded.problem}` };
}
