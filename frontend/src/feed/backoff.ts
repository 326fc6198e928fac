// Comes in: randomness. Goes out: the delays between attempts to reconnect, in milliseconds.

export const FIRST_DELAY_LIMIT_MS = 300;
export const DELAY_LIMIT_MS = 10_000;

/**
 * Delays for ever. The first attempt is made at once: most lost connections are lost alone. The other delays are each
 * drawn evenly from 0 to a limit that doubles up to DELAY_LIMIT_MS ("full jitter", AWS Architecture Blog, Exponential
 * Backoff And Jitter): when a server restarts, its pages come back spread over time, not all at once.
 */
export function* backoff(random: () => number): Generator<number, never> {
  yield 0;
  for (let limit = FIRST_DELAY_LIMIT_MS; ; limit = Math.min(limit * 2, DELAY_LIMIT_MS)) {
    yield Math.round(random() * limit);
  }
}
