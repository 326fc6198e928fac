// Comes in: what a reader typed, or a click. Goes out: conditions, each a chip, and whether a row fulfils them all.
import { assertNever } from '../values/assert_never';
import { type Columns, type Json, JsonNumber, jsonText } from '../values/json';
import { type Action, ACTIONS } from '../feed/protocol';
import type { TailEntry } from './tail_entries';

/** Tables are joined by "or", and so are actions; all else by "and". */
export type Condition =
  | { readonly kind: 'table'; readonly table: string; readonly isExcluded: boolean }
  | { readonly kind: 'action'; readonly action: Action }
  | { readonly kind: 'column'; readonly column: string; readonly value: string; readonly isExcluded: boolean }
  | { readonly kind: 'text'; readonly text: string };

export interface Span {
  /** Epoch seconds. */
  readonly from: number;
  readonly to: number;
}

/** What is within double quotes, or has no blank. A quote that is never closed is a character like others. */
const TERMS = /(?:"(?:[^"\\]|\\.)*"|\S)+/gs;

/**
 * `table:orders`, `-table:orders`, `op:insert`, `status=paid`, `status!=paid`; anything else is text. Blanks separate
 * them, except within double quotes: `status="in progress"`.
 */
export function conditionsOf(typed: string): readonly Condition[] {
  return [...typed.matchAll(TERMS)].map(([term]) => conditionOf(term));
}

function conditionOf(text: string): Condition {
  const table = /^(-?)(?:table|t):(.+)$/s.exec(text);
  if (table) return { kind: 'table', table: withBlanks(table[2]!), isExcluded: table[1] === '-' };
  const letter = /^(?:op|action):(\w+)$/i.exec(text)?.[1]?.toUpperCase();
  const action = ACTIONS.find((action) => letter !== undefined && action.startsWith(letter));
  if (action) return { kind: 'action', action };
  const column = /^("(?:[^"\\]|\\.)+"|[^=!<>\s"]+)(!?)=(.*)$/s.exec(text);
  if (column)
    return { kind: 'column', column: unquoted(column[1]!), value: withBlanks(column[3]!), isExcluded: column[2] === '!' };
  return { kind: 'text', text: withBlanks(text) };
}

/** Quotes are taken off only where they hold blanks together: `"null"` and `""` are values of their own. */
function withBlanks(text: string): string {
  return /^".*\s.*"$/s.test(text) ? unquoted(text) : text;
}

function unquoted(text: string): string {
  return text.startsWith('"') ? text.slice(1, -1).replaceAll(/\\(.)/gs, '$1') : text;
}

function quoted(text: string, needed = /\s/): string {
  return needed.test(text) ? `"${text.replaceAll(/["\\]/g, '\\$&')}"` : text;
}

/** Why nothing can match it, and what to write instead; null if something may. `tables` are all, null while unknown. */
export function troubleOf(condition: Condition, tables: readonly string[] | null): string | null {
  if (condition.kind === 'table')
    return tables === null || tables.some((table) => names(condition.table, table)) ? null : 'no table has this name';
  const isAction = condition.kind === 'text' && /^(op|action):/i.test(condition.text);
  return isAction ? 'an action is insert, update, delete or truncate' : null;
}

/** What to type to get it. */
export function conditionText(condition: Condition): string {
  switch (condition.kind) {
    case 'table':
      return `${condition.isExcluded ? '-' : ''}table:${quoted(condition.table)}`;
    case 'action':
      return `op:${condition.action.toLowerCase()}`;
    case 'column':
      return `${quoted(condition.column, /[=!<>\s"]/)}${condition.isExcluded ? '!' : ''}=${quoted(condition.value)}`;
    case 'text':
      return quoted(condition.text);
    default:
      return assertNever(condition);
  }
}

export function isSame(one: Condition, other: Condition): boolean {
  return one.kind === other.kind && conditionText(one) === conditionText(other);
}

/** How a value is written in a condition: a text as it is, everything else as JSON; null and "" differ. */
export function conditionValue(value: Json): string {
  if (typeof value !== 'string') return jsonText(value);
  return value === '' || value === 'null' ? JSON.stringify(value) : value;
}

export function isTableWanted(table: string, conditions: readonly Condition[]): boolean {
  const named = conditions.filter((condition) => condition.kind === 'table');
  const wanted = named.filter(({ isExcluded }) => !isExcluded);
  if (named.some((condition) => condition.isExcluded && names(condition.table, table))) return false;
  return wanted.length === 0 || wanted.some((condition) => names(condition.table, table));
}

export function isActionWanted(action: Action, conditions: readonly Condition[]): boolean {
  const wanted = conditions.filter((condition) => condition.kind === 'action');
  return wanted.length === 0 || wanted.some((condition) => condition.action === action);
}

/** `orders` names the table of the schema public, and of none; `sales.*` every one of a schema. */
function names(pattern: string, table: string): boolean {
  if (pattern === table || `public.${pattern}` === table) return true;
  return pattern.endsWith('.*') && table.startsWith(pattern.slice(0, -1));
}

/** What the server can look for, by the fields of its own subscriptions. */
export interface Asked {
  readonly table: readonly string[];
  readonly action: readonly Action[];
  readonly filter: readonly string[];
}

/** As much of it as the server understands in the same way, so that what it sends is all that fits and perhaps more. */
export function askedOf(conditions: readonly Condition[]): Asked | null {
  const asked: Asked = {
    table: conditions.flatMap((condition) =>
      condition.kind === 'table' && !condition.isExcluded ? [condition.table] : [],
    ),
    action: conditions.flatMap((condition) => (condition.kind === 'action' ? [condition.action] : [])),
    filter: conditions.flatMap((condition) =>
      condition.kind === 'column' &&
      !condition.isExcluded &&
      condition.value !== 'null' &&
      /^[\w.:+-]+$/.test(condition.value)
        ? [`"${condition.column.replaceAll('"', '""')}"=eq.${condition.value}`]
        : [],
    ),
  };
  return asked.table.length + asked.action.length + asked.filter.length === 0 ? null : asked;
}

/** Returns a function that tests whether a row meets all of them. */
export function matcher(conditions: readonly Condition[], span: Span | null): (row: TailEntry) => boolean {
  const byHead = conditions.some(({ kind }) => kind === 'table' || kind === 'action');
  const texts = conditions
    .filter(({ kind }) => kind === 'text')
    .map((condition) => (condition as { text: string }).text.toLowerCase());
  const columns = conditions.filter((condition) => condition.kind === 'column');
  return (row) => {
    if (texts.length > 0) {
      const text = row.text.toLowerCase();
      if (!texts.every((wanted) => text.includes(wanted))) return false;
    }
    if (span !== null) {
      const at = (row.head?.at ?? row.receivedAt ?? -Infinity) / 1000;
      if (at < span.from || at >= span.to) return false;
    }
    if (byHead) {
      const { head } = row;
      if (head === null || !isTableWanted(head.table, conditions) || !isActionWanted(head.action, conditions))
        return false;
    }
    return columns.length === 0 || fulfilsColumns(row, columns);
  };
}

function fulfilsColumns(row: TailEntry, columns: readonly Extract<Condition, { kind: 'column' }>[]): boolean {
  const { content } = row;
  if (content.kind === 'foreign') return false;
  return columns.every(({ column, value, isExcluded }) => {
    const has = (of: Columns | null) => {
      const found = of?.get(column);
      return found !== undefined && isValue(found, value);
    };
    // An UPDATE that takes a row into or out of the filter is shown: its old values count, too.
    return isExcluded ? !has(content.data) : has(content.data) || has(content.old);
  });
}

function isValue(found: Json, wanted: string): boolean {
  if (found instanceof JsonNumber) return found.text === wanted;
  return conditionValue(found) === wanted || (typeof found === 'string' && found === wanted && wanted !== 'null');
}
