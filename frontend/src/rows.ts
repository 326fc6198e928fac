// Comes in: JSON texts of changes. Goes out: the newest of them, parsed only when looked at, every number exact.
// Knows no message and no view.
import { isLosslessNumber, type LosslessNumber, parse } from 'lossless-json';

import { ACTIONS, type Action } from './protocol';

export type Json = string | boolean | null | LosslessNumber | readonly Json[] | Columns;
export interface Columns {
  readonly [name: string]: Json;
}

export interface Change {
  readonly kind: 'change';
  readonly action: Action;
  readonly table: string;
  readonly schema: string | null;
  readonly data: Columns | null;
  /** On UPDATE the previous values of what changed, if the trigger tells them. */
  readonly old: Columns | null;
  /** Epoch milliseconds. */
  readonly at: number | null;
}

/** What somebody else's trigger sends, or a text too long to be read while it runs by. */
export interface Foreign {
  readonly kind: 'foreign';
  readonly text: string;
}

/** Parsing what is longer would be felt; only its beginning is kept. */
export const ROW_LIMIT_CHARACTERS = 65_536;
const KEPT_OF_LONG_ROW = 400;

export class Row {
  #content: Change | Foreign | null = null;
  #text: string;

  /**
   * `receivedAt`: epoch milliseconds, null if it was there before this page.
   * `missedBefore`: how many changes were not sent to this page before the message that brought this one.
   */
  constructor(
    text: string,
    readonly receivedAt: number | null,
    readonly missedBefore: number,
  ) {
    this.#text = text;
  }

  get content(): Change | Foreign {
    this.#content ??= contentOf(this.#text);
    return this.#content;
  }

  isText(text: string): boolean {
    return this.#text === text;
  }
}

/** A ring of the newest `limit` rows. */
export class Rows {
  readonly #ring: Row[] = [];
  #pushed = 0;
  #missed = 0;

  constructor(readonly limit: number) {}

  /** Counts up with every row and every missed change: whoever draws can see that there is something to draw. */
  get revision(): number {
    return this.#pushed + this.#missed;
  }

  /** The sample `texts`, oldest first, of `of` changes. */
  push(texts: readonly string[], of: number, receivedAt: number | null): void {
    const missedBefore = this.#missed;
    for (const text of texts) {
      this.#ring[this.#pushed % this.limit] = new Row(text, receivedAt, missedBefore);
      this.#pushed += 1;
    }
    this.#missed += Math.max(0, of - texts.length);
  }

  /**
   * After a lost connection: of `recent`, oldest first, adds those that are not held yet. `since`: how many
   * changes there were since the newest row held.
   */
  resume(recent: readonly string[], since: number): void {
    const [newest] = this.newest(1);
    if (newest === undefined) return this.push(recent, recent.length, null);
    const held = recent.findLastIndex((text) => newest.isText(text));
    this.push(recent.slice(held + 1), since, null);
  }

  /** Newest first. */
  newest(count: number): Row[] {
    const rows: Row[] = [];
    for (let at = this.#pushed - 1; at >= 0 && rows.length < Math.min(count, this.limit); at--) {
      const row = this.#ring[at % this.limit];
      if (row !== undefined) rows.push(row);
    }
    return rows;
  }

  /** How many changes between this row and now were not sent to this page. */
  missedSince(row: Row): number {
    return this.#missed - row.missedBefore;
  }
}

function contentOf(text: string): Change | Foreign {
  if (text.length > ROW_LIMIT_CHARACTERS) return { kind: 'foreign', text: text.slice(0, KEPT_OF_LONG_ROW) };
  const foreign: Foreign = { kind: 'foreign', text };
  let value: Json;
  try {
    // A `json` column may hold a key twice; the last one wins, as in jsonb.
    value = parse(text, null, { onDuplicateKey: ({ newValue }) => newValue }) as Json;
  } catch {
    // Not JSON, or nested too deep: it is still shown as it came.
    return foreign;
  }
  if (!isColumns(value)) return foreign;
  const { action, table, schema, data, old, at } = value;
  if (typeof table !== 'string' || !isAction(action)) return foreign;
  const milliseconds = typeof at === 'string' ? Date.parse(at) : NaN;
  return {
    kind: 'change',
    action,
    table,
    schema: typeof schema === 'string' ? schema : null,
    data: isColumns(data) ? data : null,
    old: isColumns(old) ? old : null,
    at: Number.isNaN(milliseconds) ? null : milliseconds,
  };
}

function isAction(value: Json | undefined): value is Action {
  return ACTIONS.some((action) => action === value);
}

function isColumns(value: Json | undefined): value is Columns {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !isLosslessNumber(value);
}
