// Comes in: the runtime's globals. Goes out: those that the client uses, as values that a test can replace.
import type { Clock } from '../src/feed/socket';
import type { WebSocketLike } from '../src/feed/websocket_like';
import type { Fetch } from './probe';

export interface Environment {
  /** What relative URLs are relative to; undefined outside of a page. */
  readonly page: string | undefined;
  readonly WebSocket: (new (url: string, protocol: string) => WebSocketLike) | undefined;
  readonly fetch: Fetch | undefined;
  readonly clock: Clock;
  readonly random: () => number;
  readonly report: (error: unknown) => void;
  /** Where `pagehide` and `pageshow` happen; undefined outside of a page. */
  readonly window: Pick<EventTarget, 'addEventListener' | 'removeEventListener'> | undefined;
}

export const RUNTIME: Environment = {
  page: globalThis.location?.href,
  get WebSocket() {
    return globalThis.WebSocket; // looked up late: a program may set it after this module was loaded
  },
  fetch: globalThis.fetch && ((url, options) => fetch(url, options)),
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
