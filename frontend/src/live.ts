// Comes in: the browser's WebSocket, fetch and clock. Goes out: a state that is kept up to date. The one place where
// the socket, the HTTP API and the state meet; knows no view.
import { fetchHistory, fetchSession, fetchStatus, fetchTables, setWatched } from './feed/api';
import { DEFAULTS, type Pace } from './model/choices';
import { assertNever } from './values/assert_never';
import type { Asked } from './model/filter';
import { decodeMessage, type Message, type TableStatus } from './feed/protocol';
import { type Connection, ReconnectingSocket } from './feed/socket';
import { apply, applyHistory, initialState, notify, setConnection, settle, type State } from './model/state';

const OTHER_VERSION = 'Reload this page: the server may be of another version.';

/** The server sends the dashboard a message every second. */
const SILENCE_LIMIT_MS = 10_000;
/** How often the page acknowledges what it has drawn: a page that falls behind gets no rows. */
const SEEN_MS = 1_000;
const RELOAD_MS = 60_000;

/** Close codes of the server: not signed in, and the token has expired. */
const SIGNED_OUT: readonly number[] = [4401, 4419];

export class Live {
  readonly state: State = initialState();
  readonly #onChange: () => void;
  readonly #onSignedOut: () => void;
  readonly #socket: ReconnectingSocket;
  #open: WebSocket | null = null;
  #newest: number | null = null;
  #seen: number | null = null;
  /** By step: how often its history was asked for. It is kept up to date from then on. */
  readonly #asked = new Map<number, number>([[1, 0]]);
  #wantsRows = true;
  #pace: Pace = DEFAULTS.pace;
  #narrowedTo: string | null = null;

  /** `onChange`: what can be seen of a hidden page, its title, may be another. `onSignedOut`: it takes a token first. */
  constructor(onChange: () => void, onSignedOut: () => void) {
    this.#onChange = onChange;
    this.#onSignedOut = onSignedOut;
    this.#socket = new ReconnectingSocket({
      open: () => {
        this.#open = new WebSocket(this.#url());
        this.#open.addEventListener('close', ({ code }) => this.#onClose(code));
        return this.#open;
      },
      clock: { now: () => Date.now(), after },
      random: Math.random,
      silenceLimitMs: SILENCE_LIMIT_MS,
      onConnection: (connection) => this.#onConnection(connection),
      onText: (text) => this.#onText(text),
    });
    setInterval(() => this.#tellSeen(), SEEN_MS);
    // The journal grows, and others watch tables. While the page is hidden, nobody sees that.
    setInterval(() => this.#wantsRows && this.reloadTables(), RELOAD_MS);
  }

  connect = (): void => this.#socket.connect();

  #onClose(code: number): void {
    if (!SIGNED_OUT.includes(code)) return;
    this.close();
    this.#onSignedOut();
  }

  close(): void {
    this.#socket.close();
  }

  /** From now on, also the history by these steps. */
  want(stepSeconds: number): void {
    if (this.#asked.has(stepSeconds)) return;
    this.#asked.set(stepSeconds, 0);
    if (this.state.server !== null) void this.#loadHistory(stepSeconds);
  }

  /** Whether the rows are looked at: counts come in any case. */
  wantRows(wanted: boolean): void {
    this.#wantsRows = wanted;
    this.#sayRows();
  }

  /** The most rows per second. */
  wantPace(pace: Pace): void {
    if (pace === this.#pace) return;
    this.#pace = pace;
    this.#sayRows();
  }

  /**
   * Lets the server look for what is `asked`, once it can't send all rows any more: then its sample is one of what fits.
   * Before that it sends all, so that a filter that is taken away leaves no hole.
   */
  narrow(asked: Asked | null, isSampled: boolean): void {
    const wanted = asked === null ? null : JSON.stringify({ type: 'filter', ...asked });
    const chosen = isSampled || wanted === this.#narrowedTo ? wanted : null;
    if (chosen === this.#narrowedTo) return;
    this.#narrowedTo = chosen;
    this.#say(chosen === null ? { type: 'filter' } : { type: 'filter', ...asked });
  }

  /** While the database is away there is nothing to ask it for, and its light says so. */
  reloadTables = (): void => {
    if (this.state.connection.state !== 'open' || this.state.server?.database.state !== 'listening') return;
    void this.#loadTables();
    if (this.state.session?.isAdmin !== false) void this.#loadStatus(); // others are refused it
  };

  /** Null, or why it was refused. */
  setWatched = async (table: TableStatus, isWatched: boolean): Promise<string | null> => {
    const refusal = await setWatched((url, options) => fetch(url, options), table, isWatched);
    this.reloadTables();
    return refusal;
  };

  #url(): URL {
    const url = new URL('ws/activity', document.baseURI);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    // So that the server can say whether what happened meanwhile is still there.
    const cursor = this.state.server?.cursor ?? null;
    if (cursor !== null) url.searchParams.set('since', cursor);
    return url;
  }

  #onConnection(connection: Connection): void {
    this.#newest = this.#seen = null;
    setConnection(this.state, connection);
    this.#onChange();
  }

  #onText(text: string): void {
    const decoded = decodeMessage(text);
    if (!decoded.ok) {
      notify(this.state, {
        kind: 'problem',
        what: `The server sent a message this page can't read: ${decoded.problem}.`,
        whatToDo: OTHER_VERSION,
      });
      return;
    }
    apply(this.state, decoded.value, Date.now());
    this.#followUp(decoded.value);
  }

  /** What the page does with a message, besides keeping it. */
  #followUp(message: Message): void {
    switch (message.type) {
      case 'hello':
        if (!this.#wantsRows || this.#pace !== DEFAULTS.pace) this.#sayRows();
        this.#narrowedTo = null; // Sent again if it still applies.
        return this.#reload();
      case 'database':
        if (message.state === 'listening') this.#reload();
        return this.#onChange();
      case 'going_away':
        return this.#socket.expectClose(message.reconnectInMs);
      case 'activity':
        this.#newest = message.number;
        return;
      case 'gap':
      case 'error':
        return;
      default:
        return assertNever(message);
    }
  }

  #reload(): void {
    for (const step of this.#asked.keys()) void this.#loadHistory(step);
    void this.#loadSession().then(this.reloadTables);
    this.#onChange();
  }

  /** Without an answer nothing is known to be forbidden: the server still refuses what is. */
  async #loadSession(): Promise<void> {
    const session = await fetchSession((url) => fetch(url));
    if (session.ok) this.state.session = session.value;
  }

  async #loadHistory(step: number): Promise<void> {
    const asked = (this.#asked.get(step) ?? 0) + 1;
    this.#asked.set(step, asked);
    const history = await fetchHistory((url) => fetch(url), step);
    if (asked !== this.#asked.get(step)) return; // Asked again meanwhile: only the newest answer counts.
    settle(this.state, 'history');
    if (history.ok) return applyHistory(this.state, history.value);
    if (this.state.connection.state !== 'open') return; // It is asked for again when the server is back.
    notify(this.state, {
      kind: 'problem',
      topic: 'history',
      what: `The history could not be loaded (${history.problem}).`,
      whatToDo: 'The charts show changes from now on. Reload this page to try again.',
    });
  }

  /** Without an answer the line about the journal stays as it was, which does no harm. */
  async #loadStatus(): Promise<void> {
    const status = await fetchStatus((url) => fetch(url));
    if (status.ok) this.state.status = status.value;
  }

  async #loadTables(): Promise<void> {
    const tables = await fetchTables((url) => fetch(url));
    settle(this.state, 'tables');
    if (tables.ok) this.state.tables = tables.value;
    else if (this.state.connection.state === 'open')
      notify(this.state, {
        kind: 'problem',
        topic: 'tables',
        what: `The list of tables could not be loaded (${tables.problem}).`,
        whatToDo: 'The changes shown are not affected.',
      });
  }

  #tellSeen(): void {
    if (this.#newest === null || this.#newest === this.#seen) return;
    this.#seen = this.#newest;
    this.#say({ type: 'seen', message: this.#newest });
  }

  #sayRows(): void {
    this.#say({ type: 'rows', wanted: this.#wantsRows, pace: this.#pace });
  }

  #say(message: object): void {
    if (this.#open?.readyState === WebSocket.OPEN) this.#open.send(JSON.stringify(message));
  }
}

function after(ms: number, callback: () => void): () => void {
  const timer = setTimeout(callback, ms);
  return () => clearTimeout(timer);
}
