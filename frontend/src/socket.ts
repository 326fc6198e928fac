// Comes in: a URL, and the browser's WebSocket, clock and randomness. Goes out: message texts and the connection's
// state. It reconnects for ever. Knows no message.
import { backoff } from './backoff';

export type Connection =
  | { readonly state: 'connecting' }
  | { readonly state: 'open' }
  /** `retryAt`: in milliseconds of the clock that was given. */
  | { readonly state: 'waiting'; readonly retryAt: number }
  /** Closed by the page itself; nothing follows. */
  | { readonly state: 'closed' };

/** The part of the browser's WebSocket that is used. */
export interface WebSocketLike {
  onmessage: ((event: MessageEvent) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;
  close(): void;
}

export interface Clock {
  now(): number;
  /** Calls back after `ms`; what it returns cancels that. */
  after(ms: number, callback: () => void): () => void;
}

export interface SocketOptions {
  readonly open: () => WebSocketLike;
  readonly clock: Clock;
  readonly random: () => number;
  readonly onConnection: (connection: Connection) => void;
  readonly onText: (text: string) => void;
}

/**
 * The server says something every second. A connection that is silent for this long is half-open (a laptop that
 * slept, a network that went away), which the browser itself may take minutes to notice.
 */
export const SILENCE_LIMIT_MS = 10_000;

export class ReconnectingSocket {
  readonly #options: SocketOptions;
  #delays: Generator<number, never>;
  #socket: WebSocketLike | null = null;
  #connection: Connection = { state: 'closed' };
  #cancelTimer: () => void = () => {};
  #announcedDelayMs: number | null = null;

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
    // Open is when the server has spoken: a proxy that accepts and then hangs up is no connection.
    socket.onmessage = (event) => this.#heard(event.data);
    socket.onclose = () => this.#lost();
    this.#enter({ state: 'connecting' });
    this.#watchForSilence();
  }

  /** What the server announced before it goes away: its own delay for the one next attempt. */
  expectClose(reconnectInMs: number): void {
    this.#announcedDelayMs = reconnectInMs;
  }

  close(): void {
    this.#leaveSocket();
    this.#enter({ state: 'closed' });
  }

  #heard(data: unknown): void {
    this.#watchForSilence();
    if (this.#connection.state !== 'open') {
      this.#delays = backoff(this.#options.random);
      this.#enter({ state: 'open' });
    }
    this.#options.onText(String(data));
  }

  #lost(): void {
    this.#leaveSocket();
    const delay = this.#announcedDelayMs ?? this.#delays.next().value;
    this.#announcedDelayMs = null;
    this.#cancelTimer = this.#options.clock.after(delay, () => this.connect());
    this.#enter({ state: 'waiting', retryAt: this.#options.clock.now() + delay });
  }

  #watchForSilence(): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#options.clock.after(SILENCE_LIMIT_MS, () => this.#lost());
  }

  #leaveSocket(): void {
    this.#cancelTimer();
    if (this.#socket === null) return;
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
