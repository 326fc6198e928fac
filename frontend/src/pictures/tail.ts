// Comes in: rows. Goes out: a line for each, which shows what changed.
import { clockText, clockTextWithMs, countText, kindOf, shortened, type ValueKind, valueText, type Zone } from '../values/format';
import type { Columns, Json } from '../values/json';
import { shownName } from './view_model';
import type { Action } from '../feed/protocol';
import type { Change, TailEntry } from '../model/tail_entries';

// Of a wide line; a row's panel shows all of them.
const COLUMNS_SHOWN = 5;
const CHANGES_SHOWN = 4;
const VALUE_CHARACTERS = 48;
const FOREIGN_CHARACTERS = 240;

const BETWEEN = '\u00a0\u00a0 '; // three spaces, of which none collapses

/** A piece of a line. They are one flat list, since every element of every line costs at each draw. */
export interface Part {
  /** What precedes it: a column's name, or the arrow from the old value to the new one. */
  readonly lead: string;
  readonly text: string;
  /** What it looks like: a value of this kind, a value as it was, or words of ours. */
  readonly look: ValueKind | 'old' | 'words';
}

export interface TailLine {
  readonly row: TailEntry;
  readonly time: string;
  /** Null for other JSON than a change. */
  readonly action: Action | null;
  readonly table: string;
  /** As in the list of tables. */
  readonly shownTable: string;
  readonly id: string;
  readonly parts: readonly Part[];
  /** What was not sent to this page between this line and the one below; empty: nothing. */
  readonly missed: string;
}

/** `below`: the row that came before it, of all that were sent; null if unknown. */
export function tailLineOf(
  row: TailEntry,
  below: TailEntry | null,
  zone: Zone,
  tables: ReadonlyMap<string, unknown> | undefined,
): TailLine {
  const missed = below === null ? '' : missedText(row, below, zone);
  const { content } = row;
  if (content.kind === 'foreign') {
    const part: Part = { lead: '', text: shortened(content.text, FOREIGN_CHARACTERS), look: 'words' };
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
    id: key === undefined ? '' : shortText(content.data?.get(key) ?? null),
    parts: partsOf(content, key),
    missed,
  };
}

function missedText({ missedBefore, away }: TailEntry, below: TailEntry, zone: Zone): string {
  const missed = missedBefore - below.missedBefore;
  if (missed === 0) return '';
  if (away === null) return `· ${countText(missed)} more ·`;
  const [from, to] = [away.from, away.to].map((at) => clockText(at, zone));
  return `${countText(missed)} not received, ${from} – ${to} (counted, but not here)`;
}

function shortText(value: Json): string {
  return valueText(value, VALUE_CHARACTERS);
}

/** The payload does not say what the key is; `id`, or else the first column, is what people look for. */
function keyOf(data: Columns): string | undefined {
  return data.has('id') ? 'id' : data.keys().next().value;
}

function partsOf(change: Change, key: string | undefined): readonly Part[] {
  if (change.cut !== null)
    return wordsOf(`a row of ${countText(change.cut.characters)} characters: open it to load it`);
  if (change.action === 'TRUNCATE') return wordsOf('all rows removed');
  if (change.data === null && change.count > 1) return wordsOf(`${countText(change.count)} rows in one statement`);
  const data = change.data ?? new Map<string, Json>();
  if (change.action === 'UPDATE' && change.old !== null) {
    if (change.old.size === 0) return wordsOf('no column changed');
    return [...change.old].slice(0, CHANGES_SHOWN).flatMap(([name, before], place): Part[] => {
      const after = data.get(name) ?? null;
      return [
        { lead: leadOf(name, place), text: shortText(before), look: 'old' },
        { lead: ' → ', text: shortText(after), look: kindOf(after) },
      ];
    });
  }
  return [...data]
    .filter(([name]) => name !== key)
    .slice(0, COLUMNS_SHOWN)
    .map(([name, value], place) => ({ lead: leadOf(name, place), text: shortText(value), look: kindOf(value) }));
}

function wordsOf(text: string): readonly Part[] {
  return [{ lead: '', text, look: 'words' }];
}

function leadOf(name: string, place: number): string {
  return `${place === 0 ? '' : BETWEEN}${name}: `;
}

/** A row without a time that was there before this page opened is only known to be earlier. */
function timeOf(milliseconds: number | null, zone: Zone): string {
  return milliseconds === null ? 'earlier' : clockTextWithMs(milliseconds, zone);
}
