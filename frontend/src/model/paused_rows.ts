// Comes in: the ring of rows, a filter, and why the list is paused. Goes out: the list to show.
// Held, nothing in it moves and nothing leaves it, whatever comes meanwhile.
import type { TailEntries, TailEntry } from './tail_entries';

/** By hand, by scrolling away, by a row that is selected. */
export const HOLDS = ['paused', 'row selected', 'scrolled'] as const;
export type Hold = (typeof HOLDS)[number];

export interface Held {
  readonly why: Hold;
  /** Rows that came since and fulfil the filter, as far as they are still there. */
  readonly waiting: number;
  /** Of all that came since: not sent to this page, and sent but gone again. */
  readonly notSent: number;
  readonly fellOut: number;
}

export class HeldRows {
  /** What is shown, newest first. */
  shown: readonly TailEntry[] = [];
  readonly #rows: TailEntries;
  #matches: (row: TailEntry) => boolean = () => true;
  readonly #why = new Set<Hold>();
  /** Of all rows, filtered or not, when the list was held; null while it is not. */
  #base: readonly TailEntry[] | null = null;
  #pushed = 0;
  #missed = 0;
  #waiting = 0;
  /** How many rows had been pushed at the last look. */
  #lookedAt = 0;

  constructor(rows: TailEntries) {
    this.#rows = rows;
  }

  get held(): Held | null {
    const why = HOLDS.find((hold) => this.#why.has(hold));
    if (why === undefined) return null;
    this.#look();
    return {
      why,
      waiting: this.#waiting,
      notSent: this.#rows.missed - this.#missed,
      fellOut: Math.max(0, this.#rows.pushed - this.#pushed - this.#rows.limit),
    };
  }

  has(hold: Hold): boolean {
    return this.#why.has(hold);
  }

  /** Counts up with all that would change what is shown. */
  get revision(): string {
    return `${this.#rows.pushed} ${this.#rows.missed}`;
  }

  filter(matches: (row: TailEntry) => boolean): void {
    this.#matches = matches;
    const all = this.#base ?? this.#rows.newest(this.#rows.limit);
    this.shown = all.filter(matches);
    this.#waiting = 0;
    this.#lookedAt = this.#pushed;
    if (this.#base === null) this.#lookedAt = this.#rows.pushed;
  }

  hold(why: Hold): void {
    if (this.#why.size === 0) {
      this.follow();
      this.#base = this.#rows.newest(this.#rows.limit);
      this.#pushed = this.#lookedAt = this.#rows.pushed;
      this.#missed = this.#rows.missed;
      this.#waiting = 0;
    }
    this.#why.add(why);
  }

  release(why: Hold): void {
    if (this.#why.delete(why) && this.#why.size === 0) this.resume();
  }

  /** Whatever held it: the newest are shown again. */
  resume(): void {
    this.#why.clear();
    this.#base = null;
    this.filter(this.#matches);
  }

  /** Takes what came, unless it is held. */
  follow(): void {
    if (this.#base !== null || this.#lookedAt === this.#rows.pushed) return;
    const came = this.#came().filter(this.#matches);
    const oldest = this.#rows.pushed - this.#rows.limit;
    const kept = this.shown.filter((row) => row.number >= oldest);
    this.shown = came.length === 0 && kept.length === this.shown.length ? this.shown : [...came, ...kept];
  }

  #look(): void {
    for (const row of this.#came()) if (this.#matches(row)) this.#waiting += 1;
  }

  #came(): TailEntry[] {
    const came = this.#rows.newest(this.#rows.pushed - this.#lookedAt);
    this.#lookedAt = this.#rows.pushed;
    return came;
  }
}
