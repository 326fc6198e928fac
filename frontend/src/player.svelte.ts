// Comes in: the live state and the screen. Goes out: the screen showing a span of the past, and back.
import { fetchChanges, fetchPlace } from './feed/api';
import type { Span } from './model/filter';
import type { Screen } from './screen.svelte';
import type { Replay, Speed } from './model/replay';
import type { State } from './model/state';

/** What the bar of a replay shows. */
export interface Playing {
  readonly span: Span;
  readonly position: number;
  readonly speed: Speed;
  readonly isPlaying: boolean;
  readonly isOver: boolean;
  readonly problem: string | null;
}

export class Player {
  /** Null: what is shown is live. */
  playing: Playing | null = $state.raw(null);
  readonly #live: State;
  readonly #screen: Screen;
  #replay: Replay | null = null;
  #advancedAt = 0;

  constructor(live: State, screen: Screen) {
    this.#live = live;
    this.#screen = screen;
  }

  /** Null, or why the journal can't be read. */
  async play(span: Span): Promise<string | null> {
    const browserFetch = (url: string) => fetch(url);
    const [place, { Replay }] = await Promise.all([fetchPlace(browserFetch, span.from), import('./model/replay')]);
    if (!place.ok) return place.problem;
    this.#replay = new Replay({
      span,
      databaseName: this.#live.server?.database.name ?? '',
      cursor: place.value,
      read: (cursor) => fetchChanges(browserFetch, cursor),
    });
    this.#advancedAt = performance.now();
    this.#screen.choose({ zoom: null });
    this.#screen.show(this.#replay.state);
    this.#draw();
    return null;
  }

  stop(): void {
    this.#replay = null;
    this.playing = null;
    this.#screen.show(this.#live);
  }

  setSpeed(speed: Speed): void {
    if (this.#replay) this.#replay.speed = speed;
    this.#draw();
  }

  toggle(): void {
    if (this.#replay) this.#replay.isPlaying = !this.#replay.isPlaying;
    this.#draw();
  }

  /** With each frame. */
  advance(): void {
    if (this.#replay === null) return;
    const now = performance.now();
    this.#replay.advance((now - this.#advancedAt) / 1000);
    this.#advancedAt = now;
    this.#draw();
  }

  #draw(): void {
    if (this.#replay === null) return;
    const { span, position, speed, isPlaying, isOver, problem } = this.#replay;
    this.playing = { span, position, speed, isPlaying, isOver, problem };
  }
}
