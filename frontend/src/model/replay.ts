// Comes in: a span of time, and pages of the journal. Goes out: a state as it was then, at a chosen speed.
// It makes the very messages that the server would have sent. Knows no view and no clock.
import type { Span } from './filter';
import {
  ACTIONS,
  type Bucket,
  type BucketsByStep,
  type ChangesPage,
  type Counts,
  type Decoded,
  type Hello,
} from '../feed/protocol';
import { type Change, contentOf } from './tail_entries';
import { apply, initialState, setConnection, type State } from './state';

export const SPEEDS = [1, 4, 16, 64] as const;
export type Speed = (typeof SPEEDS)[number];

/** Pages are read ahead while fewer changes than this wait to be played. */
const AHEAD = 4_000;
const ROWS_AT_ONCE = 200;
const STEPS = new Map([
  [1, 900],
  [10, 360],
  [60, 1440],
]);

interface Entry {
  readonly text: string;
  readonly change: Change;
  readonly at: number;
}

export interface ReplayOptions {
  readonly span: Span;
  readonly databaseName: string;
  /** A cursor before the span. */
  readonly cursor: string;
  readonly read: (cursor: string) => Promise<Decoded<ChangesPage>>;
}

export class Replay {
  readonly state: State = initialState();
  speed: Speed = 1;
  isPlaying = true;
  /** Why the replay has ended; null while it goes on. */
  problem: string | null = null;
  /** Epoch seconds. */
  position: number;
  readonly #options: ReplayOptions;
  readonly #totals = new Map<string, Counts>();
  readonly #buckets = new Map([...STEPS.keys()].map((step) => [step, new Map<number, Map<string, Counts>>()]));
  #waiting: Entry[] = [];
  #cursor: string | null;
  #isReading = false;
  #number = 0;

  constructor(options: ReplayOptions) {
    this.#options = options;
    this.#cursor = options.cursor;
    this.position = options.span.from;
    setConnection(this.state, { state: 'open' });
    apply(this.state, this.#hello(), this.position * 1000);
    // Earlier counts are left out: they are unknown, not zero.
    for (const timeline of this.state.timelines) {
      timeline.spans = [];
      timeline.knownFrom = this.position;
    }
  }

  get span(): Span {
    return this.#options.span;
  }

  get isOver(): boolean {
    return this.position >= this.span.to;
  }

  /** Advances by real seconds. It waits if the next page has not arrived yet. */
  advance(seconds: number): void {
    if (this.#waiting.length < AHEAD) void this.#readOn();
    if (!this.isPlaying || this.isOver) return;
    const target = Math.min(this.position + seconds * this.speed, this.span.to);
    const known = this.#cursor === null ? Infinity : (this.#waiting.at(-1)?.at ?? -Infinity);
    this.position = Math.max(this.position, Math.min(target, known));
    const due = this.#waiting.findIndex(({ at }) => at > this.position);
    this.#play(this.#waiting.splice(0, due < 0 ? this.#waiting.length : due));
  }

  #play(entries: readonly Entry[]): void {
    this.#number += 1;
    const touched = new Map([...STEPS.keys()].map((step) => [step, new Set<number>()]));
    for (const { change, at } of entries) this.#count(change, at, touched);
    const rows = entries.slice(-ROWS_AT_ONCE).map(({ text }) => text);
    const message = {
      type: 'activity' as const,
      number: this.#number,
      now: this.position,
      counts: { totals: this.#totals, other: 0, buckets: this.#messages(touched) },
      rows: { of: entries.length, changes: rows, matching: null, withheld: null },
      cursor: null,
    };
    apply(this.state, message, this.position * 1000);
  }

  #count({ table, action, count }: Change, at: number, touched: ReadonlyMap<number, Set<number>>): void {
    const place = ACTIONS.indexOf(action);
    add(this.#totals, table, place, count);
    for (const [step, buckets] of this.#buckets) {
      const begins = Math.floor(at / step) * step;
      const bucket = buckets.get(begins) ?? new Map<string, Counts>();
      buckets.set(begins, bucket);
      add(bucket, table, place, count);
      touched.get(step)?.add(begins);
    }
  }

  #messages(touched: ReadonlyMap<number, ReadonlySet<number>>): BucketsByStep {
    return new Map(
      [...touched].map(([step, begun]) => [
        step,
        [...begun].map((at): Bucket => ({ at, counts: new Map(this.#buckets.get(step)?.get(at)), delays: null })),
      ]),
    );
  }

  async #readOn(): Promise<void> {
    if (this.#isReading || this.#cursor === null) return;
    this.#isReading = true;
    const page = await this.#options.read(this.#cursor);
    this.#isReading = false;
    if (!page.ok) {
      this.problem = page.problem;
      this.#cursor = null;
      return;
    }
    const { from, to } = this.span;
    for (const text of page.value.changes) {
      const change = contentOf(text);
      if (change.kind !== 'change') continue;
      const at = (change.at ?? from * 1000) / 1000;
      // In the journal's order, which is nearly that of time: what lies before or behind the span is left out.
      if (at >= from && at < to) this.#waiting.push({ text, change, at: Math.max(at, this.#waiting.at(-1)?.at ?? at) });
    }
    const newest = page.value.changes.at(-1);
    const last = newest === undefined ? null : contentOf(newest);
    const isBehind = last?.kind === 'change' && last.at !== null && last.at / 1000 > to + SLACK_SECONDS;
    this.#cursor = page.value.hasMore && !isBehind ? page.value.cursor : null;
  }

  #hello(): Hello {
    const { from } = this.span;
    return {
      type: 'hello',
      version: '',
      database: { state: 'listening', name: this.#options.databaseName, since: from, reason: null },
      now: from,
      since: from,
      hasHistory: true,
      steps: STEPS,
      delayScale: { leastSeconds: 1, perDoubling: 1 },
      rowsAtMost: Infinity,
      payload: 'full',
      totals: new Map(),
      other: 0,
      cursor: null,
      recent: [],
    };
  }
}

/** How much later in the journal than in time a change may be: as long as a statement ran. */
const SLACK_SECONDS = 60;

function add(totals: Map<string, Counts>, table: string, place: number, count: number): void {
  const known = totals.get(table) ?? [0, 0, 0, 0];
  totals.set(table, known.map((other, action) => (action === place ? other + count : other)) as unknown as Counts);
}
