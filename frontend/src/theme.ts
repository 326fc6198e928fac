// Comes in: the tokens of app.css. Goes out: colours for what CSS can't reach, the canvas.

export interface Theme {
  readonly insert: string;
  readonly update: string;
  readonly delete: string;
  readonly muted: string;
  readonly grid: string;
  readonly hatch: string;
}

export function readTheme(): Theme {
  // A token may be light-dark(…); only a property that is a colour comes back resolved.
  const probe = document.createElement('span');
  document.body.append(probe);
  const colour = (token: string) => {
    probe.style.color = `var(--${token})`;
    return getComputedStyle(probe).color;
  };
  const theme = {
    insert: colour('insert'),
    update: colour('update'),
    delete: colour('delete'),
    muted: colour('muted'),
    grid: colour('grid'),
    hatch: colour('hatch'),
  };
  probe.remove();
  return theme;
}

/** Calls back when the system changes between light and dark, until the returned function is called. */
export function watchTheme(onChange: () => void): () => void {
  const isDark = matchMedia('(prefers-color-scheme: dark)');
  isDark.addEventListener('change', onChange);
  return () => isDark.removeEventListener('change', onChange);
}
