// Comes in: the state and the time. Goes out: what each view shows, as plain values. Changes nothing.
import { type Action, ACTIONS, type Counts, type Database } from './protocol';
import { agoText, bytesText, clockTextWithMs, countText, shortened, valueText } from './format';
import type { Change, Columns, Row } from './rows';
import type { Connection } from './socket';
import { changesCounted, type State } from './state';

export const CHART_SECONDS = 300;
/** What the chart shows at least, when the server has only begun to count. */
export const CHART_LEAST_SECONDS = 60;
export const SPARKLINE_SECONDS = 60;
/** Rates are the mean over this many seconds: the last whole second alone would flicker. */
export const RATE_SECONDS = 5;
export const TABLES_SHOWN = 20;
export const ROWS_SHOWN = 30;
const COLUMNS_SHOWN = 6;
const VALUE_CHARACTERS = 48;
const FOREIGN_CHARACTERS = 240;

export type Rates = readonly (number | null)[];

export interface Status {
  readonly connection: Connection['state'];
  /** Whole seconds; null unless it waits. */
  readonly retryInSeconds: number | null;
  readonly lastMessageAt: number | null;
  /** Null until the server has said something. While the browser is not connected, its last word. */
  readonly database: Database | null;
}

export function statusOf(state: State, now: number): Status {
  const { connection } = state;
  return {
    connection: connection.state,
    retryInSeconds:
      connection.state === 'waiting' ? Math.max(0, Math.ceil((connection.retryAt - now) / 1000)) : null,
    lastMessageAt: state.lastMessageAt,
    database: state.server?.database ?? null,
  };
}

/** Null where there is no journal, or not yet known. */
export interface JournalPicture {
  readonly text: string;
  readonly explanation: string;
}

export function journalOf(state: State, now: number): JournalPicture | null {
  const journal = state.status?.journal ?? null;
  if (journal === null) return null;
  const limit = bytesText(journal.retentionBytes);
  const size = `${bytesText(journal.bytes)} of ${limit}`;
  const hours = journal.retentionHours === 1 ? '1 hour' : `${countText(journal.retentionHours)} hours`;
  return {
    text: journal.oldest === null ? size : `${size} · oldest ${agoText(serverNow(state, now) - journal.oldest)}`,
    explanation: `What is journaled is kept for ${hours}, or until it takes up ${limit}`,
  };
}

export interface Numbers {
  /** All actions together. */
  readonly rate: number | null;
  /** In the order of ACTIONS. */
  readonly rates: Rates;
  readonly totals: readonly number[];
  readonly other: number;
  readonly counted: number;
  /** Epoch milliseconds. */
  readonly since: number | null;
}

export function numbersOf(state: State, now: number): Numbers {
  const rates = ratesOf(state, null, lastWholeStep(state, now));
  const known = rates.filter((rate) => rate !== null);
  return {
    rate: known.length === 0 ? null : known.reduce((sum, rate) => sum + rate, 0),
    rates,
    totals: ACTIONS.map((_, action) => sumOf(state.server?.totals.values() ?? [], action)),
    other: state.server?.other ?? 0,
    counted: changesCounted(state.server),
    since: state.server === null ? null : state.server.since * 1000,
  };
}

/** Times in epoch seconds; then INSERT, UPDATE, DELETE per second, null where nobody counted. */
export type ChartData = readonly [number[], (number | null)[], (number | null)[], (number | null)[]];

export function chartOf(state: State, now: number): ChartData {
  const { timeline } = state;
  const { stepSeconds } = timeline;
  const last = lastWholeStep(state, now);
  // From the first whole step on: only a part of the one before is known.
  const known = last - Math.ceil(timeline.knownFrom / stepSeconds) + 1;
  const most = Math.ceil(CHART_SECONDS / stepSeconds);
  const length = Math.min(most, Math.max(known, Math.ceil(CHART_LEAST_SECONDS / stepSeconds)));
  const steps = Array.from({ length }, (_, place) => last - length + 1 + place);
  const perSecond = (action: number) =>
    steps.map((step) => {
      const count = timeline.count(null, step, action);
      return count === null ? null : count / stepSeconds;
    });
  return [steps.map((step) => step * stepSeconds), perSecond(0), perSecond(1), perSecond(2)];
}

export interface TableLine {
  readonly name: string;
  /** Without the schema public, unless that would make it the name of another. */
  readonly shownName: string;
  readonly rates: Rates;
  readonly total: number;
  /** Not all its changes come: see `Tables.incomplete`. */
  readonly isIncomplete: boolean;
  /** Seconds; null if not within the history. */
  readonly lastSeenAgo: number | null;
  /** Changes per step, oldest first, null where nobody counted. */
  readonly sparkline: readonly (number | null)[];
}

export interface Tables {
  /** The busiest first. */
  readonly lines: readonly TableLine[];
  readonly of: number;
  /** Names of watched tables whose triggers are not as they ought to be, whether or not they have changed. */
  readonly incomplete: readonly string[];
}

export function tablesOf(state: State, now: number): Tables {
  const { timeline, server } = state;
  const incomplete = state.status?.incomplete ?? [];
  if (server === null) return { lines: [], of: 0, incomplete };
  const last = lastWholeStep(state, now);
  const steps = Math.ceil(SPARKLINE_SECONDS / timeline.stepSeconds);
  const busiest = [...server.totals]
    .map(([name, counts]) => ({ name, total: total(counts), newest: timeline.total(name, last, steps) }))
    .sort((a, b) => b.newest - a.newest || b.total - a.total || (a.name < b.name ? -1 : 1));
  const lines = busiest.slice(0, TABLES_SHOWN).map(({ name, total }) => {
    const lastSeen = server.lastSeen.get(name);
    return {
      name,
      shownName: server.totals.has(withoutPublic(name)) ? name : withoutPublic(name),
      rates: ratesOf(state, name, last),
      total,
      isIncomplete: incomplete.includes(name),
      lastSeenAgo: lastSeen === undefined ? null : Math.max(0, serverNow(state, now) - lastSeen),
      sparkline: Array.from({ length: steps }, (_, place) => allActions(state, name, last - steps + 1 + place)),
    };
  });
  return { lines, of: busiest.length, incomplete };
}

export type Part =
  | { readonly kind: 'value'; readonly name: string; readonly value: string }
  | { readonly kind: 'changed'; readonly name: string; readonly before: string; readonly after: string }
  | { readonly kind: 'text'; readonly text: string };

export interface TailLine {
  readonly time: string;
  readonly action: Action | null;
  readonly table: string;
  /** As in the list of tables. */
  readonly shownTable: string;
  readonly id: string;
  readonly parts: readonly Part[];
}

export interface Tail {
  /** Newest first. */
  readonly lines: readonly TailLine[];
  readonly counted: number;
  /** Changes between the oldest line and now that were not sent to this page. */
  readonly missed: number;
}

export function tailOf(state: State): Tail {
  const rows = state.rows.newest(ROWS_SHOWN);
  const isTable = (name: string) => state.server?.totals.has(name) ?? false;
  const oldest = rows.at(-1);
  return {
    lines: rows.map((row) => tailLineOf(row, isTable)),
    counted: changesCounted(state.server),
    missed: oldest === undefined ? 0 : state.rows.missedSince(oldest),
  };
}

function tailLineOf(row: Row, isTable: (name: string) => boolean): TailLine {
  const { content } = row;
  if (content.kind === 'foreign') {
    const text = shortened(content.text, FOREIGN_CHARACTERS);
    return { time: timeText(row.receivedAt), action: null, table: '', shownTable: '', id: '', parts: [{ kind: 'text', text }] };
  }
  const table = content.schema === null ? content.table : `${content.schema}.${content.table}`;
  const key = content.data === null ? undefined : keyOf(content.data);
  return {
    time: timeText(content.at ?? row.receivedAt),
    action: content.action,
    table,
    shownTable: isTable(withoutPublic(table)) ? table : withoutPublic(table),
    id: key === undefined ? '' : valueText(content.data?.[key] ?? null, VALUE_CHARACTERS),
    parts: partsOf(content, key),
  };
}

function withoutPublic(name: string): string {
  return name.replace(/^public\.(?=.)/, '');
}

/** The payload does not say what the key is; `id`, or else the first column, is what people look for. */
function keyOf(data: Columns): string | undefined {
  return Object.hasOwn(data, 'id') ? 'id' : Object.keys(data)[0];
}

function partsOf(change: Change, key: string | undefined): readonly Part[] {
  if (change.action === 'TRUNCATE') return [{ kind: 'text', text: 'all rows removed' }];
  const data = change.data ?? {};
  if (change.action === 'UPDATE' && change.old !== null) {
    const changed = Object.entries(change.old).map(([name, before]) => ({
      kind: 'changed' as const,
      name,
      before: valueText(before, VALUE_CHARACTERS),
      after: valueText(data[name] ?? null, VALUE_CHARACTERS),
    }));
    return changed.length === 0 ? [{ kind: 'text', text: 'no column changed' }] : changed.slice(0, COLUMNS_SHOWN);
  }
  return Object.entries(data)
    .filter(([name]) => name !== key)
    .slice(0, COLUMNS_SHOWN)
    .map(([name, value]) => ({ kind: 'value', name, value: valueText(value, VALUE_CHARACTERS) }));
}

/**
 * The newest step that is over, so that the one still being counted is not drawn as a dip. While the browser is
 * not connected the steps go on, unknown.
 */
function lastWholeStep(state: State, now: number): number {
  return state.timeline.stepOf(serverNow(state, now)) - 1;
}

/** Epoch seconds of the server's clock: as it said in its last message, or reckoned since. */
function serverNow(state: State, now: number): number {
  if (state.server === null) return now / 1000;
  return state.connection.state === 'open' ? state.server.now : now / 1000 + state.server.ahead;
}

function ratesOf(state: State, table: string | null, last: number): Rates {
  const steps = Math.ceil(RATE_SECONDS / state.timeline.stepSeconds);
  return ACTIONS.map((_, action) => state.timeline.rate(table, last, steps, action));
}

function allActions(state: State, table: string, step: number): number | null {
  const counts = ACTIONS.map((_, action) => state.timeline.count(table, step, action));
  return counts.reduce((sum, count) => (sum === null || count === null ? null : sum + count), 0);
}

function sumOf(all: Iterable<Counts>, action: number): number {
  let sum = 0;
  for (const counts of all) sum += counts[action] ?? 0;
  return sum;
}

function total(counts: Counts): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

/** A row that says no time and was there before this page came is only known to be earlier. */
function timeText(milliseconds: number | null): string {
  return milliseconds === null ? 'earlier' : clockTextWithMs(milliseconds);
}
