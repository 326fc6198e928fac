import { expect, test } from 'vitest';

import { type Command, commandOf, found, keyText } from './commands';

const command = (name: string, ...keys: string[]): Command => ({ name, keys, run: () => {} });
const commands = [
  command('Pause', ' ', 'p'),
  command('Palette', 'mod+k'),
  command('Close', 'Escape'),
  command('Show pages'),
];
const press = (key: string, modifiers = {}) => ({ key, ctrlKey: false, metaKey: false, altKey: false, ...modifiers });
const nameOf = (pressed: ReturnType<typeof press>, isTyping = false, hasKeys = true) =>
  commandOf(commands, pressed, isTyping, hasKeys)?.name;

test('a key runs its command', () => {
  expect([' ', 'p', 'Escape', 'x'].map((key) => nameOf(press(key)))).toEqual(['Pause', 'Pause', 'Close', undefined]);
  expect(nameOf(press('K', { metaKey: true }))).toBe('Palette');
  expect(nameOf(press('k', { ctrlKey: true }))).toBe('Palette');
  expect(nameOf(press('p', { ctrlKey: true }))).toBeUndefined();
  expect(nameOf(press('p', { altKey: true }))).toBeUndefined();
});

test('single keys are for the text while one types, and off where they are switched off', () => {
  for (const [isTyping, hasKeys] of [
    [true, true],
    [false, false],
  ] as const) {
    expect(nameOf(press('p'), isTyping, hasKeys)).toBeUndefined();
    expect(nameOf(press('Escape'), isTyping, hasKeys)).toBe('Close');
    expect(nameOf(press('k', { ctrlKey: true }), isTyping, hasKeys)).toBe('Palette');
  }
});

test('the palette finds by letters in their order, the closest first', () => {
  expect(found(commands, 'pa').map(({ name }) => name)).toEqual(['Pause', 'Palette', 'Show pages']);
  expect(found(commands, 'ple').map(({ name }) => name)).toEqual(['Palette']);
  expect(found(commands, '')).toHaveLength(4);
  expect(found(commands, 'xyz')).toEqual([]);
});

test('keys have names', () => {
  expect([' ', 'mod+k', 'j'].map((key) => keyText(key, 'Linux x86_64'))).toEqual(['Space', 'Ctrl K', 'j']);
  expect(keyText('mod+k', 'MacIntel')).toBe('⌘K');
});
