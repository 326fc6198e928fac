// Comes in: counts, null without data. Goes out: the path of a small line, broken there.
export const SPARKLINE_HEIGHT = 20;
const INSET = 2;

export function sparklinePath(values: readonly (number | null)[]): string {
  const top = Math.max(1, ...values.map((value) => value ?? 0));
  let path = '';
  let isDown = false;
  for (const [x, value] of values.entries()) {
    if (value !== null) {
      const y = SPARKLINE_HEIGHT - INSET - (value / top) * (SPARKLINE_HEIGHT - 2 * INSET);
      path += `${isDown ? 'L' : 'M'}${x} ${y.toFixed(1)}`;
    }
    isDown = value !== null;
  }
  return path;
}
