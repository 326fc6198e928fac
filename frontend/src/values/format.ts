// Comes in: numbers, times and JSON values. Goes out: the text a reader sees.
import { type Json, JsonNumber, jsonText } from './json';

export type Zone = 'local' | 'utc';

/** How to_json writes a bytea. */
const BYTES = /^\\x(?:[0-9a-f]{2})*$/;
const grouped = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** 12,480; a dash for unknown. */
export function countText(count: number | null): string {
  return count === null ? '–' : grouped.format(count);
}

/** Changes per second: 0, 3.2, 1,248; a dash for unknown. */
export function rateText(rate: number | null): string {
  if (rate === null) return '–';
  if (rate === 0 || rate >= 9.95) return grouped.format(rate);
  return rate < 0.1 ? '<0.1' : rate.toFixed(1);
}

/** A delay: 0.4 ms, 38 ms, 1.2 s, 3 min; a dash for unknown. Two digits are what its scale can say. */
export function delayText(ms: number | null): string {
  if (ms === null) return '–';
  if (ms < 9.5) return `${ms.toFixed(1)} ms`;
  if (ms < 995) return `${Number(ms.toPrecision(2))} ms`;
  const seconds = ms / 1000;
  if (seconds < 99.5) return `${seconds < 9.95 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
  return seconds < 5970 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(0)} h`;
}

/** 16 %, and never 100 % or 0 % where it is not wholly so. */
export function shareText(part: number, of: number): string {
  if (of === 0 || part >= of) return '100 %';
  const percent = (100 * part) / of;
  if (percent >= 99.5) return '>99 %';
  return part > 0 && percent < 0.1 ? '<0.1 %' : `${percent < 9.95 ? percent.toFixed(1) : percent.toFixed(0)} %`;
}

/** Time of day: 09:41:07 */
export function clockText(milliseconds: number, zone: Zone): string {
  return inZone(milliseconds, zone).slice(11, 19);
}

/** Time of day: 09:41:07.120 */
export function clockTextWithMs(milliseconds: number, zone: Zone): string {
  return inZone(milliseconds, zone).slice(11, 23);
}

/** 2026-11-22 09:41:07.120, and which zone that is in. */
export function timeText(milliseconds: number, zone: Zone): string {
  return `${inZone(milliseconds, zone)}${zone === 'utc' ? ' UTC' : ''}`;
}

/** 09:41:07 if it is of the same day as `now`, else 2026-11-22 09:41:07 */
export function sinceText(milliseconds: number, now: number, zone: Zone): string {
  const text = inZone(milliseconds, zone).slice(0, 19);
  return text.slice(0, 10) === inZone(now, zone).slice(0, 10) ? text.slice(11) : text;
}

/** 2026-11-22 09:41:07.120 */
function inZone(milliseconds: number, zone: Zone): string {
  const offset = zone === 'utc' ? 0 : new Date(milliseconds).getTimezoneOffset() * 60_000;
  return new Date(milliseconds - offset).toISOString().slice(0, 23).replace('T', ' ');
}

/** now, 12 s ago, 3 min ago, 2 h ago */
export function agoText(seconds: number): string {
  if (seconds < 2) return 'now';
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

/** 216 kB, 1.5 GB: by 1024, as PostgreSQL's pg_size_pretty writes sizes. */
export function bytesText(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  const size = bytes / 1024 ** power;
  return `${size < 9.95 ? Number(size.toFixed(1)) : Math.round(size)} ${units[power]}`;
}

/** How a value is to look: `null`, `""` and `"null"` are three things, and so are a number and its text. */
export type ValueKind = 'null' | 'text' | 'number' | 'boolean' | 'json' | 'bytes';

export function kindOf(value: Json): ValueKind {
  if (value === null) return 'null';
  if (typeof value === 'boolean') return 'boolean';
  if (typeof value === 'string') return BYTES.test(value) ? 'bytes' : 'text';
  return value instanceof JsonNumber ? 'number' : 'json';
}

/** One value: JSON with every digit it came with, a bytea with how long it is; shortened. */
export function valueText(value: Json, limit: number): string {
  if (kindOf(value) !== 'bytes') return shortened(jsonText(value), limit);
  const bytes = ((value as string).length - 2) / 2;
  return `${shortened(value as string, limit)} (${bytes === 1 ? '1 byte' : `${countText(bytes)} bytes`})`;
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

/** The one way in which the server writes a table's name: a part with a dot, star or double quote in it is quoted. */
export function tableName(schema: string, table: string): string {
  return [schema, table].map((part) => (/[."*]/.test(part) ? quotedName(part) : part)).join('.');
}

/** Schema and table of what tableName() wrote; a name without a schema is one of public. */
export function namesOf(name: string): [schema: string, table: string] {
  const [, schema, table] = /^("(?:[^"]|"")+"|[^.]*)\.(.*)$/s.exec(name) ?? [];
  return schema === undefined || table === undefined ? ['public', name] : [unquoted(schema), unquoted(table)];
}

function unquoted(part: string): string {
  return /^".+"$/s.test(part) ? part.slice(1, -1).replaceAll('""', '"') : part;
}

/** The call that watches a table: a regclass in a literal, in which only odd names need quotes. */
export function watchSql(schema: string, table: string, call = 'watch'): string {
  const name = [schema, table].map((part) => (/^[a-z_][a-z0-9_]*$/.test(part) ? part : quotedName(part))).join('.');
  return `SELECT changefeed.${call}('${name.replaceAll("'", "''")}');`;
}
