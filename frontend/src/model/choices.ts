// Comes in: the query of the page's address. Goes out: what the reader chose to see; and the query again.
import { type Condition, conditionsOf, type Span } from './filter';
import { ACTIONS } from '../feed/protocol';

export const WINDOWS = { '1m': 60, '5m': 300, '15m': 900, '1h': 3600, '24h': 86_400 } as const;
export type WindowName = keyof typeof WINDOWS;
export const WINDOW_NAMES = Object.keys(WINDOWS) as WindowName[];

export const THEMES = ['system', 'light', 'dark'] as const;
export type ThemeName = (typeof THEMES)[number];

export const SORTS = ['busiest', 'name', 'inserts', 'updates', 'deletes', 'total', 'seen'] as const;
export type Sort = (typeof SORTS)[number];

/** Rows a second, as the server names them; the rest is counted all the same. */
export const PACES = ['50', '200', '1000', 'all'] as const;
export type Pace = (typeof PACES)[number];

/** The page alerts when an action's rate is above this many a second, or is zero for this long. */
export type Alert =
  | { readonly kind: 'above'; readonly action: number; readonly perSecond: number }
  | { readonly kind: 'quiet'; readonly action: number; readonly table: string | null; readonly seconds: number };

export interface Choices {
  readonly window: WindowName;
  /** Of the charts; null: the window, up to now. */
  readonly zoom: Span | null;
  readonly conditions: readonly Condition[];
  readonly sort: Sort;
  readonly pace: Pace;
  readonly pinned: readonly string[];
  /** The cursor of the row in the panel. */
  readonly row: string | null;
  readonly zone: 'local' | 'utc';
  readonly theme: ThemeName;
  readonly isKiosk: boolean;
  /** Whether single letters do something: WCAG 2.1.4 wants that they can be switched off. */
  readonly hasKeys: boolean;
  readonly alerts: readonly Alert[];
}

export const DEFAULTS: Choices = {
  window: '5m',
  zoom: null,
  conditions: [],
  sort: 'busiest',
  pace: '200',
  pinned: [],
  row: null,
  zone: 'local',
  theme: 'system',
  isKiosk: false,
  hasKeys: true,
  alerts: [],
};

/** A table's name may have blanks, but not another term of the filter after one. */
const OTHER_TERM = /\s\S*[:=]/;

/** An invalid choice falls back to its default. */
export function readChoices(search: string): Choices {
  const query = new URLSearchParams(search);
  const from = Number(query.get('from') ?? NaN);
  const to = Number(query.get('to') ?? NaN);
  return {
    window: oneOf(WINDOW_NAMES, query.get('w')) ?? DEFAULTS.window,
    zoom: from < to ? { from, to } : null,
    conditions: [
      ...query
        .getAll('t')
        .flatMap((name): readonly Condition[] =>
          OTHER_TERM.test(name)
            ? conditionsOf(name.replace(/^(-?)/, '$1table:'))
            : [{ kind: 'table', table: name.replace(/^-/, ''), isExcluded: name.startsWith('-') }],
        ),
      ...ACTIONS.filter((action) => query.get('op')?.includes(action[0]!.toLowerCase())).map((action): Condition => ({
        kind: 'action',
        action,
      })),
      ...query.getAll('c').flatMap((text): Condition[] => {
        const [, column, not, value] = /^(.+?)(!?)=(.*)$/s.exec(text) ?? [];
        return column === undefined ? [] : [{ kind: 'column', column, value: value ?? '', isExcluded: not === '!' }];
      }),
      ...query
        .getAll('q')
        .filter(Boolean)
        .map((text): Condition => ({ kind: 'text', text })),
    ],
    sort: oneOf(SORTS, query.get('sort')) ?? DEFAULTS.sort,
    pace: oneOf(PACES, query.get('rows')) ?? DEFAULTS.pace,
    pinned: query.getAll('pin'),
    row: query.get('row'),
    zone: query.get('tz') === 'utc' ? 'utc' : 'local',
    theme: oneOf(THEMES, query.get('theme')) ?? DEFAULTS.theme,
    isKiosk: query.get('kiosk') === '1',
    hasKeys: query.get('keys') !== 'off',
    alerts: query.getAll('alert').flatMap((text) => alertOf(text) ?? []),
  };
}

/** What is as ever is left out. */
export function queryOf(choices: Choices): string {
  const query = new URLSearchParams();
  const set = (name: string, value: string, standard = '') => value !== standard && query.append(name, value);
  set('w', choices.window, DEFAULTS.window);
  if (choices.zoom !== null) {
    set('from', String(choices.zoom.from));
    set('to', String(choices.zoom.to));
  }
  const actions = choices.conditions.map((condition) =>
    condition.kind === 'action' ? condition.action[0]!.toLowerCase() : '',
  );
  for (const condition of choices.conditions) {
    if (condition.kind === 'table') set('t', (condition.isExcluded ? '-' : '') + condition.table);
    if (condition.kind === 'column')
      set('c', `${condition.column}${condition.isExcluded ? '!' : ''}=${condition.value}`);
    if (condition.kind === 'text') set('q', condition.text);
  }
  set('op', actions.join(''));
  set('sort', choices.sort, DEFAULTS.sort);
  set('rows', choices.pace, DEFAULTS.pace);
  for (const name of choices.pinned) set('pin', name);
  set('row', choices.row ?? '');
  set('tz', choices.zone, DEFAULTS.zone);
  set('theme', choices.theme, DEFAULTS.theme);
  set('kiosk', choices.isKiosk ? '1' : '');
  set('keys', choices.hasKeys ? '' : 'off');
  for (const alert of choices.alerts) set('alert', alertText(alert));
  return query.size === 0 ? '' : `?${query}`;
}

/** `i>100`: more than 100 INSERTs a second; `public.orders:i=0/300`: no INSERT in it for 300 s. */
export function alertOf(text: string): Alert | null {
  const above = /^([iudt])>(\d+(?:\.\d+)?)$/.exec(text);
  if (above) return { kind: 'above', action: 'iudt'.indexOf(above[1]!), perSecond: Number(above[2]) };
  const quiet = /^(?:(.+):)?([iudt])=0\/(\d+)$/.exec(text);
  if (!quiet || Number(quiet[3]) === 0) return null;
  return { kind: 'quiet', table: quiet[1] ?? null, action: 'iudt'.indexOf(quiet[2]!), seconds: Number(quiet[3]) };
}

export function alertText(alert: Alert): string {
  const letter = 'iudt'[alert.action];
  if (alert.kind === 'above') return `${letter}>${alert.perSecond}`;
  return `${alert.table === null ? '' : `${alert.table}:`}${letter}=0/${alert.seconds}`;
}

function oneOf<T extends string>(known: readonly T[], text: string | null): T | undefined {
  return known.find((name) => name === text);
}
