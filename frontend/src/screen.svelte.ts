// Comes in: pictures of the state. Goes out: the same, where Svelte sees that they changed. The only reactive
// state there is: whole values, replaced, never looked into.
import {
  type ChartData,
  chartOf,
  type JournalPicture,
  journalOf,
  type Numbers,
  numbersOf,
  type Status,
  statusOf,
  type Tables,
  tablesOf,
  type Tail,
  tailOf,
} from './picture';
import type { TableStatus } from './protocol';
import type { Notice, State } from './state';

export class Screen {
  status: Status;
  journal: JournalPicture | null;
  numbers: Numbers;
  chart: ChartData;
  tables: Tables;
  tail: Tail;
  notices: readonly Notice[];
  noticesDropped: number;
  watchable: readonly TableStatus[] | null;
  #rowsDrawn: number;

  constructor(state: State, now: number) {
    this.status = $state.raw(statusOf(state, now));
    this.journal = $state.raw(journalOf(state, now));
    this.numbers = $state.raw(numbersOf(state, now));
    this.chart = $state.raw(chartOf(state, now));
    this.tables = $state.raw(tablesOf(state, now));
    this.tail = $state.raw(tailOf(state));
    this.notices = $state.raw(state.notices);
    this.noticesDropped = $state.raw(state.noticesDropped);
    this.watchable = $state.raw(state.tables);
    this.#rowsDrawn = state.rows.revision;
  }

  drawCalm(state: State, now: number): void {
    this.status = statusOf(state, now);
    this.journal = journalOf(state, now);
    this.numbers = numbersOf(state, now);
    this.chart = chartOf(state, now);
    this.tables = tablesOf(state, now);
    this.notices = state.notices;
    this.noticesDropped = state.noticesDropped;
    this.watchable = state.tables;
  }

  drawQuick(state: State): void {
    if (state.rows.revision === this.#rowsDrawn) return;
    this.#rowsDrawn = state.rows.revision;
    this.tail = tailOf(state);
  }
}
