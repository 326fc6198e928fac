// Comes in: the state, and what the reader chooses. Goes out: pictures of it, where Svelte sees that they changed. The
// only reactive state there is: whole values, replaced, never looked into.
import { type Raised, raisedOf } from './pictures/alerts';
import type { Choices } from './model/choices';
import { type Condition, isSame, matcher } from './model/filter';
import { HeldRows, type Held, type Hold } from './model/paused_rows';
import {
  chartOf,
  type ChartPicture,
  type JournalPicture,
  journalOf,
  type Numbers,
  numbersOf,
  serverNow,
  type Status,
  statusOf,
  type Tables,
  tablesOf,
} from './pictures/view_model';
import type { TableStatus } from './feed/protocol';
import type { TailEntry } from './model/tail_entries';
import type { Notice, State } from './model/state';
import { type TailLine, tailLineOf } from './pictures/tail';
import { tableName } from './values/format';

export type DialogName = 'help' | 'palette' | 'watch' | 'alerts' | 'replay';

/** What the panel of a row is asked to do by a key. */
export type PanelTask = 'copy' | 'show what differs' | 'take the focus';

/** The part of the list that is in sight. */
export interface TailPicture {
  readonly first: number;
  readonly lines: readonly TailLine[];
  /** All rows that fulfil the filter, and all that are there. */
  readonly count: number;
  readonly of: number;
  /** Changes that were not sent to this page since it came. */
  readonly missed: number;
  readonly held: Held | null;
}

export class Screen {
  choices: Choices;
  dialog: DialogName | null = $state.raw(null);
  /** What is typed into the palette, from the moment on that it is asked for: it is loaded only then. */
  typed = $state.raw('');
  selected: TailEntry | null = $state.raw(null);
  /** It waits until the panel is there, which is loaded with the first row that is opened. */
  panelTask: PanelTask | null = $state.raw(null);
  status: Status;
  journal: JournalPicture | null;
  numbers: Numbers;
  chart: ChartPicture;
  tables: Tables;
  tail: TailPicture;
  raised: readonly Raised[];
  notices: readonly Notice[];
  noticesDropped: number;
  watchable: readonly TableStatus[] | null;
  #state: State;
  #rows: HeldRows;
  #drawn = '';
  #drawnSteps = '';
  #areTablesOld = false;
  #inSight = { first: 0, count: 40 };
  readonly #onChoice: (choices: Choices) => void;
  readonly #clock: () => number;

  constructor(state: State, choices: Choices, clock: () => number, onChoice: (choices: Choices) => void) {
    const now = clock();
    this.#state = state;
    this.#clock = clock;
    this.#onChoice = onChoice;
    this.#rows = new HeldRows(state.rows);
    this.choices = $state.raw(choices);
    this.status = $state.raw(statusOf(state, now));
    this.journal = $state.raw(journalOf(state, now));
    this.numbers = $state.raw(numbersOf(state, choices, now));
    this.chart = $state.raw(chartOf(state, choices, now));
    this.tables = $state.raw(tablesOf(state, choices, now));
    this.raised = $state.raw(raisedOf(state, choices.alerts, now));
    this.#filterRows();
    this.tail = $state.raw(this.#tailPicture());
    this.notices = $state.raw(state.notices);
    this.noticesDropped = $state.raw(state.noticesDropped);
    this.watchable = $state.raw(state.tables);
  }

  drawCalm(): void {
    const [state, now] = [this.#state, this.#clock()];
    this.status = statusOf(state, now);
    this.numbers = numbersOf(state, this.choices, now);
    this.raised = raisedOf(state, this.choices.alerts, now);
    this.notices = state.notices;
    this.noticesDropped = state.noticesDropped;
    this.watchable = state.tables;
  }

  drawQuick(): void {
    // What a whole second adds is drawn in two frames: in one it would be felt.
    if (this.#areTablesOld) this.#drawTables();
    else this.#drawCharts();
    if (this.#rows.revision !== this.#drawn) this.#drawTail();
  }

  /** Another state altogether: that of a replay, or the live one again. */
  show(state: State): void {
    this.#state = state;
    this.#rows = new HeldRows(state.rows);
    this.selected = null;
    this.#filterRows();
    this.#drawAll();
  }

  /** What the user chose shows at once, and is in the page's address. */
  choose(changed: Partial<Choices>): void {
    this.choices = { ...this.choices, ...changed };
    this.#onChoice(this.choices);
    if (changed.conditions !== undefined || changed.zoom !== undefined) this.#filterRows();
    this.#drawAll();
  }

  /** Adds the condition, or takes it away where it is there. */
  toggle(condition: Condition): void {
    const others = this.choices.conditions.filter((other) => !isSame(other, condition));
    const isThere = others.length < this.choices.conditions.length;
    this.choose({ conditions: isThere ? others : [...others, condition] });
  }

  /** Of every table that is known, null until they are; a new one is known once it has changed. */
  get tableNames(): readonly string[] | null {
    const changed = this.tables.lines.map(({ name }) => name);
    return this.watchable?.map(({ schema, table }) => tableName(schema, table)).concat(changed) ?? null;
  }

  /** Adds the conditions that are not there yet. */
  narrow(conditions: readonly Condition[]): void {
    const all = [...this.choices.conditions];
    for (const condition of conditions) if (!all.some((other) => isSame(other, condition))) all.push(condition);
    this.choose({ conditions: all });
  }

  get rowsShown(): readonly TailEntry[] {
    return this.#rows.shown;
  }

  get isPaused(): boolean {
    return this.#rows.has('paused');
  }

  hold(why: Hold, isHeld: boolean): void {
    if (isHeld) this.#rows.hold(why);
    else this.#rows.release(why);
    this.#drawTail();
  }

  /** Back to the newest, whatever held the list. */
  goLive(): void {
    this.#rows.resume();
    this.select(null);
    if (this.choices.zoom !== null) this.choose({ zoom: null });
    else this.#drawTail();
  }

  select(row: TailEntry | null): void {
    if (row !== null) this.#rows.hold('row selected');
    else this.#rows.release('row selected');
    this.selected = row;
    this.panelTask = null;
    const content = row?.content;
    const cursor = content?.kind === 'change' ? content.cursor : null;
    if (cursor !== this.choices.row) this.choose({ row: cursor });
    else this.#drawTail();
  }

  /** The row before (-1) or after the selected one; the newest where none is. */
  step(by: -1 | 1): void {
    const rows = this.#rows.shown;
    const at = this.selected === null ? -1 : rows.indexOf(this.selected);
    const row = rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + by))];
    if (row !== undefined) this.select(row);
  }

  askPanel(task: PanelTask): void {
    if (this.selected !== null || this.choices.row !== null) this.panelTask = task;
  }

  open(dialog: DialogName): void {
    this.typed = '';
    this.dialog = dialog;
  }

  look(first: number, count: number): void {
    this.#inSight = { first, count };
    this.#drawTail();
  }

  #drawAll(): void {
    this.#drawnSteps = '';
    this.#drawCharts();
    this.#drawTables();
    this.drawCalm();
    this.#drawTail();
  }

  /** What depends on whole steps changes when a step is over, or when earlier ones become known. */
  #drawCharts(): void {
    const [state, now] = [this.#state, this.#clock()];
    const key = [
      Math.floor(serverNow(state, now)),
      state.histories,
      state.connection.state,
      state.server?.database.state,
    ].join();
    if (key === this.#drawnSteps) return;
    this.#drawnSteps = key;
    this.chart = chartOf(state, this.choices, now);
    this.#areTablesOld = true;
  }

  #drawTables(): void {
    const [state, now] = [this.#state, this.#clock()];
    this.#areTablesOld = false;
    this.tables = tablesOf(state, this.choices, now);
    this.journal = journalOf(state, now);
  }

  #filterRows(): void {
    const { conditions, zoom } = this.choices;
    this.#rows.filter(matcher(conditions, zoom));
  }

  #drawTail(): void {
    this.#rows.follow();
    this.#drawn = this.#rows.revision;
    this.tail = this.#tailPicture();
  }

  #tailPicture(): TailPicture {
    const rows = this.#rows.shown;
    const first = Math.max(0, Math.min(this.#inSight.first, rows.length - this.#inSight.count));
    const isFiltered = this.choices.conditions.length > 0 || this.choices.zoom !== null;
    const lines = rows
      .slice(first, first + this.#inSight.count)
      .map((row, place) =>
        tailLineOf(
          row,
          isFiltered ? null : (rows[first + place + 1] ?? null),
          this.choices.zone,
          this.#state.server?.totals,
        ),
      );
    const of = Math.min(this.#state.rows.pushed, this.#state.rows.limit);
    return { first, lines, count: rows.length, of, missed: this.#state.rows.missed, held: this.#rows.held };
  }
}
