// Comes in: the tokens of app.css, and which theme was chosen. Goes out: colours for what CSS can't reach, the canvas.
import type { ThemeName } from '../model/choices';

const TOKENS = ['insert', 'update', 'delete', 'p50', 'p95', 'p99', 'muted', 'grid', 'hatch', 'bad'] as const;
export type Theme = Readonly<Record<(typeof TOKENS)[number], string>>;

const listeners = new Set<() => void>();

export function readTheme(): Theme {
  // A token may be light-dark(…); only a property that is a colour comes back resolved.
  const probe = document.createElement('span');
  document.body.append(probe);
  const entries = TOKENS.map((token) => {
    probe.style.color = `var(--${token})`;
    return [token, getComputedStyle(probe).color];
  });
  probe.remove();
  return Object.fromEntries(entries) as Theme;
}

export function chooseTheme(name: ThemeName): void {
  const { dataset } = document.documentElement;
  if ((dataset['theme'] ?? 'system') === name) return;
  if (name === 'system') delete dataset['theme'];
  else dataset['theme'] = name;
  for (const listener of listeners) listener();
}

/** Calls back when the colours change, by the system or by choice, until the returned function is called. */
export function watchTheme(onChange: () => void): () => void {
  const queries = ['(prefers-color-scheme: dark)', '(forced-colors: active)'].map((query) => matchMedia(query));
  for (const query of queries) query.addEventListener('change', onChange);
  listeners.add(onChange);
  return () => {
    for (const query of queries) query.removeEventListener('change', onChange);
    listeners.delete(onChange);
  };
}
