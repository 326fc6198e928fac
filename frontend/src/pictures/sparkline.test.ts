import { expect, test } from 'vitest';

import { sparklinePath } from './sparkline';

test('a line goes up to the highest count and is broken without data', () => {
  expect(sparklinePath([0, 4, null, 2])).toBe('M0 18.0L1 2.0M3 10.0');
  expect(sparklinePath([null, null])).toBe('');
});
