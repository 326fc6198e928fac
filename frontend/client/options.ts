// Comes in: nothing. Goes out: the types of what /client.js takes and gives, and its one error. None is a browser's, so
// they fit a program in Node as well.
import type { WebSocketLike } from '../src/feed/websocket_like';

/** One row's change, as docs/protocol.md describes it. `Row`: the type of the table's rows. */
export interface Change<Row = Record<string, any>> {
  readonly table: string;
  readonly action: 'INSERT' | 'UPDATE' | 'DELETE' | 'TRUNCATE';
  /** The new row; on DELETE the old one; null on TRUNCATE, and on a change with a `count`. */
  readonly data: Readonly<Row> | null;
  readonly schema?: string;
  /** On UPDATE: the previous values of the columns that changed. */
  readonly old?: Readonly<Partial<Row>>;
  /** When the statement ran, ISO 8601. */
  readonly at?: string;
  readonly xid?: string;
  /** To continue after this change, once it is processed. */
  readonly cursor?: string;
  /** With a `filter`, on an UPDATE that moves the row into or out of it. */
  readonly filter?: 'enter' | 'leave';
  /** The number of rows, on a change that represents a whole statement above its table's `row_limit`. */
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
  /** The number of changes, where it is known. */
  readonly skipped?: number;
  /** The only table whose changes may be missing: `public.orders`. */
  readonly table?: string;
}

/** Why the server refuses a subscription or a token, or that the address is no feed; later servers may have others. */
export type ErrorCode =
  | 'not_a_feed'
  | 'not_found'
  | 'token_in_url'
  | 'unknown_table'
  | 'unknown_column'
  | 'unknown_field'
  | 'withheld_column'
  | 'bad_table'
  | 'bad_action'
  | 'bad_filter'
  | 'bad_columns'
  | 'bad_token'
  | 'token_expired'
  | 'sign_in'
  | 'no_rights'
  | 'bad_key'
  | 'bad_rows'
  | 'cannot_read'
  | 'not_watched'
  | 'too_many_rows'
  | 'too_many_bytes'
  | (string & {});

/** The server refuses what it was asked for: `message` says what to do. */
export class FeedError extends Error {
  override readonly name = 'FeedError';

  constructor(
    readonly code: ErrorCode,
    message: string,
    /** True: the feed has ended. False: it is open, but what it subscribes to no longer exists. */
    readonly isFinal: boolean,
  ) {
    super(message);
  }
}

export type State =
  | { readonly state: 'connecting' }
  /** The server has accepted the subscription. */
  | { readonly state: 'open' }
  /**
   * The connection was lost. `retryAt`: epoch milliseconds. `attempts`: failures in a row, so 1 for a connection that
   * was open. `code`: its close code, such as 4419: the token has expired; 1006: no answer. `reason`: what the server
   * said, '' if nothing.
   */
  | {
      readonly state: 'waiting';
      readonly retryAt: number;
      readonly attempts: number;
      readonly code: number;
      readonly reason: string;
    }
  /** The feed has ended, since the server would refuse each further attempt as well. `reason`: what the server said. */
  | { readonly state: 'failed'; readonly reason: string };

/** What to follow, where, and with which credentials. */
export interface Subscription {
  /** `orders`, `public.orders`, `sales.*`; one or a list, as with the next three. Without it, every table. */
  readonly table?: string | readonly string[];
  readonly action?: string | readonly string[];
  /** `status=eq.open`, `or=(status.eq.open,total.gt.100)`; of several, all must hold. */
  readonly filter?: string | readonly string[];
  /** Send only these. */
  readonly columns?: string | readonly string[];
  /** For a server that requires one: the token, or a function that returns it, called for each connection. */
  readonly token?: string | (() => string | Promise<string>);
  /** Called when the state changes. The first is `connecting`, right after the function that connects has returned. */
  readonly onState?: (state: State) => void;
  /** Without it, an error is reported as an uncaught one. */
  readonly onError?: (error: FeedError) => void;
  /** Replaces JSON.parse, which rounds numbers beyond 2^53. */
  readonly parse?: (text: string) => any;
  /** For a runtime without a WebSocket, such as Node 20: that of the package `ws`. */
  readonly WebSocket?: new (url: string, protocol: string) => WebSocketLike;
}

export interface Options<Row = Record<string, any>> extends Subscription {
  /** A cursor to continue after. Without it, the feed begins now. */
  readonly since?: string | null;
  /** Not awaited. What it throws is reported as an uncaught error, and the feed continues. */
  readonly onChange?: (change: Change<Row>) => void;
  /** Called before the changes that follow the gap. */
  readonly onGap?: (gap: Gap) => void;
}

/**
 * A row's: the value of the key column; of several columns, and of a value that is no text or number, the JSON text of
 * a list of the values: `[7,"a"]`.
 */
export type Key = string | number | bigint | boolean;

/** A URL as text, or as a `URL`. */
export type Address = string | { readonly href: string };

export interface Feed {
  /** Everything up to here was delivered; null before the first message, and without a journal. */
  readonly cursor: string | null;
  /** Ends the feed. No callback is called after it. */
  close(): void;
}
