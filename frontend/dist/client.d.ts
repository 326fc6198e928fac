// The client of psqlisten2websocket: see "In your page" in its README. MIT License.
/** What is used of a WebSocket: the browser's, Node's, or that of the package `ws`. */
export interface WebSocketLike {
    onopen: ((event: any) => void) | null;
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
    send(text: string): void;
    close(): void;
}

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
export type ErrorCode = 'not_a_feed' | 'not_found' | 'token_in_url' | 'unknown_table' | 'unknown_column' | 'unknown_field' | 'withheld_column' | 'bad_table' | 'bad_action' | 'bad_filter' | 'bad_columns' | 'bad_token' | 'token_expired' | 'sign_in' | 'no_rights' | 'bad_key' | 'bad_rows' | 'cannot_read' | 'not_watched' | 'too_many_rows' | 'too_many_bytes' | (string & {});
/** The server refuses what it was asked for: `message` says what to do. */
export declare class FeedError extends Error {
    readonly code: ErrorCode;
    /** True: the feed has ended. False: it is open, but what it subscribes to no longer exists. */
    readonly isFinal: boolean;
    readonly name = "FeedError";
    constructor(code: ErrorCode, message: string, 
    /** True: the feed has ended. False: it is open, but what it subscribes to no longer exists. */
    isFinal: boolean);
}
export type State = {
    readonly state: 'connecting';
}
/** The server has accepted the subscription. */
 | {
    readonly state: 'open';
}
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
 | {
    readonly state: 'failed';
    readonly reason: string;
};
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
export type Address = string | {
    readonly href: string;
};
export interface Feed {
    /** Everything up to here was delivered; null before the first message, and without a journal. */
    readonly cursor: string | null;
    /** Ends the feed. No callback is called after it. */
    close(): void;
}

/**
 * Follows the feed at `url`, a server's or that of its /ws; the page's own server's unless given; until it is closed or refused.
 *
 * It reconnects for ever, and continues after the last change that was delivered: each comes once, in order. Where that
 * cannot be kept, onGap says so. What the server refuses for good, such as an unknown table, ends the feed, and onError
 * says why. While the page is left, which the Back button may restore, it has no connection. Throws SyntaxError or
 * TypeError for an invalid URL, TypeError for an unknown option and where there is no WebSocket.
 */
export declare function connect<Row = Record<string, any>>(options: Options<Row>): Feed;
export declare function connect<Row = Record<string, any>>(url: Address | undefined, options?: Options<Row>): Feed;

/** The rows at one moment. It never changes: when the rows do, there is another one. */
export interface Rows<Row> {
    /** In no order of its own, unless `compare` gives one; a row stays where it is while it changes. */
    readonly list: readonly Row[];
    /** By the value of the key column; of several columns, by the JSON text of a list of their values: `[7,"a"]`. */
    readonly byKey: ReadonlyMap<Key, Row>;
    /** False until the rows were read for the first time. */
    readonly isLoaded: boolean;
    /** Whether they are followed right now. Without a connection they may be out of date, until it is there again. */
    readonly isLive: boolean;
}
export interface RowsOptions<Row = Record<string, any>> extends Subscription {
    /** One table: `orders`, `public.orders`. */
    readonly table: string;
    readonly action?: never;
    /** The columns that identify a row: `id` unless given. They must be among `columns`. */
    readonly key?: string | readonly string[];
    /**
     * Rows that were kept, with the cursor of that moment, of the same table, filter and columns: it begins with them, and
     * applies what has changed since. Without it, or with a cursor of null, it reads the rows.
     */
    readonly since?: {
        readonly list: readonly Row[];
        readonly cursor: string | null;
    } | null;
    /** Sorts the list, as for Array.sort. */
    readonly compare?: (one: Row, other: Row) => number;
}
export interface LiveRows<Row = Record<string, any>> {
    /** The rows now; the same object until they change. */
    get(): Rows<Row>;
    /** The place of these rows, to keep with them for `since`; null while they have to be read first. */
    readonly cursor: string | null;
    /**
     * Calls `run` with the rows at once, and then when they have changed, at most 60 times a second. Returns a function
     * that ends this.
     */
    subscribe(run: (rows: Rows<Row>) => void): () => void;
    /** Ends the connection. No callback is called after it, and the rows stay as they are. */
    close(): void;
}
/**
 * Reads the rows of a table and keeps them as they are in the database, until it is closed or refused.
 *
 * After a lost connection it applies the changes that it missed. Where they are not known, after a gap or a statement
 * above the table's `row_limit`, it reads the rows again by itself; until then the old ones stay. Throws as `connect`
 * does.
 */
export declare function rows<Row extends object = Record<string, any>>(options: RowsOptions<Row>): LiveRows<Row>;
export declare function rows<Row extends object = Record<string, any>>(url: Address | undefined, options: RowsOptions<Row>): LiveRows<Row>;
