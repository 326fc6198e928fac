// Comes in: a table, and a filter. Goes out: its rows as they are now, whenever they change. Its subscribe() and get()
// are what Svelte, React and Vue take.
import { readArguments } from './arguments';
import { type Environment, RUNTIME } from './environment';
import { follow, type RowsReader } from './follow';
import { type Address, FeedError, type Key, type Subscription } from './options';
import { RowSet } from './row_set';

/** The rows at one moment. It never changes: when the rows do, there is another one. */
export interface Rows<Row> {
  /** In no order of its own, unless `compare` gives one; a row stays where it is while it changes. */
  readonly list: readonly Row[];
  /** By the value of the key column; of several columns, by the JSON text of a list of their values: `[7,"a"]`. */
  readonly byKey: ReadonlyMap<Key, Row>;
  /** False until the rows were read for the first time. */
  readonly isLoaded: boolean;
  /** Whether they are followed right now. Without a connection they may be out of date, until it is there again. */
  readonly isLive: boolean;
}

export interface RowsOptions<Row = Record<string, any>> extends Subscription {
  /** One table: `orders`, `public.orders`. */
  readonly table: string;
  readonly action?: never;
  /** The columns that identify a row: `id` unless given. They must be among `columns`. */
  readonly key?: string | readonly string[];
  /**
   * Rows that were kept, with the cursor of that moment, of the same table, filter and columns: it begins with them, and
   * applies what has changed since. Without it, or with a cursor of null, it reads the rows.
   */
  readonly since?: { readonly list: readonly Row[]; readonly cursor: string | null } | null;
  /** Sorts the list, as for Array.sort. */
  readonly compare?: (one: Row, other: Row) => number;
}

export interface LiveRows<Row = Record<string, any>> {
  /** The rows now; the same object until they change. */
  get(): Rows<Row>;
  /** The place of these rows, to keep with them for `since`; null while they have to be read first. */
  readonly cursor: string | null;
  /**
   * Calls `run` with the rows at once, and then when they have changed, at most 60 times a second. Returns a function
   * that ends this.
   */
  subscribe(run: (rows: Rows<Row>) => void): () => void;
  /** Ends the connection. No callback is called after it, and the rows stay as they are. */
  close(): void;
}

const OPTIONS = [
  'table', 'filter', 'columns', 'key', 'since', 'compare', 'token', 'onState', 'onError', 'parse', 'WebSocket',
];
const FRAME_MS = 16;
/** A pause is this many times the time that the subscribers take, which a long list makes longer than a frame. */
const SHARE = 4;

/**
 * Reads the rows of a table and keeps them as they are in the database, until it is closed or refused.
 *
 * After a lost connection it applies the changes that it missed. Where they are not known, after a gap or a statement
 * above the table's `row_limit`, it reads the rows again by itself; until then the old ones stay. Throws as `connect`
 * does.
 */
export function rows<Row extends object = Record<string, any>>(options: RowsOptions<Row>): LiveRows<Row>;
export function rows<Row extends object = Record<string, any>>(
  url: Address | undefined,
  options: RowsOptions<Row>,
): LiveRows<Row>;
/** @internal */
export function rows<Row extends object>(
  url: Address | undefined,
  options: RowsOptions<Row>,
  environment: Environment,
): LiveRows<Row>;
export function rows<Row extends object>(
  first: Address | RowsOptions<Row> | undefined,
  second?: RowsOptions<Row>,
  environment = RUNTIME,
): LiveRows<Row> {
  const { address, options } = readArguments('rows', OPTIONS, first, second, environment);
  const key = [options.key ?? 'id'].flat();
  checkTable(options, key);

  let set = new RowSet<Row>(key);
  let reading = set; // what is being read, which takes the place of the set once it is complete
  const kept = options.since?.cursor ? options.since : null;
  for (const row of kept?.list ?? []) set.add(row);
  let isLoaded = kept !== null;
  let isLive = false;
  let shown: Rows<Row> | null = null; // null if something has changed since
  const runs = new Set<(rows: Rows<Row>) => void>();
  let dueAt = -Infinity; // when the subscribers may be called again
  let isTelling = false;

  const get = () => (shown ??= snapshot(set, options.compare, isLoaded, isLive));

  const tell = () => {
    isTelling = false;
    const began = environment.clock.now();
    for (const run of [...runs]) {
      try {
        run(get());
      } catch (error) {
        environment.report(error);
      }
    }
    const now = environment.clock.now();
    dueAt = now + Math.max(FRAME_MS, SHARE * (now - began));
  };

  /** The changes of a message come one after the other: they are shown together. */
  const hasChanged = () => {
    shown = null;
    if (isTelling || runs.size === 0) return;
    isTelling = true;
    const wait = dueAt - environment.clock.now();
    if (wait > 0) environment.clock.after(wait, tell);
    else queueMicrotask(tell);
  };

  const setLive = (value: boolean) => {
    if (isLive === value) return;
    isLive = value;
    hasChanged();
  };

  const readAgain = (why: string) => {
    if (reader.isDue) return;
    reader.isDue = true;
    feed.reconnect(`the rows are read again: ${why}`);
  };

  /** A key that identifies no row ends it all: the set would be wrong from here on. */
  const orFail = (work: () => void) => {
    try {
      work();
    } catch (error) {
      reader.isDue = true;
      feed.fail(new FeedError('bad_key', error instanceof Error ? error.message : String(error), true));
    }
  };

  const reader: RowsReader = {
    isDue: kept === null,
    onBegin: () => {
      reading = new RowSet(key);
    },
    onRows: (read: readonly Row[]) =>
      orFail(() => {
        for (const row of read) reading.add(row);
      }),
    onEnd: () => {
      set = reading;
      isLoaded = true;
      hasChanged();
    },
  };

  const { onState } = options;
  const feed = follow(
    address,
    {
      ...options,
      since: kept?.cursor ?? null,
      onChange: (change) =>
        orFail(() => {
          if (set.apply(change as never)) hasChanged();
          else readAgain(`a statement changed ${change.count} rows`);
        }),
      onGap: (gap) => readAgain(gap.why),
      onState: (state) => {
        setLive(state.state === 'open');
        onState?.(state);
      },
    },
    environment,
    reader,
  );

  return {
    get,
    get cursor() {
      return reader.isDue ? null : feed.cursor;
    },
    subscribe: (run) => {
      const own = (value: Rows<Row>) => run(value); // so that one function may be given twice
      runs.add(own);
      run(get());
      return () => void runs.delete(own);
    },
    close: () => {
      runs.clear();
      feed.close();
      setLive(false);
    },
  };
}

function checkTable(options: RowsOptions<any>, key: readonly string[]): void {
  if (typeof options.table !== 'string' || options.table === '') {
    throw new TypeError('rows takes one table: rows({ table: "orders" })');
  }
  if (options.since && !Array.isArray(options.since.list)) {
    throw new TypeError('since takes rows that were kept with their cursor: { list, cursor }');
  }
  if (options.columns === undefined) return;
  const columns = [options.columns].flat().flatMap((names) => names.split(','));
  const missing = key.filter((column) => !columns.some((name) => name === column || name === `"${column}"`));
  if (missing.length) throw new TypeError(`columns must contain the key ${missing.join(', ')}`);
}

function snapshot<Row extends object>(
  set: RowSet<Row>,
  compare: ((one: Row, other: Row) => number) | undefined,
  isLoaded: boolean,
  isLive: boolean,
): Rows<Row> {
  const list = set.list();
  if (compare) list.sort(compare);
  let byKey: ReadonlyMap<Key, Row> | null = null;
  return {
    list,
    get byKey() {
      return (byKey ??= new Map(list.map((row) => [set.keyOf(row), row])));
    },
    isLoaded,
    isLive,
  };
}
