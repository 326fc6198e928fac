// Comes in: rows. Goes out: the text of a file with all of them, oldest first.
import { type Json, jsonText } from '../values/json';
import type { TailEntry } from '../model/tail_entries';

/** Each row as it came, byte for byte. */
export function ndjson(rows: readonly TailEntry[]): string {
  return rows
    .toReversed()
    .map((row) => `${row.text.replaceAll(/[\r\n]+/g, ' ')}\n`)
    .join('');
}

/** By which a spreadsheet knows UTF-8 (RFC 4180 says nothing of encodings). */
const BYTE_ORDER_MARK = '\ufeff';
/** What a spreadsheet takes for a formula, and runs (OWASP, CSV Injection). */
const FORMULA = /^(?:\s*[=+\-@＝＋－＠]|[\t\r\n])/;
const NUMBER = /^[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

/**
 * What a change is, then every column that any of the rows has (RFC 4180). Null is nothing, an empty text is "".
 * Other JSON is in the last column, unchanged. A text that would be a formula gets a ' before it.
 */
export function csv(rows: readonly TailEntry[]): string {
  const contents = rows.toReversed().map((row) => row.content);
  const names = [
    ...new Set(contents.flatMap((content) => (content.kind === 'change' ? [...(content.data?.keys() ?? [])] : []))),
  ];
  const lines = contents.map((content) =>
    content.kind === 'foreign'
      ? [null, null, null, null, ...names.map(() => null), content.text]
      : [
          content.at === null ? null : new Date(content.at).toISOString(),
          content.action,
          content.table,
          content.cursor,
          ...names.map((name) => textOf(content.data?.get(name) ?? null)),
          null,
        ],
  );
  const head = [
    'changefeed_at',
    'changefeed_action',
    'changefeed_table',
    'changefeed_cursor',
    ...names,
    'changefeed_other',
  ];
  return BYTE_ORDER_MARK + [head, ...lines].map((line) => `${line.map(fieldOf).join(',')}\r\n`).join('');
}

function textOf(value: Json): string | null {
  return value === null || typeof value === 'string' ? value : jsonText(value);
}

function fieldOf(text: string | null): string {
  if (text === null) return '';
  const shown = FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
  return shown === '' || /[",;\t\r\n]/.test(shown) ? `"${shown.replaceAll('"', '""')}"` : shown;
}
