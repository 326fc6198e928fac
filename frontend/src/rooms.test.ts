// The rooms of the page, and which of them may import which: only what stands below.

import { describe, expect, it } from 'vitest';

/** Top to bottom. The files beside the rooms (main, live, screen, player) put them together. */
const ROOMS = ['views', 'pictures', 'model', 'feed', 'values'];
const SOURCES = import.meta.glob<string>(['./*/*.ts', './*/*.svelte', '!./**/*.test.ts'], {
  query: '?raw',
  import: 'default',
  eager: true,
});

/** The rooms that a source imports from: './delays' is its own room, '../model/state' another one, '../screen' none. */
function importedRooms(source: string): string[] {
  const paths = [...source.matchAll(/(?:from|import) '(\.\.\/[^']+)'/g)].map((match) => match[1]!.split('/'));
  return paths.filter((path) => path.length > 2).map((path) => path[1]!);
}

describe('rooms', () => {
  it('hold every source but those that put them together', () => {
    expect(Object.keys(SOURCES).length).toBeGreaterThan(40);
    expect(new Set(Object.keys(SOURCES).map((path) => path.split('/')[1]))).toEqual(new Set(ROOMS));
  });

  it.each(Object.entries(SOURCES))('%s imports from rooms below its own', (path, source) => {
    const own = ROOMS.indexOf(path.split('/')[1]!);
    const upward = importedRooms(source).filter((room) => ROOMS.indexOf(room) <= own);
    expect(upward).toEqual([]);
  });

  it.each(Object.entries(SOURCES))('%s imports none of what puts the rooms together, unless it is a view', (path, source) => {
    const composition = [...source.matchAll(/from '\.\.\/([^/']+)'/g)].map((match) => match[1]);
    if (!path.startsWith('./views/')) expect(composition).toEqual([]);
  });
});
