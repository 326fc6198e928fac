// The rooms of the page, and which of them may import which: only what stands below.

import { describe, expect, it } from 'vitest';

/** Top to bottom. The files beside the rooms (main, live, screen, player) put them together. */
const ROOMS = ['views', 'pictures', 'model', 'feed', 'values'];
const SOURCES = import.meta.glob<string>(['./*/**/*.ts', './*/**/*.svelte', '!./**/*.test.ts'], {
  query: '?raw',
  import: 'default',
  eager: true,
});

/** What a source imports, as paths from here: 'model/state.ts' imports '../values/delays', which is ['values', 'delays']. */
function importedPaths(path: string, source: string): string[][] {
  return [...source.matchAll(/(?:from|import|import\() ?'(\.[^']+)'/g)].map((match) =>
    new URL(match[1]!, `file:///${path}`).pathname.slice(1).split('/'),
  );
}

describe('rooms', () => {
  it('hold every source but those that put them together', () => {
    expect(Object.keys(SOURCES).length).toBeGreaterThan(40);
    expect(new Set(Object.keys(SOURCES).map((path) => path.split('/')[1]))).toEqual(new Set(ROOMS));
  });

  it.each(Object.entries(SOURCES))('%s imports from its own room and those below', (path, source) => {
    const own = ROOMS.indexOf(path.split('/')[1]!);
    const rooms = importedPaths(path, source).filter((parts) => parts.length > 1);
    expect(rooms.filter(([room]) => ROOMS.indexOf(room!) < own)).toEqual([]);
  });

  it.each(Object.entries(SOURCES))('%s imports none of what puts the rooms together, unless it is a view', (path, source) => {
    const composition = importedPaths(path, source).filter((parts) => parts.length === 1);
    if (!path.startsWith('./views/')) expect(composition).toEqual([]);
  });
});
