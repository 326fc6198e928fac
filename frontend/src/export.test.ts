import { expect, test } from 'vitest';

import { csv, ndjson } from './export';
import { Row } from './rows';

const rows = [
  '["foreign", "x"]',
  '{"table":"b","action":"DELETE","data":{"note":""}}',
  '{"table":"a","action":"INSERT","data":{"id":9007199254740993,"note":null,"doc":{"a":1.10}},"schema":"s","at":"2026-11-22T07:00:00.120931+00:00","cursor":"1.x"}',
].map((text, place) => new Row(text, place, null, 0));

test('a line of NDJSON is what came, the oldest first', () => {
  expect(ndjson(rows).split('\n')).toEqual([...rows.map(({ text }) => text).reverse(), '']);
});

test('CSV has every column, with every digit, and tells null from an empty text', () => {
  expect(csv(rows)).toBe(
    [
      'changefeed_at,changefeed_action,changefeed_table,changefeed_cursor,id,note,doc,changefeed_other',
      '2026-11-22T07:00:00.120Z,INSERT,s.a,1.x,9007199254740993,,"{""a"": 1.10}",',
      ',DELETE,b,,,"",,',
      ',,,,,,,"[""foreign"", ""x""]"',
      '',
    ].join('\r\n'),
  );
});
