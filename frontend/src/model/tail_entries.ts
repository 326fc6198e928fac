// Comes in: JSON texts of changes. Goes out: the newest of them, parsed only when looked at, every number exact.
// Knows no message and no view.
import { tableName } from '../values/format';
import { type Columns, isColumns, type Json, JsonNumber, parseJson } from '../values/json';
import { type Action, ACTIONS } from '../feed/protocol';

export interface Change {
  readonly kind: 'change';
  readonly action: Action;
  /** `schema.table`, or `table` when a trigger of the database's own names no schema. */
  readonly table: string;
  readonly data: Columns | null;
  /** On UPDATE the previous values of what changed, if the trigger sends them. */
  readonly old: Columns | null;
  /** Epoch milliseconds. */
  readonly at: number | null;
  /** Its place in the journal; null if a NOTIFY trigger sent it. */
  readonly cursor: string | null;
  readonly xid: string | null;
  /** The number of rows that it represents. */
  readonly count: number;
  /** The server sent only the beginning of it: see Cut. */
  readonly cut: Cut | null;
}

export interface Cut {
  readonly characters: number;
  readonly beginning: string;
}

/** What another trigger sends. */
export interface Foreign {
  readonly kind: 'foreign';
  readonly text: string;
}

/** When a page was not connected, in epoch milliseconds. */
export interface Away {
  readonly from: number;
  readonly to: number;
}

export class TailEntry {
  #head: Pick<Change, 'table' | 'action' | 'at'> | null | undefined;

  /**
   * `number`: counts up with every row. `receivedAt`: epoch milliseconds, null if it was there before this page.
   * `missedBefore`: how many changes were not sent to this page before this one.
   * `away`: it is the first one after a time in which this page was not connected.
   */
  constructor(
    readonly text: string,
    readonly number: number,
    readonly receivedAt: number | null,
    readonly missedBefore: number,
    readonly away: Away | null = null,
  ) {}

  /** Parsed again each time: ten thousand texts are kept; ten thousand parsed rows would take ten times the memory. */
  get content(): Change | Foreign {
    const content = contentOf(this.text);
    this.#head = content.kind === 'change' ? { table: content.table, action: content.action, at: content.at } : null;
    return content;
  }

  /** Null of a foreign one. */
  get head(): Pick<Change, 'table' | 'action' | 'at'> | null {
    if (this.#head === undefined) void this.content;
    return this.#head ?? null;
  }
}

/** A ring of the newest `limit` rows. */
export class TailEntries {
  /** How many rows and how many missed changes there ever were. */
  pushed = 0;
  missed = 0;
  readonly #ring: TailEntry[] = [];

  constructor(readonly limit: number) {}

  /** The sample `texts`, oldest first, of `of` changes. */
  push(texts: readonly string[], of: number, receivedAt: number | null, away: Away | null = null): void {
    // They are the newest: what is missing was before them.
    this.missed += Math.max(0, of - texts.length);
    const missedBefore = this.missed;
    for (const [place, text] of texts.entries()) {
      const row = new TailEntry(text, this.pushed, receivedAt, missedBefore, place === 0 ? away : null);
      this.#ring[this.pushed % this.limit] = row;
      this.pushed += 1;
    }
  }

  /**
   * After a lost connection: of `recent`, oldest first, adds those that are not held yet. `since`: how many
   * changes there were since the newest row held.
   */
  resume(recent: readonly string[], since: number, away: Away | null): void {
    const [newest] = this.newest(1);
    if (newest === undefined) return this.push(recent, recent.length, null);
    const held = recent.lastIndexOf(newest.text);
    this.push(recent.slice(held + 1), since, null, away);
  }

  /** Newest first. */
  newest(count: number): TailEntry[] {
    const rows: TailEntry[] = [];
    for (let at = this.pushed - 1; at >= 0 && rows.length < Math.min(count, this.limit); at--) {
      const row = this.#ring[at % this.limit];
      if (row !== undefined) rows.push(row);
    }
    return rows;
  }
}

export function contentOf(text: string): Change | Foreign {
  const foreign: Foreign = { kind: 'foreign', text };
  let value: Json;
  try {
    value = parseJson(text);
  } catch {
    // Not JSON, or nested too deep: it is still shown as it came.
    return foreign;
  }
  return isColumns(value) ? (changeOf(value) ?? foreign) : foreign;
}

function changeOf(value: Columns): Change | null {
  const cut = cutOf(value.get('cut'));
  const [action, table, schema, data, old, at] = ['action', cut ? 'name' : 'table', 'schema', 'data', 'old', 'at'].map(
    (key) => value.get(key),
  );
  if (typeof table !== 'string' || !isAction(action)) return null;
  const milliseconds = typeof at === 'string' ? Date.parse(at) : NaN;
  return {
    kind: 'change',
    action,
    table: typeof schema === 'string' && schema !== '' ? tableName(schema, table) : table,
    data: isColumns(data) ? data : null,
    old: isColumns(old) ? old : null,
    at: Number.isNaN(milliseconds) ? null : milliseconds,
    cursor: textOrNull(value.get('cursor')),
    xid: textOrNull(value.get('xid')),
    count: numberOf(value.get('count')) ?? 1,
    cut,
  };
}

function cutOf(value: Json | undefined): Cut | null {
  if (!isColumns(value)) return null;
  const characters = numberOf(value.get('characters'));
  const beginning = value.get('beginning');
  return characters === null || typeof beginning !== 'string' ? null : { characters, beginning };
}

function numberOf(value: Json | undefined): number | null {
  return value instanceof JsonNumber ? Number(value.text) : null;
}

function textOrNull(value: Json | undefined): string | null {
  return typeof value === 'string' ? value : null;
}

function isAction(value: Json | undefined): value is Action {
  return ACTIONS.some((action) => action === value);
}
