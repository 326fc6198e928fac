import { expect, test } from 'vitest';

import { unknownRuns } from './chart';

test('runs of nulls, the first and the last place of each', () => {
  expect(unknownRuns([null, 1, null, null, 0, null])).toEqual([[0, 0], [2, 3], [5, 5]]);
  expect(unknownRuns([0, 1])).toEqual([]);
});
