// Comes in: a JSON text. Goes out: its value with every digit of a number and every key in its place.
// JSON.parse rounds numbers beyond 2^53, sorts keys that look like numbers first, and has its own idea of "__proto__".

/** A number as it was written. */
export class JsonNumber {
  constructor(readonly text: string) {}
}

export type Columns = ReadonlyMap<string, Json>;
export type Json = string | boolean | null | JsonNumber | readonly Json[] | Columns;

/** Characters of an indent: with one more for each of 10,000 levels, a text of 20 KB would become one of 200 MB. */
const DEEPEST = 200;
const SPACE = /[ \t\n\r]*/y;
const TOKEN = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"[^"\\\u0000-\u001f]*(?:\\[^\u0000-\u001f][^"\\\u0000-\u001f]*)*"/y;

/** Throws SyntaxError. Of a key that comes twice the last one wins, as in jsonb. Calls itself for no level of nesting. */
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

  function key(): string {
    take(SPACE);
    const found = string();
    expect(':');
    return found;
  }

  function scalar(): Json {
    if (text[at] === '"') return string();
    const token = take(TOKEN);
    if (!token) fail();
    if (token === 'null') return null;
    return token === 'true' || (token === 'false' ? false : new JsonNumber(token));
  }

  /** The arrays and objects that are open, each object with the key that waits for its value. */
  const open: ({ items: Json[] } | { columns: Map<string, Json>; key: string })[] = [];

  /** Puts a value where it belongs, and each array or object that ends with it; the outermost one is given back. */
  function close(value: Json): Json | undefined {
    for (;;) {
      const inner = open.at(-1);
      if (inner === undefined) return value;
      if ('items' in inner) {
        inner.items.push(value);
        if (isNext(',')) return undefined;
        expect(']');
        value = inner.items;
      } else {
        inner.columns.set(inner.key, value);
        if (isNext(',')) {
          inner.key = key();
          return undefined;
        }
        expect('}');
        value = inner.columns;
      }
      open.pop();
    }
  }

  let whole: Json | undefined;
  while (whole === undefined) {
    if (isNext('[')) {
      if (isNext(']')) whole = close([]);
      else open.push({ items: [] });
    } else if (isNext('{')) {
      if (isNext('}')) whole = close(new Map());
      else open.push({ columns: new Map(), key: key() });
    } else whole = close(scalar());
  }
  take(SPACE);
  if (at < text.length) fail();
  return whole;
}

export function isColumns(value: Json | undefined): value is Columns {
  return value instanceof Map;
}

/** JSON again. With an `indent` each item has a line of its own, indented by at most DEEPEST levels. */
export function jsonText(value: Json, indent = ''): string {
  const parts: string[] = [];
  /** What is still to be written, the next one last. */
  const waiting: (string | { value: Json; indent: string })[] = [{ value, indent }];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (typeof next === 'string') parts.push(next);
    else if (isColumns(next.value)) {
      const items = [...next.value].map(([key, item]) => ({ before: `${JSON.stringify(key)}: `, item }));
      enclose('{', '}', items, next.indent);
    } else if (Array.isArray(next.value)) {
      const items = (next.value as readonly Json[]).map((item) => ({ before: '', item }));
      enclose('[', ']', items, next.indent);
    } else parts.push(next.value instanceof JsonNumber ? next.value.text : JSON.stringify(next.value));
  }
  return parts.join('');

  function enclose(
    opening: string,
    closing: string,
    items: readonly { before: string; item: Json }[],
    indent: string,
  ): void {
    const isSpread = indent !== '' && items.length > 0;
    const inner = isSpread && indent.length < DEEPEST ? `${indent}  ` : indent;
    parts.push(opening);
    waiting.push(isSpread ? indent + closing : closing);
    for (const [place, { before, item }] of [...items.entries()].reverse()) {
      const separator = isSpread ? (place > 0 ? ',' : '') + inner : place > 0 ? ', ' : '';
      waiting.push({ value: item, indent: inner }, separator + before);
    }
  }
}
