// Comes in: rows. Goes out: a line for each, which says what changed.
import { clockTextWithMs, countText, kindOf, shortened, type ValueKind, valueText, type Zone } from './format';
import type { Columns, Json } from './json';
import { shownName } from './picture';
import type { Action } from './protocol';
import type { Change, Row } from './rows';

const COLUMNS_SHOWN = 6;
const VALUE_CHARACTERS = 48;
const FOREIGN_CHARACTERS = 240;

export interface Value {
  readonly text: string;
  readonly kind: ValueKind;
}

export type Part =
  | { readonly kind: 'value'; readonly name: string; readonly value: Value }
  | { readonly kind: 'changed'; readonly name: string; readonly before: Value; readonly after: Value }
  | { readonly kind: 'text'; readonly text: string };

export interface TailLine {
  readonly row: Row;
  readonly time: string;
  /** Null of what is no change of ours. */
  readonly action: Action | null;
  readonly table: string;
  /** As in the list of tables. */
  readonly shownTable: string;
  readonly id: string;
  readonly parts: readonly Part[];
  /** Changes between this line and the one below that were not sent to this page. */
  readonly missed: number;
}

/** `below`: the row that came before it, of all that were sent; null if unknown. */
export function tailLineOf(
  row: Row,
  below: Row | null,
  zone: Zone,
  tables: ReadonlyMap<string, unknown> | undefined,
): TailLine {
  const missed = below === null ? 0 : row.missedBefore - below.missedBefore;
  const { content } = row;
  if (content.kind === 'foreign') {
    const part: Part = { kind: 'text', text: shortened(content.text, FOREIGN_CHARACTERS) };
    return {
      row,
      time: timeOf(row.receivedAt, zone),
      action: null,
      table: '',
      shownTable: '',
      id: '',
      parts: [part],
      missed,
    };
  }
  const key = content.data === null ? undefined : keyOf(content.data);
  return {
    row,
    time: timeOf(content.at ?? row.receivedAt, zone),
    action: content.action,
    table: content.table,
    shownTable: shownName(content.table, tables),
    id: key === undefined ? '' : valueOf(content.data?.get(key) ?? null).text,
    parts: partsOf(content, key),
    missed,
  };
}

export function valueOf(value: Json): Value {
  return { text: valueText(value, VALUE_CHARACTERS), kind: kindOf(value) };
}

/** The payload does not say what the key is; `id`, or else the first column, is what people look for. */
function keyOf(data: Columns): string | undefined {
  return data.has('id') ? 'id' : data.keys().next().value;
}

function partsOf(change: Change, key: string | undefined): readonly Part[] {
  if (change.cut !== null)
    return [{ kind: 'text', text: `a row of ${countText(change.cut.characters)} characters: open it to load it` }];
  if (change.action === 'TRUNCATE') return [{ kind: 'text', text: 'all rows removed' }];
  if (change.data === null && change.count > 1)
    return [{ kind: 'text', text: `${countText(change.count)} rows in one statement` }];
  const data = change.data ?? new Map<string, Json>();
  if (change.action === 'UPDATE' && change.old !== null) {
    const changed = [...change.old].map(([name, before]) => ({
      kind: 'changed' as const,
      name,
      before: valueOf(before),
      after: valueOf(data.get(name) ?? null),
    }));
    return changed.length === 0 ? [{ kind: 'text', text: 'no column changed' }] : changed.slice(0, COLUMNS_SHOWN);
  }
  return [...data]
    .filter(([name]) => name !== key)
    .slice(0, COLUMNS_SHOWN)
    .map(([name, value]) => ({ kind: 'value', name, value: valueOf(value) }));
}

/** A row that says no time and was there before this page came is only known to be earlier. */
function timeOf(milliseconds: number | null, zone: Zone): string {
  return milliseconds === null ? 'earlier' : clockTextWithMs(milliseconds, zone);
}
