// Comes in: absolute counts by table and step of time. Goes out: counts by step, null without data.
// Knows no message and no chart.
import type { Histogram } from '../values/delays';
import { ACTIONS, type Bucket } from '../feed/protocol';

/** From and to (null: it lasts) in epoch seconds: a time without data, so that "nothing" is not zero. */
export interface Span {
  readonly from: number;
  readonly to: number | null;
  /**
   * `browser`: this page was not connected; the server's history may fill it in.
   * `database`: the server received no notifications.
   */
  readonly cause: 'browser' | 'database';
}

/** Every table's counts of the newest `capacity` steps, in one typed ring each, and their sum. */
export class Timeline {
  /** Steps are numbered from the epoch on; this is the newest. */
  newest = 0;
  spans: readonly Span[] = [];
  /** Epoch seconds: before that, there is no data. */
  knownFrom = Infinity;
  /** Whether the count of a step without complete data may be only a part of it. */
  isPartial = false;
  readonly #rings = new Map<string, Uint32Array>();
  readonly #sum: Uint32Array;
  readonly #delays: (Histogram | undefined)[];

  constructor(
    readonly stepSeconds: number,
    readonly capacity: number,
  ) {
    this.#sum = new Uint32Array(capacity * ACTIONS.length);
    this.#delays = Array.from({ length: capacity });
  }

  stepOf(epochSeconds: number): number {
    return Math.floor(epochSeconds / this.stepSeconds);
  }

  /** Moves on to the step of this time; a time in the past changes nothing. */
  advance(epochSeconds: number): void {
    const target = this.stepOf(epochSeconds);
    const passed = Math.min(target - this.newest, this.capacity);
    for (let step = target - passed + 1; step <= target; step++) {
      const from = this.#index(step);
      for (const ring of [this.#sum, ...this.#rings.values()]) ring.fill(0, from, from + ACTIONS.length);
      this.#delays[step % this.capacity] = undefined;
    }
    this.newest = Math.max(target, this.newest);
  }

  /** Takes the larger count, so that merging what is older or known already changes nothing. */
  merge(bucket: Bucket): void {
    const step = this.stepOf(bucket.at);
    if (!this.#holds(step)) return;
    if (bucket.delays !== null && sizeOf(bucket.delays) >= sizeOf(this.delays(step)))
      this.#delays[step % this.capacity] = bucket.delays;
    for (const [table, counts] of bucket.counts) {
      const ring = this.#ringOf(table);
      for (const [action, count] of counts.entries()) {
        const index = this.#index(step) + action;
        const more = count - (ring[index] ?? 0);
        if (more <= 0) continue;
        ring[index] = count;
        this.#sum[index] = (this.#sum[index] ?? 0) + more;
      }
    }
  }

  /** How long the changes took that arrived in this step. */
  delays(step: number): Histogram {
    return (this.#holds(step) && this.#delays[step % this.capacity]) || NO_DELAYS;
  }

  /** The names of the tables that were counted at any time. */
  get tables(): string[] {
    return [...this.#rings.keys()];
  }

  /** Of some tables together; null without data. */
  countOf(tables: readonly string[], step: number, action: number): number | null {
    let sum: number | null = 0;
    for (const table of tables) {
      const count = this.count(table, step, action);
      sum = count === null || sum === null ? null : sum + count;
    }
    return sum ?? null;
  }

  /** Of one table, or of all (null). `action` is an index in ACTIONS. Null without data. */
  count(table: string | null, step: number, action: number): number | null {
    if (this.isUnknown(step)) return null;
    const ring = table === null ? this.#sum : this.#rings.get(table);
    return ring?.[this.#index(step) + action] ?? 0;
  }

  /** All changes of one table in the `steps` steps up to and with `last`. */
  total(table: string, last: number, steps: number): number {
    const ring = this.#rings.get(table);
    if (ring === undefined) return 0;
    let sum = 0;
    for (let step = last - steps + 1; step <= last; step++) {
      if (!this.#holds(step)) continue;
      const index = this.#index(step);
      for (let action = 0; action < ACTIONS.length; action++) sum += ring[index + action] ?? 0;
    }
    return sum;
  }

  /** Changes per second, the mean of the known ones of `steps` steps up to `last`; null if `last` is unknown. */
  rate(table: string | null | readonly string[], last: number, steps: number, action: number): number | null {
    if (this.isUnknown(last)) return null;
    let sum = 0;
    let known = 0;
    for (let step = last - steps + 1; step <= last; step++) {
      const count = Array.isArray(table)
        ? this.countOf(table, step, action)
        : this.count(table as string | null, step, action);
      if (count === null) continue;
      sum += count;
      known += 1;
    }
    return sum / (known * this.stepSeconds);
  }

  /** A step that touches a span without data, and has no count of its own. */
  isUnknown(step: number): boolean {
    if (!this.#holds(step)) return true;
    const from = step * this.stepSeconds;
    const to = from + this.stepSeconds;
    const isTouched =
      from < this.knownFrom || this.spans.some((span) => from < (span.to ?? Infinity) && span.from < to);
    if (!isTouched) return false;
    if (this.isPartial) return true;
    const index = this.#index(step);
    return this.#sum.subarray(index, index + ACTIONS.length).every((count) => count === 0);
  }

  #holds(step: number): boolean {
    return step <= this.newest && step > this.newest - this.capacity;
  }

  #index(step: number): number {
    return (step % this.capacity) * ACTIONS.length;
  }

  #ringOf(table: string): Uint32Array {
    let ring = this.#rings.get(table);
    if (ring === undefined) {
      ring = new Uint32Array(this.capacity * ACTIONS.length);
      this.#rings.set(table, ring);
    }
    return ring;
  }
}

const NO_DELAYS: Histogram = new Map();

function sizeOf(histogram: Histogram): number {
  let size = 0;
  for (const count of histogram.values()) size += count;
  return size;
}
