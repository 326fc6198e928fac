// Comes in: the browser. Goes out: a running page. The one place where socket, state and views meet.
import { mount } from 'svelte';

import './app.css';
import { fetchHistory, fetchStatus, fetchTables, watchTable } from './api';
import { assertNever } from './closed';
import { startDrawing } from './frame';
import { decodeMessage, type Message, type TableStatus } from './protocol';
import { Screen } from './screen.svelte';
import { type Connection, ReconnectingSocket } from './socket';
import { apply, applyHistory, dismiss, HISTORY_SECONDS, initialState, notify, setConnection } from './state';
import { titleOf } from './title';
import App from './views/App.svelte';

const RELOAD = 'Reload this page. If it stays, the page and the server may be of different versions.';

/** The server says something to the dashboard every second. */
const SILENCE_LIMIT_MS = 10_000;

const STATUS_MS = 30_000;

const state = initialState();
const screen = new Screen(state, Date.now());
let historyAsked = 0;

const after = (ms: number, callback: () => void) => {
  const timer = setTimeout(callback, ms);
  return () => clearTimeout(timer);
};
const socket = new ReconnectingSocket({
  open: () => new WebSocket(socketUrl()),
  clock: { now: () => Date.now(), after },
  random: Math.random,
  silenceLimitMs: SILENCE_LIMIT_MS,
  onConnection,
  onText,
});

function socketUrl(): URL {
  const url = new URL('ws/activity', document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  // So that the server can say whether what happened meanwhile is still there.
  const cursor = state.server?.cursor ?? null;
  if (cursor !== null) url.searchParams.set('since', cursor);
  return url;
}

function onConnection(connection: Connection): void {
  setConnection(state, connection);
  showTitle();
}

function onText(text: string): void {
  const decoded = decodeMessage(text);
  if (!decoded.ok) {
    notify(state, {
      kind: 'problem',
      what: `The server sent a message this page can't read: ${decoded.problem}.`,
      whatToDo: RELOAD,
    });
    return;
  }
  apply(state, decoded.value, Date.now());
  followUp(decoded.value);
}

/** What the page does about a message, beside knowing it. */
function followUp(message: Message): void {
  switch (message.type) {
    case 'hello':
      reload();
      return showTitle();
    case 'database':
      if (message.state === 'listening') reload();
      return showTitle();
    case 'going_away':
      return socket.expectClose(message.reconnectInMs);
    case 'activity':
    case 'gap':
    case 'error':
      return;
    default:
      return assertNever(message);
  }
}

function reload(): void {
  void loadHistory();
  reloadTablesAndStatus();
}

async function loadHistory(): Promise<void> {
  const asked = ++historyAsked;
  const history = await fetchHistory((url) => fetch(url), HISTORY_SECONDS);
  if (asked !== historyAsked) return; // Asked again meanwhile: only the newest answer counts.
  if (history.ok) return applyHistory(state, history.value);
  notify(state, {
    kind: 'problem',
    what: `The history could not be loaded (${history.problem}).`,
    whatToDo: 'The charts show what comes from now on. Reload this page to try again.',
  });
}

/** While the database is away there is nothing to ask it for, and its light says so. */
function reloadTables(): void {
  if (canAskDatabase()) void loadTables();
}

/** While nothing has changed yet, it is the tables that do. */
function reloadTablesAndStatus(): void {
  reloadTables();
  reloadStatus();
}

function reloadStatus(): void {
  if (canAskDatabase()) void loadStatus();
}

function canAskDatabase(): boolean {
  return state.connection.state === 'open' && state.server?.database.state === 'listening';
}

/** Without an answer the line about the journal stays as it was: nobody acts on it. */
async function loadStatus(): Promise<void> {
  const status = await fetchStatus((url) => fetch(url));
  if (status.ok) state.status = status.value;
}

async function watch(table: TableStatus): Promise<string | null> {
  const refusal = await watchTable((url, options) => fetch(url, options), table);
  reloadTablesAndStatus();
  return refusal;
}

async function loadTables(): Promise<void> {
  const tables = await fetchTables((url) => fetch(url));
  if (tables.ok) state.tables = tables.value;
  else
    notify(state, {
      kind: 'problem',
      what: `The list of tables could not be loaded (${tables.problem}).`,
      whatToDo: 'What is shown of changes is not affected.',
    });
}

// At once and not with the next frame: a hidden tab gets no frames, but its title is seen.
function showTitle(): void {
  document.title = titleOf(state);
}

const connectNow = () => socket.connect();
const connectWhenShown = () => {
  if (document.visibilityState === 'visible') socket.connect();
};

mount(App, {
  target: document.getElementById('app')!,
  props: {
    screen,
    retryNow: connectNow,
    dismissNotice: (id: number) => dismiss(state, id),
    reloadTables: reloadTablesAndStatus,
    watch,
  },
});
startDrawing(
  { quick: () => screen.drawQuick(state), calm: () => screen.drawCalm(state, Date.now()) },
  {
    after,
    request: (callback) => {
      const frame = requestAnimationFrame(callback);
      return () => cancelAnimationFrame(frame);
    },
  },
);
setInterval(reloadStatus, STATUS_MS);
// These live as long as the page does. A page that the browser keeps for its back button lets its socket go.
addEventListener('pagehide', () => socket.close());
addEventListener('pageshow', connectNow);
addEventListener('online', connectNow);
document.addEventListener('visibilitychange', connectWhenShown);
socket.connect();
