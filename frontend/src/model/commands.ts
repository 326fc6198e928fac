// Comes in: what can be done. Goes out: the same by key and by name, for the keyboard, the palette and the help.

export interface Command {
  readonly name: string;
  /** As KeyboardEvent.key says it; a list of those that do the same. */
  readonly keys: readonly string[];
  readonly run: () => void;
}

export interface Pressed {
  readonly key: string;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  readonly altKey: boolean;
}

export const PALETTE_KEY = 'mod+k';

/** Null where the key means nothing, or is meant for what is being typed. */
export function commandOf(
  commands: readonly Command[],
  pressed: Pressed,
  isTyping: boolean,
  hasKeys: boolean,
): Command | null {
  if (pressed.altKey) return null;
  const hasModifier = pressed.ctrlKey || pressed.metaKey;
  if (!hasModifier && (isTyping || !hasKeys) && pressed.key !== 'Escape') return null;
  const name = `${hasModifier ? 'mod+' : ''}${hasModifier ? pressed.key.toLowerCase() : pressed.key}`;
  return commands.find(({ keys }) => keys.includes(name)) ?? null;
}

/** Those whose name has all letters of `typed` in their order, the closest together first. */
export function found(commands: readonly Command[], typed: string): readonly Command[] {
  const letters = [...typed.toLowerCase().replaceAll(/\s/g, '')];
  return commands
    .map((command) => ({ command, spread: spreadOf(command.name.toLowerCase(), letters) }))
    .filter(({ spread }) => spread !== null)
    .sort((a, b) => a.spread! - b.spread!)
    .map(({ command }) => command);
}

function spreadOf(name: string, letters: readonly string[]): number | null {
  let at = -1;
  let first = 0;
  for (const [place, letter] of letters.entries()) {
    at = name.indexOf(letter, at + 1);
    if (at < 0) return null;
    if (place === 0) first = at;
  }
  return letters.length === 0 ? 0 : at - first + first / 1000;
}

const NAMES: Readonly<Record<string, string>> = { ' ': 'Space', Escape: 'Esc', ArrowLeft: '←', ArrowRight: '→' };

/** As this computer's keyboard has it: ⌘K on Apple's, Ctrl K on others. */
export function keyText(key: string, platform = navigator.platform): string {
  const modifier = /^(Mac|iP)/.test(platform) ? '⌘' : 'Ctrl ';
  return key.startsWith('mod+') ? `${modifier}${key.slice(4).toUpperCase()}` : (NAMES[key] ?? key);
}
