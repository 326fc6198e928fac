// Comes in: the browser's timer and animation frames. Goes out: two paces of drawing. Knows nothing of what is drawn.

export interface Frames {
  readonly after: (ms: number, callback: () => void) => () => void;
  readonly request: (callback: () => void) => () => void;
}

export interface Paces {
  /** Eight times a second. */
  readonly quick: () => void;
  /** Four times a second. */
  readonly calm: () => void;
}

const QUICK_MS = 125;

/**
 * Draws until the returned function is called. A timer sets the pace and an animation frame the moment: an
 * animation-frame loop of its own would wake 60 times a second to do nothing, and a hidden page gets no frames,
 * so that nothing is drawn there.
 */
export function startDrawing(paces: Paces, frames: Frames): () => void {
  let cancel: () => void;
  let isCalm = true;
  const draw = () => {
    paces.quick();
    if (isCalm) paces.calm();
    isCalm = !isCalm;
    cancel = frames.after(QUICK_MS, wait);
  };
  const wait = () => {
    cancel = frames.request(draw);
  };
  wait();
  return () => cancel();
}
