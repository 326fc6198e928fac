import { expect, test } from 'vitest';

import { type Columns, JsonNumber, jsonText, parseJson } from './json';

test('every digit of a number is kept', () => {
  for (const text of ['9007199254740993', '-0', '1.10', '123456789012345678901234567890.10', '1e400', '2E-7']) {
    expect(parseJson(text)).toEqual(new JsonNumber(text));
    expect(jsonText(parseJson(text))).toBe(text);
  }
});

test('keys keep their place, also those that mean something to JavaScript; the last of two wins', () => {
  const value = parseJson(
    '{"b": 1, "__proto__": [true], "2": null, "constructor": {}, "1": false, "b": "x"}',
  ) as Columns;
  expect([...value.keys()]).toEqual(['b', '__proto__', '2', 'constructor', '1']);
  expect(value.get('__proto__')).toEqual([true]);
  expect(value.get('b')).toBe('x');
});

test('strings are read as JSON says', () => {
  expect(parseJson(String.raw`"a\"\\\u00e9\ud83d\ude00\n"`)).toBe('a"\\é😀\n');
  expect(parseJson('"ü\u2028😀"')).toBe('ü\u2028😀');
});

test('what is not JSON is refused, as JSON.parse refuses it', () => {
  for (const text of [
    '',
    ' ',
    '{',
    '[1,]',
    '{"a":1,}',
    '01',
    '+1',
    '1.',
    'NaN',
    "'a'",
    '"\n"',
    '"\\x"',
    'true false',
    '{a:1}',
    '"a',
    '[1 2]',
  ]) {
    expect(() => parseJson(text), text).toThrow(SyntaxError);
    expect(() => JSON.parse(text) as unknown, text).toThrow(SyntaxError);
  }
});

test('what JSON.parse reads is read alike, whatever the white space', () => {
  for (const value of [null, [], {}, [[], {}], { a: [1, { b: 'c' }], ' ': -1.5e-3 }, 'x', 0]) {
    for (const indent of [0, 2, '\t']) {
      const text = ` ${JSON.stringify(value, null, indent)}\r\n`;
      expect(JSON.parse(jsonText(parseJson(text)))).toEqual(value);
      expect(JSON.parse(jsonText(parseJson(text), '\n'))).toEqual(value);
    }
  }
});

test('a text with an indent has an item a line', () => {
  expect(jsonText(parseJson('{"a":[1,{}],"b":[]}'), '\n')).toBe('{\n  "a": [\n    1,\n    {}\n  ],\n  "b": []\n}');
});

test('what is nested as deep as PostgreSQL takes it is read and written', () => {
  const depth = 12_000;
  for (const [open, close] of [
    ['[', ']'],
    ['{"a": ', '}'],
  ] as const) {
    const text = `${open.repeat(depth)}1${close.repeat(depth)}`;
    const value = parseJson(text);
    expect(jsonText(value)).toBe(text);
    const lines = jsonText(value, '\n');
    expect(lines.length).toBeLessThan(depth * 500);
    expect(lines.replaceAll(/\n */g, '')).toBe(text);
    expect(() => parseJson(text.slice(0, -1))).toThrow(SyntaxError);
    expect(() => parseJson(text + close)).toThrow(SyntaxError);
  }
});
