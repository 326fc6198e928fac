// Comes in: numbers, times and JSON values. Goes out: the text a reader sees.
import { stringify } from 'lossless-json';

import type { Json } from './rows';

const grouped = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** 12,480 */
export function countText(count: number): string {
  return grouped.format(count);
}

/** Changes per second: 0, 3.2, 1,248; a dash for unknown. */
export function rateText(rate: number | null): string {
  if (rate === null) return '–';
  if (rate === 0 || rate >= 9.95) return grouped.format(rate);
  return rate < 0.1 ? '<0.1' : rate.toFixed(1);
}

/** Local time of day: 09:41:07 */
export function clockText(milliseconds: number): string {
  const date = new Date(milliseconds);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => padded(part, 2)).join(':');
}

/** Local time of day: 09:41:07.120 */
export function clockTextWithMs(milliseconds: number): string {
  return `${clockText(milliseconds)}.${padded(new Date(milliseconds).getMilliseconds(), 3)}`;
}

/** Local: 09:41:07 if it is of the same day as `now`, else 2026-11-22 09:41:07 */
export function sinceText(milliseconds: number, now: number): string {
  const date = new Date(milliseconds);
  const clock = clockText(milliseconds);
  if (date.toDateString() === new Date(now).toDateString()) return clock;
  return `${date.getFullYear()}-${padded(date.getMonth() + 1, 2)}-${padded(date.getDate(), 2)} ${clock}`;
}

/** now, 12 s ago, 3 min ago, 2 h ago */
export function agoText(seconds: number): string {
  if (seconds < 2) return 'now';
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

/** 216 kB, 1.5 GB: by 1024, as PostgreSQL's pg_size_pretty says sizes. */
export function bytesText(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  const size = bytes / 1024 ** power;
  return `${size < 9.95 ? Number(size.toFixed(1)) : Math.round(size)} ${units[power]}`;
}

/** One value as JSON, every number with the digits it came with, shortened. */
export function valueText(value: Json, limit: number): string {
  return shortened(stringify(value) ?? '', limit);
}

/** At most `limit` characters, the last of them an ellipsis if something is missing. */
export function shortened(text: string, limit: number): string {
  if (text.length <= limit) return text;
  // Never half of a surrogate pair.
  const end = /[\uD800-\uDBFF]/.test(text.charAt(limit - 2)) ? limit - 2 : limit - 1;
  return `${text.slice(0, end)}…`;
}

/** A clause as a sentence of its own: a capital first, a full stop last, unless it ends as a sentence does. */
export function sentenceText(clause: string): string {
  const text = clause.charAt(0).toUpperCase() + clause.slice(1);
  return text === '' || /[.?!…]$/.test(text) ? text : `${text}.`;
}

/** A name in SQL, quoted always: right for reserved words and capitals too. */
export function quotedName(...parts: string[]): string {
  return parts.map((part) => `"${part.replaceAll('"', '""')}"`).join('.');
}

/** The call that watches a table: a regclass in a literal, in which only odd names need quotes. */
export function watchSql(schema: string, table: string): string {
  const name = [schema, table].map((part) => (/^[a-z_][a-z0-9_]*$/.test(part) ? part : quotedName(part))).join('.');
  return `SELECT changefeed.watch('${name.replaceAll("'", "''")}');`;
}

function padded(value: number, digits: number): string {
  return String(value).padStart(digits, '0');
}
