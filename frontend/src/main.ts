// Comes in: the browser. Goes out: a running page. The one place where the live state, the screen and the keys meet.
import { mount } from 'svelte';

import './app.css';
import { type Choices, PACES, queryOf, readChoices, THEMES, WINDOW_NAMES, WINDOWS } from './model/choices';
import { type Command, commandOf, PALETTE_KEY } from './model/commands';
import { askedOf } from './model/filter';
import { startDrawing } from './pictures/draw_loop';
import { Live } from './live';
import { timelineFor } from './pictures/view_model';
import { ACTIONS } from './feed/protocol';
import { Player } from './player.svelte';
import { Screen } from './screen.svelte';
import { chooseTheme } from './pictures/theme';
import { titleOf } from './pictures/title';
import App from './views/App.svelte';

const STATUS_MS = 30_000;

const live = new Live(showTitle, () => void showSignIn());
const screen = new Screen(live.state, readChoices(location.search), () => Date.now(), applyChoices);
const player = new Player(live.state, screen);
let wakeLock: WakeLockSentinel | null = null;
let isSigningIn = false;

function applyChoices(choices: Choices): void {
  history.replaceState(null, '', `${location.pathname}${queryOf(choices)}`);
  chooseTheme(choices.theme);
  live.wantPace(choices.pace);
  wantHistory(choices);
}

function wantHistory({ window, zoom, alerts }: Choices): void {
  const back = zoom === null ? WINDOWS[window] : Date.now() / 1000 - zoom.from;
  const seconds = alerts.map((alert) => (alert.kind === 'quiet' ? alert.seconds : 0));
  for (const reach of [back, ...seconds]) live.want(timelineFor(live.state, reach).stepSeconds);
}

// At once and not with the next frame: a hidden tab gets no frames, but its title is seen.
function showTitle(): void {
  document.title = titleOf(live.state, screen.raised.length);
  // Only now it is known by which steps the server counts.
  wantHistory(screen.choices);
}

async function showSignIn(): Promise<void> {
  if (isSigningIn) return;
  isSigningIn = true; // until the page is reloaded
  const { default: SignIn } = await import('./views/dialogs/SignIn.svelte');
  mount(SignIn, { target: document.body });
}

async function signOut(): Promise<void> {
  await fetch('api/session', { method: 'DELETE' }).catch(() => null);
  location.reload();
}

function moveWindow(by: -1 | 1): void {
  const window = WINDOW_NAMES[WINDOW_NAMES.indexOf(screen.choices.window) + by];
  if (window !== undefined) screen.choose({ window, zoom: null });
}

/** By half of what is shown; what is zoomed to moves, a window that reaches up to now becomes a span. */
function pan(by: -1 | 1): void {
  const { times, stepSeconds } = screen.chart;
  const from = screen.choices.zoom?.from ?? times[0] ?? 0;
  const to = screen.choices.zoom?.to ?? (times.at(-1) ?? 0) + stepSeconds;
  const distance = (by * (to - from)) / 2;
  screen.choose({ zoom: { from: Math.round(from + distance), to: Math.round(to + distance) } });
}

function escape(): void {
  if (screen.dialog !== null) screen.dialog = null;
  else if (screen.selected !== null || screen.choices.row !== null) screen.select(null);
  else if (screen.choices.zoom !== null) screen.choose({ zoom: null });
}

const element = (selector: string) => document.querySelector<HTMLElement>(selector);
const commands: readonly Command[] = [
  { name: 'Pause or go on', keys: [' '], run: () => screen.hold('paused', !screen.isPaused) },
  { name: 'Back to live', keys: ['l'], run: () => screen.goLive() },
  { name: 'Filter', keys: ['/'], run: () => element('#filter')?.focus() },
  { name: 'Next row', keys: ['j'], run: () => screen.step(1) },
  { name: 'Previous row', keys: ['k'], run: () => screen.step(-1) },
  {
    name: 'Open the newest row, or the panel of the row',
    keys: ['Enter'],
    run: () => (screen.selected ? screen.askPanel('take the focus') : screen.step(1)),
  },
  { name: 'Copy the row', keys: ['c'], run: () => screen.askPanel('copy') },
  { name: 'What differs in the row', keys: ['d'], run: () => screen.askPanel('show what differs') },
  ...ACTIONS.slice(0, 3).map((action, place): Command => ({
    name: `Only ${action}, or not only`,
    keys: [String(place + 1)],
    run: () => screen.toggle({ kind: 'action', action }),
  })),
  { name: 'Shorter window', keys: ['['], run: () => moveWindow(-1) },
  { name: 'Longer window', keys: [']'], run: () => moveWindow(1) },
  ...WINDOW_NAMES.map((window): Command => ({
    name: `Window of ${window}`,
    keys: [],
    run: () => screen.choose({ window, zoom: null }),
  })),
  { name: 'Earlier', keys: ['ArrowLeft'], run: () => pan(-1) },
  { name: 'Later', keys: ['ArrowRight'], run: () => pan(1) },
  { name: 'Close, or leave the zoom', keys: ['Escape'], run: escape },
  { name: 'Clear the filter', keys: ['x'], run: () => screen.choose({ conditions: [] }) },
  {
    name: 'Next theme: light, dark, as the system',
    keys: ['t'],
    run: () => screen.choose({ theme: THEMES[(THEMES.indexOf(screen.choices.theme) + 1) % THEMES.length]! }),
  },
  {
    name: 'Times in UTC or local',
    keys: ['z'],
    run: () => screen.choose({ zone: screen.choices.zone === 'utc' ? 'local' : 'utc' }),
  },
  {
    name: 'Kiosk: for a screen on the wall',
    keys: ['K'],
    run: () => screen.choose({ isKiosk: !screen.choices.isKiosk }),
  },
  ...PACES.map((pace): Command => ({
    name: pace === 'all' ? 'As many rows a second as the server sends' : `At most ${pace} rows a second`,
    keys: [],
    run: () => screen.choose({ pace }),
  })),
  { name: 'Watch tables', keys: ['w'], run: () => screen.open('watch') },
  { name: 'Alerts', keys: ['a'], run: () => screen.open('alerts') },
  { name: 'Replay a span of time', keys: ['r'], run: () => screen.open('replay') },
  { name: 'Sign out', keys: [], run: () => void signOut() },
  { name: 'Single keys on or off', keys: [], run: () => screen.choose({ hasKeys: !screen.choices.hasKeys }) },
  { name: 'Keys and help', keys: ['?'], run: () => screen.open('help') },
  {
    name: 'All commands',
    keys: [PALETTE_KEY],
    run: () => (screen.dialog === 'palette' ? (screen.dialog = null) : screen.open('palette')),
  },
];

function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const isTyping = target.matches('input, textarea, select, [contenteditable]');
  // What a focused button or link does by itself stays so.
  if (target.matches('button, a, summary, [role=tab]') && [' ', 'Enter'].includes(event.key)) return;
  if (target.matches('[role=tab]') && event.key.startsWith('Arrow')) return;
  // Its field is loaded when it is asked for: what is typed until then is not lost.
  if (screen.dialog === 'palette' && !isTyping && event.key.length === 1 && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    screen.typed += event.key;
    return;
  }
  const command = commandOf(commands, event, isTyping, screen.choices.hasKeys);
  if (command === null || (screen.dialog !== null && !['Escape', PALETTE_KEY].includes(command.keys[0] ?? ''))) return;
  event.preventDefault();
  command.run();
}

/** A screen on the wall stays on. */
async function stayAwake(): Promise<void> {
  if (!screen.choices.isKiosk || wakeLock !== null || !('wakeLock' in navigator)) return;
  wakeLock = await navigator.wakeLock.request('screen').catch(() => null);
  wakeLock?.addEventListener('release', () => (wakeLock = null));
}

function onVisibility(): void {
  const isVisible = document.visibilityState === 'visible';
  live.wantRows(isVisible);
  if (isVisible) live.connect();
}

const after = (ms: number, callback: () => void) => {
  const timer = setTimeout(callback, ms);
  return () => clearTimeout(timer);
};

chooseTheme(screen.choices.theme);
live.wantPace(screen.choices.pace);
mount(App, { target: document.getElementById('app')!, props: { screen, player, live, commands } });
startDrawing(
  {
    quick: () => {
      player.advance();
      screen.drawQuick();
    },
    calm: () => screen.drawCalm(),
  },
  {
    after,
    request: (callback) => {
      const frame = requestAnimationFrame(callback);
      return () => cancelAnimationFrame(frame);
    },
  },
);
setInterval(live.reloadTables, STATUS_MS);
setInterval(() => {
  // A hidden page draws nothing, but its title shows an alert.
  if (document.visibilityState === 'hidden') screen.drawCalm();
  showTitle();
  live.narrow(
    askedOf(screen.choices.conditions),
    player.playing === null && screen.numbers.sent < screen.numbers.sentOf,
  );
  void stayAwake();
}, 1_000);
// These live as long as the page does. A page that the browser keeps for its back button lets its socket go.
addEventListener('keydown', onKey);
addEventListener('pagehide', () => live.close());
addEventListener('pageshow', live.connect);
addEventListener('online', live.connect);
document.addEventListener('visibilitychange', onVisibility);
live.connect();
