// Comes in: an address with a subscription, and callbacks. Goes out: every change once, and a gap where some may be
// missing. Speaks the subprotocol changefeed.v1.
import { ReconnectingSocket } from '../src/feed/socket';
import type { WebSocketLike } from '../src/feed/websocket_like';
import { assertNever } from '../src/values/assert_never';
import type { Environment } from './environment';
import { type Feed, FeedError, type Options } from './options';
import { probe } from './probe';

const READ_AGAIN = 'read the tables you follow again; the feed continues from here';

/** The server's close codes (RFC 6455, 7.4.1; the range for private use) for refusals that hold for later attempts. */
const POLICY_VIOLATION = 1008;
const SIGN_IN = 4401;
const NO_CLOSE_FRAME = 1006;
const NO_TOKEN = 'the server requires a token: give one as an option';

/** Takes the rows of the table, where the feed is to begin with them. */
export interface RowsReader {
  /** Whether a connection has to begin with the rows: at first, and after a gap. False once the last one is there. */
  isDue: boolean;
  readonly onBegin: () => void;
  readonly onRows: (rows: readonly any[]) => void;
  readonly onEnd: () => void;
}

export interface Following extends Feed {
  /** Leaves the connection, and makes the next one after the usual delay. */
  reconnect(reason: string): void;
  /** Ends the feed. */
  fail(error: FeedError): void;
}

export function follow(address: URL, options: Options, environment: Environment, reader?: RowsReader): Following {
  const { onChange, onGap, onState, onError, parse = JSON.parse, since, token } = options;
  const WebSocket = options.WebSocket ?? environment.WebSocket;
  if (!WebSocket) {
    throw new TypeError('there is no WebSocket here: give one as an option, such as that of the package ws');
  }

  let cursor = since ?? address.searchParams.get('since');
  // Where the server continues. Right after hello that may be elsewhere than it was asked to; then a gap follows. Until
  // that is delivered the old cursor stays, so that a connection lost in between does not lose the gap.
  let begin: string | null = null;
  // Changes that are in no journal, so that those of a time without a connection are gone.
  let hasUnrecorded = false;
  let isOpen = false;
  let lostAt: number | null = null;
  let attempts = 0;
  let refusal: { code: string; message: string } | null = null; // why the server is about to close this connection
  let isClosed = false;
  let hasAnswered = false; // once it has, a socket that does not open is not the address's fault
  let probing: AbortController | null = null;
  let explanation = ''; // why the last socket did not open, as far as HTTP tells

  const call = <T>(callback: ((value: T) => void) | undefined, value: T) => {
    if (isClosed) return;
    try {
      callback?.(value);
    } catch (error) {
      environment.report(error);
    }
  };

  // Before this a server that requires a token sends nothing; it waits for 10 s. Without one it says so at once.
  const authenticate = async (opened: WebSocketLike) => {
    try {
      const given = typeof token === 'function' ? await token() : token;
      opened.send(JSON.stringify({ type: 'authenticate', token: given }));
    } catch (error) {
      environment.report(error);
      opened.close(); // the next connection asks for it again
    }
  };

  const hasLost = () => {
    if (isOpen) lostAt = environment.clock.now();
    isOpen = false;
    attempts += 1;
  };

  const tellGap = (why: string, sinceMs: number) =>
    call(onGap, {
      from: cursor,
      to: null,
      since: new Date(sinceMs).toISOString(),
      until: new Date(environment.clock.now()).toISOString(),
      why,
      what_to_do: READ_AGAIN,
    });

  const tellError = (error: FeedError) => call(onError ?? environment.report, error);

  /** The error with which the feed ends, if the server would refuse each further attempt as it did this one. */
  const finalError = (closeCode: number, closeReason: string): FeedError | null => {
    const canHaveNewToken = typeof token === 'function';
    if (closeCode === SIGN_IN && token === undefined) return new FeedError('sign_in', NO_TOKEN, true);
    if (closeCode === SIGN_IN && !canHaveNewToken) {
      return new FeedError(refusal?.code ?? 'sign_in', refusal?.message ?? closeReason, true);
    }
    if (closeCode !== POLICY_VIOLATION || !refusal || refusal.code === 'not_a_cursor') return null;
    if (refusal.code === 'no_rights' && canHaveNewToken) return null;
    return new FeedError(refusal.code, refusal.message, true);
  };

  /** Asks by HTTP why the socket did not open, and ends the feed if it never will. */
  const explain = async () => {
    if (hasAnswered || probing || !environment.fetch) return;
    probing = new AbortController();
    const answer = await probe(address, environment.fetch, probing.signal);
    probing.abort(); // the rest of a long page is not needed
    probing = null;
    if (isClosed || hasAnswered) return;
    explanation = answer?.message ?? foreignOrigin(address, environment.page);
    if (answer?.isLasting) fail(new FeedError(answer.code, answer.message, true));
  };

  const onText = (text: string) => {
    let message;
    try {
      message = parse(text);
    } catch (error) {
      environment.report(error);
      return tellGap(`a message could not be read: ${String(error)}`, environment.clock.now());
    }
    switch (message.type) {
      case 'hello':
        // Only now: a server that refuses the subscription says so, instead of this.
        if (reader?.isDue) return call(reader.onBegin, undefined);
        isOpen = true;
        attempts = 0;
        call(onState, { state: 'open' });
        if (lostAt !== null && (cursor === null || hasUnrecorded)) {
          tellGap('the connection was lost, and what is not recorded is not sent later', lostAt);
        }
        begin = message.cursor;
        cursor ??= begin;
        lostAt = null;
        return;
      case 'rows':
        if (!reader) return;
        call(reader.onRows, message.rows);
        if (!message.is_last || isClosed) return;
        reader.isDue = false;
        isOpen = true;
        attempts = 0;
        begin = cursor = message.cursor;
        lostAt = null;
        call(reader.onEnd, undefined);
        return call(onState, { state: 'open' });
      case 'changes':
        for (const change of message.changes) {
          call(onChange, change);
          // One that closes the feed has processed its change, and not the rest of the message.
          cursor = change?.cursor ?? cursor;
          if (isClosed || reader?.isDue) return;
        }
        begin = cursor = message.cursor ?? cursor;
        hasUnrecorded ||= message.cursor === null;
        return;
      case 'gap':
        call(onGap, message);
        cursor = begin;
        return;
      case 'going_away':
        return socket.expectClose(Number(message.reconnect_in_ms));
      case 'error':
        // A server of version 0.2 does not know that a client may say that it has no token.
        if (isOpen && message.code === 'bad_token' && token === undefined) return;
        if (isOpen) return tellError(new FeedError(message.code, message.message, false));
        if (message.code === 'not_a_cursor') {
          tellGap(`the feed cannot continue after the cursor given: ${message.message}`, environment.clock.now());
          cursor = null;
          lostAt = null; // so that the same loss is not reported again
        }
        refusal = message; // the server closes the connection next
        return;
      // Other types are of later versions, for clients that ask for them.
    }
  };

  const socket = new ReconnectingSocket({
    open: () => {
      if (reader?.isDue) {
        address.searchParams.set('rows', 'true');
        cursor = null;
      } else address.searchParams.delete('rows');
      if (cursor !== null) address.searchParams.set('since', cursor);
      else address.searchParams.delete('since');
      const opened = new WebSocket(address.href, 'changefeed.v1');
      opened.onopen = () => void authenticate(opened);
      return opened;
    },
    clock: environment.clock,
    random: environment.random,
    // Nothing happens in the feed while nothing happens in the database; the server's pings show to no page.
    silenceLimitMs: Infinity,
    onConnection: (connection) => {
      switch (connection.state) {
        case 'waiting': {
          const error = finalError(connection.code, connection.reason);
          if (error) return fail(error);
          hasLost();
          if (connection.code === NO_CLOSE_FRAME) void explain();
          const reason = refusal?.message ?? (connection.reason || explanation);
          return call(onState, { ...connection, attempts, reason });
        }
        case 'connecting':
          refusal = null;
          // The first time, the page has its feed a moment later.
          if (attempts > 0) call(onState, connection);
          else queueMicrotask(() => call(onState, connection));
          return;
        case 'open': // a message has come; `hello` opens the feed
          hasAnswered = true;
          explanation = '';
          return;
        case 'closed':
          return;
        default:
          return assertNever(connection);
      }
    },
    onText,
  });
  socket.connect();

  // A browser keeps no page with an open socket as it is, and a socket that it froze is a lost one. The listeners live
  // as long as the feed: a page that is left for good takes them along.
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
  environment.window?.addEventListener('pagehide', leave);
  environment.window?.addEventListener('pageshow', comeBack);

  const stop = () => {
    environment.window?.removeEventListener('pagehide', leave);
    environment.window?.removeEventListener('pageshow', comeBack);
    probing?.abort();
    socket.close();
  };
  const fail = (error: FeedError) => {
    stop();
    call(onState, { state: 'failed', reason: error.message });
    tellError(error);
    isClosed = true;
  };

  return {
    get cursor() {
      return cursor;
    },
    reconnect: (reason) => socket.reconnect(reason),
    fail,
    close() {
      isClosed = true;
      stop();
    },
  };
}

/** A hint, since a page may not read what a server answers that does not let it. */
function foreignOrigin(address: URL, page: string | undefined): string {
  if (page === undefined || new URL(page).host === address.host) return '';
  const { origin } = new URL(page);
  return `no answer from ${address.host}; if it runs, it may not let pages of ${origin} in: --allow-origin ${origin}`;
}
