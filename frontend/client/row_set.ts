// Comes in: the rows of a table at one moment, and each change after it. Goes out: the rows that there are now. Knows no
// connection.
import type { Change, Key } from './options';

/** The key's digits would be lost, so that two rows could be taken for one. */
export class UnsafeKey extends Error {}

export class RowSet<Row extends object> {
  readonly #key: readonly string[];
  // While a statement moves keys along (1 to 2, 2 to 3), or a deferred constraint allows it, two rows have one key.
  readonly #rows = new Map<Key, Row[]>();

  constructor(key: readonly string[]) {
    this.#key = key;
  }

  add(row: Row): void {
    const key = this.keyOf(row);
    const there = this.#rows.get(key);
    if (there) there.push(row);
    else this.#rows.set(key, [row]);
  }

  /** False if the change does not say which rows it is about: then they have to be read again. */
  apply(change: Change<Row>): boolean {
    const { action, data, old, filter, count } = change;
    if (action === 'TRUNCATE') {
      this.#rows.clear();
      return true;
    }
    if (count !== undefined || data === null) return false;
    if (action === 'DELETE') this.#remove(data);
    else if (action === 'INSERT' || filter === 'enter') this.add(data);
    else if (filter === 'leave') this.#remove({ ...data, ...old });
    else this.#update({ ...data, ...old }, data);
    return true;
  }

  list(): Row[] {
    const list: Row[] = [];
    for (const rows of this.#rows.values()) for (const row of rows) list.push(row);
    return list;
  }

  keyOf(row: Row): Key {
    const values = this.#key.map((column) => {
      const value = (row as Record<string, unknown>)[column];
      if (value === undefined) throw new UnsafeKey(`the rows have no column ${column}: name the columns of their key`);
      if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
        throw new UnsafeKey(`${column} has more digits than a number holds: give a parse that keeps them all`);
      }
      return value;
    });
    const [value] = values;
    if (values.length === 1 && value !== null && typeof value !== 'object') return value as Key;
    return JSON.stringify(values, (_, part: unknown) => (typeof part === 'bigint' ? String(part) : part));
  }

  #update(old: Row, row: Row): void {
    const rows = this.#rows.get(this.keyOf(old));
    if (rows && this.keyOf(old) === this.keyOf(row)) {
      rows[this.#placeOf(old, rows)] = row; // where it was in the list
      return;
    }
    this.#remove(old);
    this.add(row);
  }

  #remove(row: Row): void {
    const key = this.keyOf(row);
    const rows = this.#rows.get(key);
    if (!rows) return;
    if (rows.length === 1) this.#rows.delete(key);
    else rows.splice(this.#placeOf(row, rows), 1);
  }

  /** Which of several rows of one key it is: the equal one, else the one that came first. */
  #placeOf(row: Row, rows: readonly Row[]): number {
    if (rows.length === 1) return 0;
    const text = JSON.stringify(row);
    return Math.max(0, rows.findIndex((other) => JSON.stringify(other) === text));
  }
}
