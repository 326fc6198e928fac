// Comes in: a table's name and callbacks, of any page. Goes out: every change once, and a gap where some may be missing.
// Speaks the subprotocol changefeed.v1. Built into dist/client.js, which the server gives out as /client.js.
import { assertNever } from '../src/values/assert_never';
import { type Clock, ReconnectingSocket, type WebSocketLike } from '../src/feed/socket';

/** One row's change, as the README describes it. */
export interface Change {
  readonly table: string;
  readonly action: 'INSERT' | 'UPDATE' | 'DELETE' | 'TRUNCATE';
  /** The new row; on DELETE the old one; on TRUNCATE null. */
  readonly data: Readonly<Record<string, any>> | null;
  readonly schema?: string;
  /** On UPDATE: the previous values of the columns that changed. */
  readonly old?: Readonly<Record<string, any>>;
  /** When the statement ran, ISO 8601. */
  readonly at?: string;
  readonly xid?: string;
  /** To go on after this change, once it is dealt with. */
  readonly cursor?: string;
  /** With a `filter`, on an UPDATE that takes the row into it or out of it. */
  readonly filter?: 'enter' | 'leave';
  /** Of a statement of more rows than its table's `row_limit`: how many it changed, in place of each row. */
  readonly count?: number;
  readonly [more: string]: unknown;
}

/** Changes may be missing: between two cursors, or two times (ISO 8601), where they are known. */
export interface Gap {
  readonly from: string | null;
  readonly to: string | null;
  readonly since: string | null;
  readonly until: string | null;
  readonly why: string;
  readonly what_to_do: string;
  /** How many changes, where that is known. */
  readonly skipped?: number;
  /** The only table whose changes may be missing: `public.orders`. */
  readonly table?: string;
}

export type State =
  | { readonly state: 'connecting' }
  /** The server has accepted the subscription. */
  | { readonly state: 'open' }
  /**
   * The connection was lost or refused. `retryAt`: epoch milliseconds. `attempts`: failures in a row, so 1 for a
   * connection that was open. `code`: its close code, such as 1008: the subscription is refused; 4401: the token is not
   * accepted; 4419: it has expired; 1006: no answer. `reason`: what the server said, '' if nothing.
   */
  | {
      readonly state: 'waiting';
      readonly retryAt: number;
      readonly attempts: number;
      readonly code: number;
      readonly reason: string;
    };

export interface Options {
  /** `orders`, `public.orders`, `sales.*`; one or a list, as with the next three. Without it, every table. */
  readonly table?: string | readonly string[];
  readonly action?: string | readonly string[];
  /** `status=eq.open`; of several, all must hold. */
  readonly filter?: string | readonly string[];
  /** Send just these. */
  readonly columns?: string | readonly string[];
  /** A cursor, from which on to begin. Without it, now. */
  readonly since?: string | null;
  /** Of a server that asks for one: the token, or what gives it, which is asked at each connection. */
  readonly token?: string | (() => string | Promise<string>);
  /** Not awaited. What it throws is reported as an uncaught error, and the feed goes on. */
  readonly onChange?: (change: Change) => void;
  /** Called before the changes behind the gap. */
  readonly onGap?: (gap: Gap) => void;
  /** Called when the state changes. The first is `connecting`, right after `connect` has returned. */
  readonly onState?: (state: State) => void;
  /** Instead of JSON.parse, which rounds numbers beyond 2^53. */
  readonly parse?: (text: string) => any;
}

export interface Feed {
  /** Everything up to here was delivered; null before the server has said anything, and where there is no journal. */
  readonly cursor: string | null;
  /** Ends the feed. No callback is called any more. */
  close(): void;
}

/** @internal */
export interface Browser {
  readonly page: string | undefined;
  readonly open: (url: URL) => WebSocketLike;
  readonly clock: Clock;
  readonly random: () => number;
  readonly report: (error: unknown) => void;
  /** Where `pagehide` and `pageshow` happen; undefined outside of a page. */
  readonly window: Pick<EventTarget, 'addEventListener' | 'removeEventListener'> | undefined;
}

const SUBSCRIPTION = ['table', 'action', 'filter', 'columns'] as const;
const OPTIONS: readonly string[] = [...SUBSCRIPTION, 'since', 'token', 'onChange', 'onGap', 'onState', 'parse'];
const READ_AGAIN = 'read the tables you follow once more; the feed goes on from here';

const BROWSER: Browser = {
  page: globalThis.location?.href,
  open: (url) => new WebSocket(url, 'changefeed.v1'),
  clock: {
    now: () => Date.now(),
    after: (ms, callback) => {
      const timer = setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
  },
  random: Math.random,
  report: (error) => (typeof reportError === 'function' ? reportError(error) : console.error(error)),
  window: 'addEventListener' in globalThis ? globalThis : undefined,
};

/**
 * Follows the feed at `url`, which is /ws of the page's own server unless said otherwise, until it is closed.
 *
 * A lost connection is made anew, for ever, and goes on after the last change that was delivered: each comes once, in
 * order. Where that can't be kept, onGap says so. While the page is left, which the Back button may bring back as it was,
 * it has no connection. Throws SyntaxError or TypeError for an invalid URL, TypeError for an unknown option.
 */
export function connect(options: Options): Feed;
export function connect(url: string | URL | undefined, options?: Options): Feed;
/** @internal */
export function connect(url: string | URL | undefined, options: Options, browser: Browser): Feed;
export function connect(first: string | URL | Options | undefined, second: Options = {}, browser = BROWSER): Feed {
  const isUrl = typeof first === 'string' || first instanceof URL || first === undefined;
  const options = isUrl ? second : first;
  checkNames(options);
  const address = addressOf(isUrl ? (first ?? '/ws') : '/ws', options, browser);
  const { onChange, onGap, onState, parse = JSON.parse, since, token } = options;

  let cursor = since ?? address.searchParams.get('since');
  // Where the server goes on. Right after hello that may be elsewhere than it was asked to; then a gap follows. Until
  // that is told the old cursor stands, so that a connection lost in between does not lose the gap.
  let begin: string | null = null;
  // Changes that are in no journal, so that those of a time without a connection are gone.
  let hasUnjournaled = false;
  let isOpen = false;
  let lostAt: number | null = null;
  let attempts = 0;
  let refusal = ''; // why the server is about to close this connection
  let isClosed = false;

  const call = <T>(callback: ((value: T) => void) | undefined, value: T) => {
    if (isClosed) return;
    try {
      callback?.(value);
    } catch (error) {
      browser.report(error);
    }
  };

  // Before this the server says nothing; it waits for 10 s.
  const authenticate = async (opened: WebSocketLike) => {
    try {
      const given = typeof token === 'function' ? await token() : token;
      opened.send(JSON.stringify({ type: 'authenticate', token: given }));
    } catch (error) {
      browser.report(error);
      opened.close(); // the next connection asks for it again
    }
  };

  const hasLost = () => {
    if (isOpen) lostAt = browser.clock.now();
    isOpen = false;
    attempts += 1;
  };

  const tellGap = (why: string, sinceMs: number) =>
    call(onGap, {
      from: cursor,
      to: null,
      since: new Date(sinceMs).toISOString(),
      until: new Date(browser.clock.now()).toISOString(),
      why,
      what_to_do: READ_AGAIN,
    });

  const onText = (text: string) => {
    let message;
    try {
      message = parse(text);
    } catch (error) {
      browser.report(error);
      return tellGap(`a message could not be read: ${String(error)}`, browser.clock.now());
    }
    switch (message.type) {
      case 'hello':
        // Only now: a server that refuses the subscription says so, instead of this.
        isOpen = true;
        attempts = 0;
        call(onState, { state: 'open' });
        if (lostAt !== null && (cursor === null || hasUnjournaled)) {
          tellGap('the connection was lost, and what is not journaled is not sent later', lostAt);
        }
        begin = message.cursor;
        cursor ??= begin;
        lostAt = null;
        return;
      case 'changes':
        for (const change of message.changes) {
          call(onChange, change);
          // One that closes the feed has dealt with its change, and not with the rest of the message.
          cursor = change.cursor ?? cursor;
          if (isClosed) return;
        }
        begin = cursor = message.cursor ?? cursor;
        hasUnjournaled ||= message.cursor === null;
        return;
      case 'gap':
        call(onGap, message);
        cursor = begin;
        return;
      case 'going_away':
        return socket.expectClose(Number(message.reconnect_in_ms));
      case 'error':
        if (message.code === 'not_a_cursor') {
          tellGap(`the feed cannot continue after the cursor given: ${message.message}`, browser.clock.now());
          cursor = null;
          lostAt = null; // so that the same loss is not reported again
        }
        refusal = message.message;
        // Else onState gets it, when the server has closed the connection.
        if (isOpen || !onState) browser.report(new Error(`changefeed: ${message.code}: ${refusal}`));
        return;
      // Other types are of later versions, for those who ask for them.
    }
  };

  const socket = new ReconnectingSocket({
    open: () => {
      if (cursor !== null) address.searchParams.set('since', cursor);
      else address.searchParams.delete('since');
      const opened = browser.open(address);
      if (token !== undefined) opened.onopen = () => void authenticate(opened);
      return opened;
    },
    clock: browser.clock,
    random: browser.random,
    // Nothing happens in the feed while nothing happens in the database; the server's pings show to no page.
    silenceLimitMs: Infinity,
    onConnection: (connection) => {
      switch (connection.state) {
        case 'waiting':
          hasLost();
          return call(onState, { ...connection, attempts, reason: refusal || connection.reason });
        case 'connecting':
          refusal = '';
          // The first time, the page has its feed a moment later.
          if (attempts > 0) call(onState, connection);
          else queueMicrotask(() => call(onState, connection));
          return;
        case 'open': // the server has spoken; `hello` says that the feed is open
        case 'closed':
          return;
        default:
          return assertNever(connection);
      }
    },
    onText,
  });
  socket.connect();

  // A browser keeps no page with an open socket as it is, and a socket that it froze is a lost one. The listeners are of
  // the feed's lifetime: a page that is left for good takes them along.
  let isAway = false;
  const leave = () => {
    isAway = true;
    hasLost();
    socket.close();
  };
  const comeBack = () => {
    if (isAway) socket.connect(); // else the page is shown for the first time
    isAway = false;
  };
  browser.window?.addEventListener('pagehide', leave);
  browser.window?.addEventListener('pageshow', comeBack);

  return {
    get cursor() {
      return cursor;
    },
    close() {
      isClosed = true;
      browser.window?.removeEventListener('pagehide', leave);
      browser.window?.removeEventListener('pageshow', comeBack);
      socket.close();
    },
  };
}

function checkNames(options: Options): void {
  const unknown = Object.keys(options).filter((name) => !OPTIONS.includes(name));
  if (unknown.length) throw new TypeError(`unknown option ${unknown.join(', ')}; connect takes ${OPTIONS.join(', ')}`);
}

function addressOf(url: string | URL, options: Options, browser: Browser): URL {
  const address = new URL(url, browser.page);
  address.protocol = address.protocol.replace('http', 'ws');
  address.hash = ''; // new WebSocket refuses one
  for (const name of SUBSCRIPTION) {
    for (const value of [options[name] ?? []].flat()) address.searchParams.append(name, value);
  }
  return address;
}
