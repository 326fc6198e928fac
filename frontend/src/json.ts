// Comes in: a JSON text. Goes out: its value with every digit of a number and every key in its place.
// JSON.parse rounds numbers beyond 2^53, sorts keys that look like numbers first, and has its own idea of "__proto__".

/** A number as it was written. */
export class JsonNumber {
  constructor(readonly text: string) {}
}

export type Columns = ReadonlyMap<string, Json>;
export type Json = string | boolean | null | JsonNumber | readonly Json[] | Columns;

const SPACE = /[ \t\n\r]*/y;
const TOKEN = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"[^"\\\u0000-\u001f]*(?:\\[^\u0000-\u001f][^"\\\u0000-\u001f]*)*"/y;

/** Throws SyntaxError, and RangeError for what is nested too deep. Of a key that comes twice the last one wins, as in jsonb. */
export function parseJson(text: string): Json {
  let at = 0;

  function take(pattern: RegExp): string | null {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found === undefined) return null;
    at += found.length;
    return found;
  }

  function isNext(character: string): boolean {
    take(SPACE);
    if (text[at] !== character) return false;
    at += 1;
    return true;
  }

  function expect(character: string): void {
    if (!isNext(character)) fail();
  }

  function fail(): never {
    throw new SyntaxError(`no JSON at character ${at}`);
  }

  function string(): string {
    const found = take(STRING) ?? fail();
    return found.includes('\\') ? (JSON.parse(found) as string) : found.slice(1, -1);
  }

  function list(): Json[] {
    const items: Json[] = [];
    if (isNext(']')) return items;
    do items.push(value());
    while (isNext(','));
    expect(']');
    return items;
  }

  function columns(): Columns {
    const found = new Map<string, Json>();
    if (isNext('}')) return found;
    do {
      take(SPACE);
      const key = string();
      expect(':');
      found.set(key, value());
    } while (isNext(','));
    expect('}');
    return found;
  }

  function value(): Json {
    if (isNext('{')) return columns();
    if (isNext('[')) return list();
    if (text[at] === '"') return string();
    const token = take(TOKEN);
    if (!token) fail();
    if (token === 'null') return null;
    return token === 'true' || (token === 'false' ? false : new JsonNumber(token));
  }

  const whole = value();
  take(SPACE);
  if (at < text.length) fail();
  return whole;
}

export function isColumns(value: Json | undefined): value is Columns {
  return value instanceof Map;
}

/** JSON again. With an `indent` each item stands on a line of its own. */
export function jsonText(value: Json, indent = ''): string {
  if (value instanceof JsonNumber) return value.text;
  if (isColumns(value)) {
    return enclosed(
      '{',
      '}',
      [...value].map(([key, item]) => `${JSON.stringify(key)}: ${jsonText(item, deeper(indent))}`),
      indent,
    );
  }
  if (Array.isArray(value)) {
    return enclosed(
      '[',
      ']',
      (value as readonly Json[]).map((item) => jsonText(item, deeper(indent))),
      indent,
    );
  }
  return JSON.stringify(value);
}

function deeper(indent: string): string {
  return indent === '' ? '' : `${indent}  `;
}

function enclosed(open: string, close: string, items: readonly string[], indent: string): string {
  if (indent === '' || items.length === 0) return open + items.join(', ') + close;
  return `${open}${indent}  ${items.join(`,${indent}  `)}${indent}${close}`;
}
