// Comes in: a value of a union of which every case has been handled. Goes out: nothing.

/** Makes a forgotten case of a union a compile error, and a lying type a loud one. */
export function assertNever(value: never): never {
  throw new Error(`unhandled case: ${JSON.stringify(value)}`);
}
