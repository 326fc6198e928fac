// Comes in: the address of a WebSocket that did not open. Goes out: what the server answers to an HTTP request there, since
// a page is not told why its handshake was refused. Knows no feed.

/** What is used of fetch. */
export type Fetch = (url: string, options: ProbeOptions) => Promise<ProbeResponse>;

interface ProbeOptions {
  readonly redirect: 'manual';
  readonly cache: 'no-store';
  readonly signal: AbortSignal;
}

interface ProbeResponse {
  /** 0 for a redirect, in a page. */
  readonly status: number;
  json(): Promise<any>;
}

export interface Answer {
  readonly code: string;
  readonly message: string;
  /** Whether each further attempt would be refused as well. */
  readonly isLasting: boolean;
}

/** What our server answers where a WebSocket would open, and what others do (RFC 9110, 15.5.22). */
const NOT_A_WEBSOCKET = 'not_a_websocket';
const UPGRADE_REQUIRED = 426;
/** 4xx, but not the caller's mistake: later the same request may be accepted. */
const PASSING_STATUSES = [408, 425, 429];

/** Null without an answer, which includes one that a page of another origin may not read. */
export async function probe(socket: URL, fetch: Fetch, signal: AbortSignal): Promise<Answer | null> {
  const address = new URL(socket);
  address.protocol = address.protocol.replace('ws', 'http');
  try {
    return await read(await fetch(address.href, { redirect: 'manual', cache: 'no-store', signal }), address);
  } catch {
    return null;
  }
}

async function read(response: ProbeResponse, address: URL): Promise<Answer> {
  const { status } = response;
  if (status < 400) {
    const answer = status ? `the status ${status}` : 'a redirect';
    const message = `there is no feed at ${address.origin}${address.pathname}, which answers with ${answer}: write http://HOST:PORT, or ws://HOST:PORT/BASE_PATH/ws`;
    return { code: 'not_a_feed', message, isLasting: true };
  }
  const { code, message } = await errorIn(response);
  if (code === NOT_A_WEBSOCKET || status === UPGRADE_REQUIRED) {
    return { code, message: 'the server answers, but no WebSocket opens: does a proxy pass on Upgrade?', isLasting: false };
  }
  return { code, message, isLasting: status < 500 && !PASSING_STATUSES.includes(status) };
}

/** The error in the body, `{"error": {"code", "message"}}`; else the status. */
async function errorIn(response: ProbeResponse): Promise<{ code: string; message: string }> {
  const { code, message } = await response.json().then(
    (body) => Object(body?.error),
    () => ({}),
  );
  if (typeof code === 'string' && typeof message === 'string') return { code, message };
  return { code: `http_${response.status}`, message: `the server answers with the status ${response.status}` };
}
