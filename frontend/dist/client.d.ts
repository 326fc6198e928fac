// The client of psqlisten2websocket: see "In your page" in its README. MIT License.
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
export type State = {
    readonly state: 'connecting';
}
/** The server has accepted the subscription. */
 | {
    readonly state: 'open';
}
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
/**
 * Follows the feed at `url`, which is /ws of the page's own server unless said otherwise, until it is closed.
 *
 * A lost connection is made anew, for ever, and goes on after the last change that was delivered: each comes once, in
 * order. Where that can't be kept, onGap says so. While the page is left, which the Back button may bring back as it was,
 * it has no connection. Throws SyntaxError or TypeError for an invalid URL, TypeError for an unknown option.
 */
export declare function connect(options: Options): Feed;
export declare function connect(url: string | URL | undefined, options?: Options): Feed;
