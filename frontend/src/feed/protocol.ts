// Comes in: the JSON text of a WebSocket message or an HTTP answer. Goes out: a typed value, or what is wrong.
// Knows no socket and no state. What has passed here is trusted everywhere else.

import type { DelayScale, Histogram } from '../values/delays';
import { isColumns, type Json, jsonText, parseJson } from '../values/json';

export const ACTIONS = ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'] as const;
export type Action = (typeof ACTIONS)[number];

/** How many changes, in the order of ACTIONS. */
export type Counts = readonly [inserts: number, updates: number, deletes: number, truncates: number];

/** By table: `public.orders`, or `orders` when a trigger of the database's own names no schema. */
export type Totals = ReadonlyMap<string, Counts>;

/** The counts of one step of time; they replace what was known of it, they do not add to it. */
export interface Bucket {
  /** Epoch seconds of the beginning of the step. */
  readonly at: number;
  readonly counts: Totals;
  /** The delays of the changes that arrived in it; null if the server does not send them. */
  readonly delays: Histogram | null;
}

/** By seconds of a step. */
export type BucketsByStep = ReadonlyMap<number, readonly Bucket[]>;

export interface Database {
  readonly state: 'connecting' | 'listening' | 'lost';
  readonly name: string;
  /** Epoch seconds. */
  readonly since: number;
  readonly reason: string | null;
}

export type Payload = 'off' | 'keys' | 'full';

export interface Hello {
  readonly type: 'hello';
  readonly version: string;
  readonly database: Database;
  /** Epoch seconds: the server's clock. */
  readonly now: number;
  /** Epoch seconds from which everything is counted. */
  readonly since: number;
  /** False while the server still counts what was before. Another hello comes when it has. */
  readonly hasHistory: boolean;
  /** Seconds of a step -> how many steps are kept; the finest first. */
  readonly steps: ReadonlyMap<number, number>;
  readonly delayScale: DelayScale;
  /** How many rows of a second are sent at most to a page that asks for all. */
  readonly rowsAtMost: number;
  /** What of a row the server sends: nothing, its key, all. */
  readonly payload: Payload;
  readonly totals: Totals;
  readonly other: number;
  readonly cursor: string | null;
  /** JSON texts of changes, oldest first. */
  readonly recent: readonly string[];
}

export interface Activity {
  readonly type: 'activity';
  readonly number: number;
  readonly now: number;
  /** What changed since the last counts; null between two of them. */
  readonly counts: { readonly totals: Totals; readonly other: number; readonly buckets: BucketsByStep } | null;
  /** `changes` is a sample, oldest first, of the `of` changes since the last message. */
  readonly rows: {
    readonly of: number;
    readonly changes: readonly string[];
    /** How many of them fit the filter that the server was given; null where there is none. */
    readonly matching: number | null;
    readonly withheld: string | null;
  };
  /** A place in the journal: the counts include everything up to it; null without a journal. */
  readonly cursor: string | null;
}

export interface Gap {
  readonly type: 'gap';
  readonly from: string | null;
  readonly to: string | null;
  /** Epoch seconds, null where only the cursors are known. */
  readonly since: number | null;
  readonly until: number | null;
  readonly why: string;
  readonly whatToDo: string;
}

export type Message =
  | Hello
  | ({ readonly type: 'database' } & Database)
  | Activity
  | Gap
  | { readonly type: 'error'; readonly code: string; readonly message: string }
  | { readonly type: 'going_away'; readonly reconnectInMs: number };

export interface History {
  readonly now: number;
  readonly since: number;
  readonly stepSeconds: number;
  readonly buckets: readonly Bucket[];
  /** The outages: from and to in epoch seconds; `to` is null if it lasts. */
  readonly deaf: readonly (readonly [number, number | null])[];
}

/** A page of the journal. */
export interface ChangesPage {
  /** Their JSON texts, in the journal's order, every number with its digits. */
  readonly changes: readonly string[];
  /** The place after the last. */
  readonly cursor: string;
  readonly hasMore: boolean;
}

export interface TableStatus {
  readonly schema: string;
  readonly table: string;
  readonly watchedBy: 'journal' | 'notify' | null;
  /** Null: not for this page to know. */
  readonly estimatedRows: number | null;
  /** Whether the server's role may watch it or, where the journal has it, end that. */
  readonly canChange: boolean;
}

export interface Journal {
  readonly bytes: number;
  /** Epoch seconds; null while it is empty. */
  readonly oldest: number | null;
  readonly retentionHours: number;
  readonly retentionBytes: number;
}

export interface JournalStatus {
  /** Null where there is none. */
  readonly journal: Journal | null;
  /** Watched tables, named as in `Totals`, whose triggers are missing or altered. */
  readonly incomplete: readonly string[];
}

/** What the server lets this page see and do. */
export interface Session {
  /** Whether one signs in at all. */
  readonly isRequired: boolean;
  readonly isAdmin: boolean;
  readonly seesEverything: boolean;
  /** Tables of which only some rows may be seen, so that their counts may not. */
  readonly notCounted: readonly string[];
}

export type Decoded<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly problem: string };

export function decodeMessage(text: string): Decoded<Message> {
  return decode(text, (value) => message(fields(value, 'the message')));
}

export function decodeHistory(text: string): Decoded<History> {
  return decode(text, (value) => {
    const of = fields(value, 'the answer');
    return {
      now: number(of, 'now'),
      since: time(of, 'since'),
      stepSeconds: positive(of, 'step_seconds'),
      buckets: list(of, 'buckets').map(bucket),
      deaf: of['deaf'] === undefined ? [] : list(of, 'deaf').map(span),
    };
  });
}

export function decodeTables(text: string): Decoded<readonly TableStatus[]> {
  return decode(text, (value) =>
    list(fields(value, 'the answer'), 'tables').map((item) => {
      const of = fields(item, 'a table');
      return {
        schema: string(of, 'schema'),
        table: string(of, 'table'),
        watchedBy: watchedBy(of),
        canChange: of['can_change'] === true,
        estimatedRows: of['estimated_rows'] === null ? null : number(of, 'estimated_rows'),
      };
    }),
  );
}

export function decodeStatus(text: string): Decoded<JournalStatus> {
  return decode(text, (value) => {
    const of = fields(value, 'the answer');
    const watched = list(of, 'watched').map((item) => fields(item, 'a watched table'));
    return {
      journal: of['journal'] === null ? null : journal(fields(of['journal'], 'journal')),
      incomplete: watched
        .filter((table) => table['is_complete'] === false)
        .map((table) => `${string(table, 'schema')}.${string(table, 'table')}`),
    };
  });
}

export function decodeSession(text: string): Decoded<Session> {
  return decode(text, (value) => {
    const of = fields(value, 'the answer');
    return {
      isRequired: of['is_required'] === true,
      isAdmin: of['is_admin'] === true,
      seesEverything: of['sees_everything'] === true,
      notCounted: strings(of, 'not_counted'),
    };
  });
}

export function decodePlace(text: string): Decoded<string> {
  return decode(text, (value) => string(fields(value, 'the answer'), 'cursor'));
}

export function decodeChanges(text: string): Decoded<ChangesPage> {
  return decode(text, () => {
    const of = parseJson(text);
    const [changes, cursor] = isColumns(of) ? [of.get('changes'), of.get('cursor')] : [];
    if (!Array.isArray(changes) || typeof cursor !== 'string') throw new Malformed('it is no page of changes');
    return {
      changes: changes.map((change) => jsonText(change as Json)),
      cursor,
      hasMore: isColumns(of) && of.get('has_more') === true,
    };
  });
}

/** The message of `{"error": {"code": …, "message": …}}`, the one shape of the server's errors. */
export function decodeError(text: string): Decoded<string> {
  return decode(text, (value) => string(fields(fields(value, 'the answer')['error'], 'error'), 'message'));
}

class Malformed extends Error {}

function decode<T>(text: string, read: (value: unknown) => T): Decoded<T> {
  try {
    return { ok: true, value: read(JSON.parse(text)) };
  } catch (error) {
    if (error instanceof Malformed) return { ok: false, problem: error.message };
    if (error instanceof SyntaxError) return { ok: false, problem: `it is not JSON: ${error.message}` };
    throw error;
  }
}

function message(of: Fields): Message {
  const type = string(of, 'type');
  switch (type) {
    case 'hello':
      return {
        type,
        version: string(fields(of['server'], 'server'), 'version'),
        database: database(fields(of['database'], 'database')),
        now: number(of, 'now'),
        since: time(of, 'since'),
        hasHistory: of['has_history'] !== false,
        steps: steps(fields(of['steps'], 'steps')),
        delayScale: delayScale(fields(of['delays'], 'delays')),
        rowsAtMost: positive(fields(fields(of['paces'], 'paces')['all'], 'all'), 'rows_per_second'),
        payload: payload(of),
        totals: totals(of['totals'], 'totals'),
        other: number(of, 'other'),
        cursor: stringOrNull(of, 'cursor'),
        recent: strings(of, 'recent'),
      };
    case 'database':
      return { type, ...database(of) };
    case 'activity': {
      const rows = fields(of['rows'], 'rows');
      return {
        type,
        number: number(of, 'number'),
        now: number(of, 'now'),
        counts:
          of['totals'] === undefined
            ? null
            : {
                totals: totals(of['totals'], 'totals'),
                other: number(of, 'other'),
                buckets: bucketsByStep(fields(of['buckets'], 'buckets')),
              },
        rows: {
          of: number(rows, 'of'),
          changes: strings(rows, 'changes'),
          matching: rows['matching'] === undefined ? null : number(rows, 'matching'),
          withheld: stringOrNull(rows, 'withheld'),
        },
        cursor: stringOrNull(of, 'cursor'),
      };
    }
    case 'gap':
      return {
        type,
        from: stringOrNull(of, 'from'),
        to: stringOrNull(of, 'to'),
        since: timeOrNull(of, 'since'),
        until: timeOrNull(of, 'until'),
        why: string(of, 'why'),
        whatToDo: string(of, 'what_to_do'),
      };
    case 'error':
      return { type, code: string(of, 'code'), message: string(of, 'message') };
    case 'going_away':
      return { type, reconnectInMs: number(of, 'reconnect_in_ms') };
    default:
      throw new Malformed(`its type "${type}" is unknown`);
  }
}

function database(of: Fields): Database {
  const state = string(of, 'state');
  if (state !== 'connecting' && state !== 'listening' && state !== 'lost') {
    throw new Malformed(`the database state "${state}" is unknown`);
  }
  return { state, name: string(of, 'name'), since: time(of, 'since'), reason: stringOrNull(of, 'reason') };
}

function payload(of: Fields): Payload {
  const told = stringOrNull(of, 'payload') ?? 'full';
  if (told !== 'off' && told !== 'keys' && told !== 'full') throw new Malformed(`"payload" is "${told}"`);
  return told;
}

function watchedBy(of: Fields): TableStatus['watchedBy'] {
  const by = stringOrNull(of, 'watched_by');
  if (by !== 'journal' && by !== 'notify' && by !== null) throw new Malformed(`"watched_by" is "${by}"`);
  return by;
}

function journal(of: Fields): Journal {
  return {
    bytes: number(of, 'bytes'),
    oldest: timeOrNull(of, 'oldest'),
    retentionHours: number(of, 'retention_hours'),
    retentionBytes: number(of, 'retention_bytes'),
  };
}

function bucket(value: unknown): Bucket {
  const of = fields(value, 'a bucket');
  return {
    at: number(of, 'at'),
    counts: totals(of['counts'], 'counts'),
    delays: of['delays'] === undefined ? null : histogram(fields(of['delays'], 'delays')),
  };
}

function bucketsByStep(of: Fields): BucketsByStep {
  return new Map(Object.keys(of).map((step) => [Number(step), list(of, step).map(bucket)]));
}

function histogram(of: Fields): Histogram {
  return new Map(Object.keys(of).map((place) => [Number(place), number(of, place)]));
}

/** An object's keys that look like numbers come in their order. */
function steps(of: Fields): ReadonlyMap<number, number> {
  const found = new Map(Object.keys(of).map((step) => [Number(step), positive(of, step)]));
  if (found.size === 0) throw new Malformed('"steps" is empty');
  return found;
}

function delayScale(of: Fields): DelayScale {
  return { leastSeconds: positive(of, 'least_seconds'), perDoubling: positive(of, 'per_doubling') };
}

function span(value: unknown): readonly [number, number | null] {
  if (!Array.isArray(value)) throw new Malformed('a deaf span is not a list');
  const [from, to] = value as unknown[];
  if (!isCount(from) || !(to === null || isCount(to))) throw new Malformed('a deaf span is not two times');
  return [from, to];
}

function totals(value: unknown, name: string): Totals {
  return new Map(Object.entries(fields(value, name)).map(([table, counts]) => [table, fourCounts(counts, table)]));
}

function fourCounts(value: unknown, table: string): Counts {
  if (!Array.isArray(value) || value.length !== ACTIONS.length || !value.every(isCount)) {
    throw new Malformed(`the counts of ${table} are not ${ACTIONS.length} numbers`);
  }
  return value as unknown as Counts;
}

type Fields = Readonly<Record<string, unknown>>;

function fields(value: unknown, name: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Malformed(`${name} is not an object`);
  }
  return value as Fields;
}

function string(of: Fields, key: string): string {
  const value = of[key];
  if (typeof value !== 'string') throw new Malformed(`"${key}" is not a text`);
  return value;
}

function stringOrNull(of: Fields, key: string): string | null {
  return of[key] === null || of[key] === undefined ? null : string(of, key);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && value >= 0;
}

function number(of: Fields, key: string): number {
  const value = of[key];
  if (!isCount(value)) throw new Malformed(`"${key}" is not a number from 0 on`);
  return value;
}

function positive(of: Fields, key: string): number {
  const value = number(of, key);
  if (value === 0) throw new Malformed(`"${key}" is 0`);
  return value;
}

/** ISO 8601 in, epoch seconds out. */
function time(of: Fields, key: string): number {
  const seconds = Date.parse(string(of, key)) / 1000;
  if (Number.isNaN(seconds)) throw new Malformed(`"${key}" is not a time`);
  return seconds;
}

function timeOrNull(of: Fields, key: string): number | null {
  return of[key] === null || of[key] === undefined ? null : time(of, key);
}

function list(of: Fields, key: string): readonly unknown[] {
  const value = of[key];
  if (!Array.isArray(value)) throw new Malformed(`"${key}" is not a list`);
  return value;
}

function strings(of: Fields, key: string): readonly string[] {
  const value = list(of, key);
  if (!value.every((item) => typeof item === 'string')) throw new Malformed(`"${key}" holds other than texts`);
  return value as readonly string[];
}
