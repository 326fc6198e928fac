import { expect, test } from 'vitest';

import { startDrawing } from './draw_loop';

/** A timer and a frame that come when the test says so. */
function fakeFrames() {
  let next: (() => void) | null = null;
  const schedule = (callback: () => void) => {
    next = callback;
    return () => {
      next = null;
    };
  };
  return {
    frames: { after: (_: number, callback: () => void) => schedule(callback), request: schedule },
    /** False if nothing was waiting. */
    run: () => {
      const callback = next;
      next = null;
      callback?.();
      return callback !== null;
    },
  };
}

test('every second quick drawing is a calm one, too, and the first is', () => {
  const { frames, run } = fakeFrames();
  const drawn: string[] = [];
  startDrawing({ quick: () => drawn.push('quick'), calm: () => drawn.push('calm') }, frames);
  for (let i = 0; i < 5; i++) run();
  expect(drawn).toEqual(['quick', 'calm', 'quick', 'quick', 'calm']);
});

test('nothing is drawn without a frame, and nothing waits after it was stopped', () => {
  const { frames, run } = fakeFrames();
  let drawn = 0;
  const stop = startDrawing({ quick: () => drawn++, calm: () => {} }, frames);
  expect(drawn).toBe(0);
  run();
  stop();
  expect(run()).toBe(false);
  expect(drawn).toBe(1);
});
