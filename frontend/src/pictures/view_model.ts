// Comes in: the state, what the reader chose, and the time. Goes out: what each view shows, as plain values.
// Changes nothing. The rows are in tail.ts, one of them whole in detail.ts.
import type { Timeline } from '../model/buckets';
import { type Choices, type Sort, WINDOWS } from '../model/choices';
import { type Histogram, type Percentiles, percentilesOf } from '../values/delays';
import { isActionWanted, isTableWanted } from '../model/filter';
import { agoText, bytesText, countText } from '../values/format';
import { ACTIONS, type Counts, type Database, type Payload, type Session } from '../feed/protocol';
import type { Connection } from '../feed/socket';
import { changesCounted, finest, type State } from '../model/state';

/** What the charts show at least, when the server has only begun to count. */
export const CHART_LEAST_STEPS = 60;
export const SPARKLINE_SECONDS = 60;
/** Rates are the mean over this many seconds: the last whole second alone would flicker. */
export const RATE_SECONDS = 5;
export const DELAY_SECONDS = 60;
export const TABLES_SHOWN = 20;

export type Rates = readonly (number | null)[];

export interface Status {
  readonly connection: Connection['state'];
  /** Whole seconds; null unless it waits. */
  readonly retryInSeconds: number | null;
  readonly lastMessageAt: number | null;
  /** Null until the first message. While the browser is not connected, of the last one. */
  readonly database: Database | null;
  /** Why no rows come at the moment. */
  readonly withheld: string | null;
  readonly payload: Payload;
  readonly session: Session | null;
}

export function statusOf(state: State, now: number): Status {
  const { connection } = state;
  return {
    connection: connection.state,
    retryInSeconds: connection.state === 'waiting' ? Math.max(0, Math.ceil((connection.retryAt - now) / 1000)) : null,
    lastMessageAt: state.lastMessageAt,
    database: state.server?.database ?? null,
    withheld: state.server?.withheld ?? null,
    payload: state.server?.payload ?? 'full',
    session: state.session,
  };
}

/** Null without a journal, or if it is not known yet. */
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
    explanation: `The journal keeps changes for ${hours}, or until it takes up ${limit}`,
  };
}

export interface Numbers {
  /** Which tables they are of; null: all. */
  readonly of: readonly string[] | null;
  /** All actions together. */
  readonly rate: number | null;
  /** In the order of ACTIONS. */
  readonly rates: Rates;
  readonly totals: readonly (number | null)[];
  readonly other: number | null;
  /** This and the totals are null before the first message, and while what was before `since` is still counted. */
  readonly counted: number | null;
  /** Epoch milliseconds. */
  readonly since: number | null;
  /** Whether the last second is known: not while a connection is lost. */
  readonly isCurrent: boolean;
  /** Of the last minute; null where nothing arrived whose delay is known, and while the last second is unknown. */
  readonly delays: Percentiles | null;
  /** Of the last seconds: how many of how many changes were sent to this page as rows; none while that is unknown. */
  readonly sent: number;
  readonly sentOf: number;
  readonly sentSeconds: number;
  readonly rowsAtMost: number;
}

export function numbersOf(state: State, choices: Choices, now: number): Numbers {
  const { server } = state;
  const timeline = finest(state);
  const last = lastWholeStep(state, timeline, now);
  const of = chosenTables(state, choices);
  const rates = ACTIONS.map((_, action) => timeline.rate(of, last, RATE_SECONDS / timeline.stepSeconds, action));
  const known = rates.filter((rate) => rate !== null);
  const hasTotals = server?.hasHistory === true;
  const totals = [...(server?.totals ?? [])]
    .filter(([table]) => of === null || of.includes(table))
    .map(([, counts]) => counts);
  const isCurrent = !timeline.isUnknown(last);
  const shares = isCurrent ? [...state.shares.values()] : [];
  return {
    of,
    rate: known.length === 0 ? null : sumOf(known),
    rates,
    totals: ACTIONS.map((_, action) => (hasTotals ? sumOf(totals.map((counts) => counts[action] ?? 0)) : null)),
    other: server?.other ?? null,
    counted: !hasTotals ? null : of === null ? changesCounted(server) : sumOf(totals.map(total)),
    since: server === null ? null : server.since * 1000,
    isCurrent,
    delays: isCurrent ? delaysOf(state, timeline, last - DELAY_SECONDS / timeline.stepSeconds + 1, last) : null,
    sent: sumOf(shares.map(({ sent }) => sent)),
    sentOf: sumOf(shares.map(({ of }) => of)),
    sentSeconds: Math.max(1, state.shares.size),
    rowsAtMost: server?.rowsAtMost ?? 0,
  };
}

/** Names of the tables that the filter leaves; null: it names none, so all. */
function chosenTables(state: State, { conditions }: Choices): readonly string[] | null {
  if (!conditions.some(({ kind }) => kind === 'table')) return null;
  return [...(state.server?.totals.keys() ?? [])].filter((table) => isTableWanted(table, conditions));
}

export interface ChartPicture {
  readonly stepSeconds: number;
  /** Epoch seconds. */
  readonly times: readonly number[];
  /** INSERT, UPDATE, DELETE per second, null without data. */
  readonly rates: readonly (readonly (number | null)[])[];
  /** Which of them the filter leaves. */
  readonly wanted: readonly boolean[];
  /** p50, p95, p99 in milliseconds, null where nothing arrived. */
  readonly delays: readonly (readonly (number | null)[])[];
  /** Null where changes arrived whose delays nobody measured, such as before the server's start, and without data. */
  readonly measured: readonly (number | null)[];
  readonly of: readonly string[] | null;
  /** Changes a second above which there is an alert. */
  readonly thresholds: readonly number[];
}

const CHARTED = ACTIONS.slice(0, 3);
const PERCENTILES = ['p50', 'p95', 'p99'] as const;

export function chartOf(state: State, choices: Choices, now: number): ChartPicture {
  const [timeline, first, last] = stepsOf(state, choices, now);
  const { stepSeconds } = timeline;
  const of = chosenTables(state, choices);
  const steps = Array.from({ length: Math.max(0, last - first + 1) }, (_, place) => first + place);
  const percentiles = steps.map((step) => delaysOf(state, timeline, step, step));
  return {
    stepSeconds,
    times: steps.map((step) => step * stepSeconds),
    rates: CHARTED.map((_, action) =>
      steps.map((step) => {
        const count = of === null ? timeline.count(null, step, action) : timeline.countOf(of, step, action);
        return count === null || timeline.isUnknown(step) ? null : count / stepSeconds;
      }),
    ),
    wanted: CHARTED.map((action) => isActionWanted(action, choices.conditions)),
    delays: PERCENTILES.map((name) => percentiles.map((of) => of?.[name] ?? null)),
    measured: steps.map((step, place) => percentiles[place]?.p50 ?? (hasChanges(timeline, step) ? null : 0)),
    of,
    thresholds: choices.alerts.flatMap((alert) => (alert.kind === 'above' ? [alert.perSecond] : [])),
  };
}

/** Whether something arrived, as far as is known. */
function hasChanges(timeline: Timeline, step: number): boolean {
  return ACTIONS.some((_, action) => timeline.count(null, step, action) !== 0);
}

/** The timeline that reaches back far enough, and the first and last step of it to show. */
function stepsOf(state: State, { window, zoom }: Choices, now: number): [Timeline, first: number, last: number] {
  const back = zoom === null ? WINDOWS[window] : serverNow(state, now) - zoom.from;
  const timeline = timelineFor(state, back);
  if (zoom !== null) return [timeline, timeline.stepOf(zoom.from), timeline.stepOf(zoom.to)];
  const last = lastWholeStep(state, timeline, now);
  // From the first whole step on: only a part of the one before is known.
  const known = last - Math.ceil(timeline.knownFrom / timeline.stepSeconds) + 1;
  const most = Math.ceil(WINDOWS[window] / timeline.stepSeconds);
  return [timeline, last - Math.min(most, Math.max(known, CHART_LEAST_STEPS)) + 1, last];
}

/** The finest that keeps the last `seconds`. */
export function timelineFor(state: State, seconds: number): Timeline {
  const fits = state.timelines.find(({ stepSeconds, capacity }) => stepSeconds * capacity >= seconds);
  return fits ?? state.timelines.at(-1)!;
}

/** A step's histogram is replaced when it changes, so its percentiles are computed once. */
const known = new WeakMap<Histogram, Percentiles | null>();

function delaysOf(state: State, timeline: Timeline, first: number, last: number): Percentiles | null {
  if (state.server === null) return null;
  const histograms = Array.from({ length: last - first + 1 }, (_, place) => timeline.delays(first + place));
  const [histogram] = histograms;
  if (histograms.length !== 1 || histogram === undefined) return percentilesOf(histograms, state.server.delayScale);
  let found = known.get(histogram);
  if (found === undefined) {
    found = percentilesOf([histogram], state.server.delayScale);
    known.set(histogram, found);
  }
  return found;
}

export interface TableLine {
  readonly name: string;
  /** Without the schema public, unless that would make it the name of another. */
  readonly shownName: string;
  readonly rates: Rates;
  /** Null while what was before is still counted. */
  readonly total: number | null;
  readonly isPinned: boolean;
  /** Whether the filter names it: with it, without it, or not at all. */
  readonly filter: 'only' | 'not' | null;
  /** Not all its changes come: see `Tables.incomplete`. */
  readonly isIncomplete: boolean;
  /** Seconds; null if not within the history. */
  readonly lastSeenAgo: number | null;
  /** Changes per step, oldest first, null without data. */
  readonly sparkline: readonly (number | null)[];
}

export interface Tables {
  /** The pinned first, then in the order that was chosen. */
  readonly lines: readonly TableLine[];
  readonly of: number;
  /** Whether what was before is counted, so that there may be more. */
  readonly hasHistory: boolean;
  /** Their rates and totals are of the span that is zoomed to, and not of now and of all times. */
  readonly isOfSpan: boolean;
  /** Names of watched tables whose triggers are missing or altered, whether or not they have changed. */
  readonly incomplete: readonly string[];
}

export function tablesOf(state: State, choices: Choices, now: number): Tables {
  const { server } = state;
  const incomplete = state.status?.incomplete ?? [];
  const isOfSpan = choices.zoom !== null;
  if (server === null) return { lines: [], of: 0, hasHistory: true, isOfSpan, incomplete };
  const { hasHistory, since } = server;
  const timeline = finest(state);
  const newest = lastWholeStep(state, timeline, now);
  const lately = SPARKLINE_SECONDS / timeline.stepSeconds;
  const [of, first, last] = isOfSpan
    ? stepsOf(state, choices, now)
    : ([timeline, newest - RATE_SECONDS / timeline.stepSeconds + 1, newest] as const);
  const measured = [...server.totals].map(([name, counts]) => ({
    name,
    rates: ACTIONS.map((_, action) => of.rate(name, last, last - first + 1, action)),
    total: isOfSpan ? of.total(name, last, last - first + 1) : total(counts),
    lately: timeline.total(name, newest, lately),
    lastSeen: server.lastSeen.get(name) ?? -Infinity,
    isPinned: choices.pinned.includes(name),
  }));
  type Measured = (typeof measured)[number];
  const byAction = (action: number) => (a: Measured, b: Measured) => (b.rates[action] ?? 0) - (a.rates[action] ?? 0);
  const orders: Record<Sort, (a: Measured, b: Measured) => number> = {
    busiest: (a, b) => b.lately - a.lately,
    name: () => 0,
    inserts: byAction(0),
    updates: byAction(1),
    deletes: byAction(2),
    total: (a, b) => b.total - a.total,
    seen: (a, b) => b.lastSeen - a.lastSeen,
  };
  const order = orders[choices.sort];
  measured.sort(
    (a, b) =>
      Number(b.isPinned) - Number(a.isPinned) ||
      order(a, b) ||
      (choices.sort === 'name' ? 0 : b.total - a.total) ||
      (a.name < b.name ? -1 : 1),
  );
  const lines = measured.slice(0, TABLES_SHOWN).map(({ name, rates, total, lastSeen, isPinned }): TableLine => ({
    name,
    shownName: shownName(name, server.totals),
    rates,
    total: hasHistory ? total : null,
    isPinned,
    filter: filterOf(name, choices),
    isIncomplete: incomplete.includes(name),
    lastSeenAgo: lastSeen < (hasHistory ? 0 : since) ? null : Math.max(0, serverNow(state, now) - lastSeen),
    sparkline: Array.from({ length: lately }, (_, place) => allActions(timeline, name, newest - lately + 1 + place)),
  }));
  return { lines, of: measured.length, hasHistory, isOfSpan, incomplete };
}

/** Without the schema public, unless that would make it the name of another. */
export function shownName(name: string, others: ReadonlyMap<string, unknown> | undefined): string {
  const short = name.replace(/^public\.(?=.)/, '');
  return others?.has(short) ? name : short;
}

function filterOf(name: string, { conditions }: Choices): TableLine['filter'] {
  const found = conditions.find((condition) => condition.kind === 'table' && condition.table === name);
  if (found?.kind !== 'table') return null;
  return found.isExcluded ? 'not' : 'only';
}

/**
 * The newest step that is over, so that the one still being counted is not drawn as a dip. While the browser is
 * not connected the steps go on, unknown.
 */
function lastWholeStep(state: State, timeline: Timeline, now: number): number {
  return timeline.stepOf(serverNow(state, now)) - 1;
}

/** Epoch seconds of the server's clock: of its last message, or computed since. */
export function serverNow(state: State, now: number): number {
  if (state.server === null) return now / 1000;
  return state.connection.state === 'open' ? state.server.now : now / 1000 + state.server.ahead;
}

function allActions(timeline: Timeline, table: string, step: number): number | null {
  const counts = ACTIONS.map((_, action) => timeline.count(table, step, action));
  return counts.reduce((sum, count) => (sum === null || count === null ? null : sum + count), 0);
}

function total(counts: Counts): number {
  return sumOf(counts);
}

function sumOf(numbers: Iterable<number>): number {
  let sum = 0;
  for (const number of numbers) sum += number;
  return sum;
}
