// Comes in: a URL, and the browser's WebSocket, clock and randomness. Goes out: message texts and the connection's
// state. It reconnects for ever. Knows no message.
import { backoff } from './backoff';
import type { WebSocketLike } from './websocket_like';

export type Connection =
  | { readonly state: 'connecting' }
  | { readonly state: 'open' }
  /** `retryAt`: in milliseconds of the clock that was given. `code` and `reason`: with which the last one was closed. */
  | { readonly state: 'waiting'; readonly retryAt: number; readonly code: number; readonly reason: string }
  /** Closed by the page itself; nothing follows. */
  | { readonly state: 'closed' };

export interface Clock {
  now(): number;
  /** Calls back after `ms`; what it returns cancels that. */
  after(ms: number, callback: () => void): () => void;
}

export interface SocketOptions {
  readonly open: () => WebSocketLike;
  readonly clock: Clock;
  readonly random: () => number;
  /**
   * A connection that is silent for this long is half-open (a laptop that slept, a network that went away), which the
   * browser itself may take minutes to notice. Infinity where silence is ordinary.
   */
  readonly silenceLimitMs: number;
  readonly onConnection: (connection: Connection) => void;
  readonly onText: (text: string) => void;
}

/**
 * An attempt that the server does not answer in this time is given up. Longer than the 10 s that the server waits for a
 * token, so that it can say that one is missing.
 */
export const ANSWER_LIMIT_MS = 12_000;
/** What lasts for less does not end the backoff: a server that greets and hangs up is not called without a pause. */
export const STEADY_MS = 5_000;

/** The browser's code of a connection that was lost without a close frame (RFC 6455, 7.1.5). */
const NO_CLOSE = 1006;

export class ReconnectingSocket {
  readonly #options: SocketOptions;
  #delays: Generator<number, never>;
  #socket: WebSocketLike | null = null;
  #connection: Connection = { state: 'closed' };
  #cancelTimer: () => void = () => {};
  #announcedDelayMs: number | null = null;
  #openedAt = Infinity;

  constructor(options: SocketOptions) {
    this.#options = options;
    this.#delays = backoff(options.random);
  }

  /** Connects, unless it is open or connecting. While it waits for its next attempt, this is that attempt. */
  connect(): void {
    if (this.#socket !== null) return;
    this.#cancelTimer();
    const socket = this.#options.open();
    this.#socket = socket;
    // Open only after the first message: a proxy that accepts and then hangs up is not a connection.
    socket.onmessage = (event: { data: unknown }) => this.#receive(event.data);
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => this.#lost(code, reason);
    socket.onerror = () => {}; // a close follows; the package ws throws an error without a listener
    this.#giveUpAfter(ANSWER_LIMIT_MS);
    this.#enter({ state: 'connecting' });
  }

  /** What the server announced before it goes away: its own delay for the one next attempt. */
  expectClose(reconnectInMs: number): void {
    this.#announcedDelayMs = reconnectInMs;
  }

  /** Leaves this connection as if it were lost, so that the next one comes after the next delay. */
  reconnect(reason: string): void {
    this.#lost(NO_CLOSE, reason);
  }

  close(): void {
    this.#leaveSocket();
    this.#openedAt = Infinity;
    this.#enter({ state: 'closed' });
  }

  #receive(data: unknown): void {
    this.#giveUpAfter(this.#options.silenceLimitMs);
    if (this.#connection.state !== 'open') {
      this.#openedAt = this.#options.clock.now();
      this.#enter({ state: 'open' });
    }
    if (this.#socket !== null) this.#options.onText(String(data)); // onConnection may have closed it
  }

  #lost(code: number, reason: string): void {
    this.#leaveSocket();
    const now = this.#options.clock.now();
    if (now - this.#openedAt >= STEADY_MS) this.#delays = backoff(this.#options.random);
    this.#openedAt = Infinity;
    const delay = this.#announcedDelayMs ?? this.#delays.next().value;
    this.#announcedDelayMs = null;
    this.#cancelTimer = this.#options.clock.after(delay, () => this.connect());
    this.#enter({ state: 'waiting', retryAt: now + delay, code, reason });
  }

  #giveUpAfter(ms: number): void {
    this.#cancelTimer();
    if (ms < Infinity) this.#cancelTimer = this.#options.clock.after(ms, () => this.#lost(NO_CLOSE, ''));
  }

  #leaveSocket(): void {
    this.#cancelTimer();
    if (this.#socket === null) return;
    this.#socket.onopen = null;
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #enter(connection: Connection): void {
    this.#connection = connection;
    this.#options.onConnection(connection);
  }
}
