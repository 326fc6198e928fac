import { expect, test } from 'vitest';

import { csv, ndjson } from './export';
import { TailEntry } from '../model/tail_entries';

const rows = [
  '["foreign", "x"]',
  '{"table":"b","action":"DELETE","data":{"note":""}}',
  '{"table":"a","action":"INSERT","data":{"id":9007199254740993,"note":null,"doc":{"a":1.10}},"schema":"s","at":"2026-11-22T07:00:00.120931+00:00","cursor":"1.x"}',
].map((text, place) => new TailEntry(text, place, null, 0));

test('a line of NDJSON is what came, the oldest first', () => {
  expect(ndjson(rows).split('\n')).toEqual([...rows.map(({ text }) => text).reverse(), '']);
});

test('CSV has every column, with every digit, and tells null from an empty text', () => {
  expect(csv(rows)).toBe(
    [
      '\ufeffchangefeed_at,changefeed_action,changefeed_table,changefeed_cursor,id,note,doc,changefeed_other',
      '2026-11-22T07:00:00.120Z,INSERT,s.a,1.x,9007199254740993,,"{""a"": 1.10}",',
      ',DELETE,b,,,"",,',
      ',,,,,,,"[""foreign"", ""x""]"',
      '',
    ].join('\r\n'),
  );
});

function field(value: string): string {
  const text = JSON.stringify({ table: 't', action: 'INSERT', data: { it: value } });
  const [, line] = csv([new TailEntry(text, 0, null, 0)]).split(/\r\n(?=,INSERT|$)/);
  return (line ?? '').replace(/^,INSERT,t,,/, '').replace(/,$/, '');
}

test.each([
  ['=1+1', "'=1+1"],
  ['+cmd', "'+cmd"],
  ['-2+3', "'-2+3"],
  ['@SUM(A1)', "'@SUM(A1)"],
  ['  =1+1', "'  =1+1"],
  ['＝1+1', "'＝1+1"],
  ['\t=1+1', '"\'\t=1+1"'],
  ['\r=1+1', '"\'\r=1+1"'],
  ['=HYPERLINK("http://evil.example","x")', '"\'=HYPERLINK(""http://evil.example"",""x"")"'],
  ['a;=1+1', '"a;=1+1"'],
])('a text that a spreadsheet would run is a text: %j', (value, expected) => {
  expect(field(value)).toBe(expected);
});

test.each(['-5', '+5', '-1.50', '1e-7', '-1E+20', 'a=b', "O'Brien", 'x-1', '2026-11-22'])(
  'what is no formula stays as it is: %j',
  (value) => {
    expect(field(value)).toBe(value);
  },
);

test('numbers stay numbers, and names of columns and tables are no formulas either', () => {
  const text = '{"table":"=t","action":"INSERT","data":{"-n":-5,"=c":[-1]}}';
  const [head, line] = csv([new TailEntry(text, 0, null, 0)]).split('\r\n');
  expect(head).toBe("\ufeffchangefeed_at,changefeed_action,changefeed_table,changefeed_cursor,'-n,'=c,changefeed_other");
  expect(line).toBe(",INSERT,'=t,,-5,[-1],");
});
