// Comes in: messages, history and the connection's state. Goes out: plain data, all that the page knows.
// Knows no socket, no clock and no view: a message changes the state, a frame draws it.
import { Timeline, type Span } from './buckets';
import { assertNever } from '../values/assert_never';
import type { DelayScale } from '../values/delays';
import type {
  Activity,
  Bucket,
  Counts,
  Database,
  Gap,
  Hello,
  History,
  JournalStatus,
  Message,
  Payload,
  Session,
  TableStatus,
  Totals,
} from '../feed/protocol';
import { TailEntries } from './tail_entries';
import type { Connection } from '../feed/socket';

export const ROW_LIMIT = 10_000;
/** The time for which the share of shown rows is computed. */
const SHARE_SECONDS = 10;
const NOTICE_LIMIT = 5;
const STEPS: ReadonlyMap<number, number> = new Map([[1, 900]]);

/** A notice that the reader may dismiss. The same notice again raises `times`. */
export type Notice = { readonly id: number; readonly times: number } & NoticeContent;
export type NoticeContent =
  | { readonly kind: 'gap'; readonly gap: Gap }
  /** `topic`: one that says how the same thing went later takes its place. */
  | { readonly kind: 'problem'; readonly topic?: string; readonly what: string; readonly whatToDo: string };

export interface State {
  connection: Connection;
  /** Epoch milliseconds of the browser's clock. */
  lastMessageAt: number | null;
  /** The last message before the connection was lost; null while it is there, and before the first. */
  lostAt: number | null;
  /** Whether the server has said hello on the connection that there is. */
  isGreeted: boolean;
  /** Null before the first hello, as are the others that only the server knows. */
  server: Server | null;
  tables: readonly TableStatus[] | null;
  status: JournalStatus | null;
  /** What this page may do; null while unknown. */
  session: Session | null;
  /** The finest first; never empty. */
  timelines: readonly Timeline[];
  /** How often the server's history came. */
  histories: number;
  readonly rows: TailEntries;
  /** By server second, the newest SHARE_SECONDS: how many of how many changes that fit were sent as rows. */
  readonly shares: Map<number, { sent: number; of: number }>;
  notices: readonly Notice[];
  noticesMade: number;
  /** How many notices were dropped, undismissed, because newer ones came. */
  noticesDropped: number;
}

export interface Server {
  database: Database;
  /** Epoch seconds of its clock in its last message. */
  now: number;
  /** Its clock minus the browser's, in seconds. */
  ahead: number;
  since: number;
  /** False while it still counts what was before `since`; then `totals` are of no use but for the tables' names. */
  readonly hasHistory: boolean;
  readonly delayScale: DelayScale;
  readonly rowsAtMost: number;
  readonly payload: Payload;
  readonly totals: Map<string, Counts>;
  other: number;
  /** The counts include everything up to here; null without a journal. */
  cursor: string | null;
  /** By table: epoch seconds of the newest bucket that counted something. */
  readonly lastSeen: Map<string, number>;
  /** Why rows are not sent to this page at the moment. */
  withheld: string | null;
}

export function initialState(): State {
  return {
    connection: { state: 'connecting' },
    lastMessageAt: null,
    lostAt: null,
    isGreeted: false,
    server: null,
    tables: null,
    status: null,
    session: null,
    timelines: makeTimelines(STEPS),
    histories: 0,
    rows: new TailEntries(ROW_LIMIT),
    shares: new Map(),
    notices: [],
    noticesMade: 0,
    noticesDropped: 0,
  };
}

export function finest(state: State): Timeline {
  return state.timelines[0]!;
}

export function setConnection(state: State, connection: Connection): void {
  const wasOpen = state.connection.state === 'open';
  state.connection = connection;
  if (connection.state !== 'open') state.isGreeted = false;
  if (wasOpen && connection.state !== 'open' && state.server !== null) {
    state.lostAt ??= state.lastMessageAt;
    for (const timeline of state.timelines) openSpan(timeline, 'browser', state.server.now);
  }
}

/** `at`: the browser's clock, in epoch milliseconds. */
export function apply(state: State, message: Message, at: number): void {
  state.lastMessageAt = at;
  switch (message.type) {
    case 'hello':
      return applyHello(state, message, at);
    case 'activity':
      return applyActivity(state, message, at);
    case 'database':
      return applyDatabase(state, message);
    case 'gap':
      return notify(state, { kind: 'gap', gap: message });
    case 'error':
      return notify(state, { kind: 'problem', what: message.message, whatToDo: '' });
    case 'going_away':
      return; // Only the socket has to know.
    default:
      return assertNever(message);
  }
}

/** What the server counted before this page came, and while it was away. */
export function applyHistory(state: State, history: History): void {
  const timeline = state.timelines.find(({ stepSeconds }) => stepSeconds === history.stepSeconds);
  if (timeline === undefined) return;
  state.histories += 1;
  // From `since` on the history is the truth; what was known or unknown before that stays so.
  const earlier = timeline.spans
    .map((span) => ({ ...span, to: Math.min(span.to ?? Infinity, history.since) }))
    .filter((span) => span.from < span.to);
  const away = timeline.spans.filter((span) => span.cause === 'browser' && span.to === null);
  const deaf = history.deaf.map(([from, to]): Span => ({ cause: 'database', from, to }));
  timeline.spans = [...earlier, ...deaf, ...away];
  timeline.knownFrom = Math.min(timeline.knownFrom, history.since);
  timeline.advance(history.now);
  mergeBuckets(state, timeline, history.buckets);
}

export function notify(state: State, content: NoticeContent): void {
  const text = JSON.stringify(content);
  const same = state.notices.find(({ id, times, ...known }) => JSON.stringify(known) === text);
  const others = state.notices.filter((notice) => notice !== same);
  const notice: Notice = { id: state.noticesMade, times: (same?.times ?? 0) + 1, ...content };
  state.noticesMade += 1;
  state.noticesDropped += Math.max(0, others.length + 1 - NOTICE_LIMIT);
  state.notices = [...others, notice].slice(-NOTICE_LIMIT);
}

/** Removes the notices on this topic, which are no longer true. */
export function settle(state: State, topic: string): void {
  state.notices = state.notices.filter((notice) => notice.kind !== 'problem' || notice.topic !== topic);
}

export function dismiss(state: State, id: number): void {
  state.notices = state.notices.filter((notice) => notice.id !== id);
  if (state.notices.length === 0) state.noticesDropped = 0;
}

/** All changes that the server knows of: since it began to count, or those its journal holds. */
export function changesCounted(server: Server | null): number {
  if (server === null) return 0;
  let sum = server.other;
  for (const counts of server.totals.values()) for (const count of counts) sum += count;
  return sum;
}

function applyHello(state: State, hello: Hello, at: number): void {
  const before = state.server;
  // Another `hello` on the same connection: nothing was missed, and the journal was counted, or is counted again.
  const wasGreeted = state.isGreeted;
  state.isGreeted = true;
  const isCountedAgain = wasGreeted && hello.cursor !== null;
  // The journal's counts survive a restart of the server; others begin again.
  const isJournaled = before !== null && before.cursor !== null && hello.cursor !== null;
  const isSameCount = before !== null && (before.since === hello.since || isJournaled);
  const counted = isSameCount ? changesCounted(before) : 0;
  state.server = {
    database: hello.database,
    now: hello.now,
    ahead: hello.now - at / 1000,
    since: hello.since,
    hasHistory: hello.hasHistory,
    delayScale: hello.delayScale,
    rowsAtMost: hello.rowsAtMost,
    payload: hello.payload,
    totals: new Map([...(hello.hasHistory ? [] : (before?.totals ?? [])), ...hello.totals]),
    other: hello.other,
    cursor: hello.cursor,
    lastSeen: (isCountedAgain ? null : before?.lastSeen) ?? new Map(),
    withheld: null,
  };
  const known = state.timelines.map(({ stepSeconds, capacity }) => `${stepSeconds}×${capacity}`);
  const offered = [...hello.steps].map(([stepSeconds, kept]) => `${stepSeconds}×${kept}`);
  if (isCountedAgain || String(known) !== String(offered)) state.timelines = makeTimelines(hello.steps);
  for (const timeline of state.timelines) {
    timeline.knownFrom = Math.min(timeline.knownFrom, hello.since);
    timeline.isPartial = !hello.hasHistory;
    timeline.advance(hello.now);
    closeSpans(timeline, 'browser', hello.now);
    closeSpans(timeline, 'database', hello.now);
    if (before === null || isCountedAgain) addSpan(timeline, { cause: 'browser', from: hello.since, to: hello.now });
    if (hello.database.state !== 'listening') openSpan(timeline, 'database', hello.database.since);
  }
  const away = state.lostAt === null ? null : { from: state.lostAt, to: at };
  state.lostAt = null;
  state.rows.resume(hello.recent, wasGreeted ? 0 : changesCounted(state.server) - counted, away);
}

function applyActivity(state: State, activity: Activity, at: number): void {
  const { server } = state;
  if (server === null) return;
  server.now = activity.now;
  server.ahead = activity.now - at / 1000;
  server.cursor = activity.cursor;
  for (const timeline of state.timelines) timeline.advance(activity.now);
  if (activity.counts !== null) {
    server.other = activity.counts.other;
    setAll(server.totals, activity.counts.totals);
    for (const timeline of state.timelines) {
      mergeBuckets(state, timeline, activity.counts.buckets.get(timeline.stepSeconds) ?? []);
    }
  }
  if (activity.rows.of > 0) server.withheld = activity.rows.withheld;
  state.rows.push(activity.rows.changes, activity.rows.of, at);
  share(
    state.shares,
    Math.floor(activity.now),
    activity.rows.changes.length,
    activity.rows.matching ?? activity.rows.of,
  );
}

function share(shares: State['shares'], second: number, sent: number, of: number): void {
  if (of > 0) {
    const known = shares.get(second) ?? { sent: 0, of: 0 };
    shares.set(second, { sent: known.sent + sent, of: known.of + of });
  }
  for (const old of shares.keys()) if (old <= second - SHARE_SECONDS) shares.delete(old);
}

function applyDatabase(state: State, database: Database): void {
  const { server } = state;
  if (server === null) return;
  server.database = database;
  for (const timeline of state.timelines) {
    if (database.state === 'listening') closeSpans(timeline, 'database', database.since);
    else openSpan(timeline, 'database', database.since);
  }
}

function makeTimelines(steps: ReadonlyMap<number, number>): readonly Timeline[] {
  return [...steps].map(([stepSeconds, kept]) => new Timeline(stepSeconds, kept));
}

function mergeBuckets(state: State, timeline: Timeline, buckets: readonly Bucket[]): void {
  for (const bucket of buckets) {
    timeline.merge(bucket);
    const lastSeen = state.server?.lastSeen;
    for (const table of bucket.counts.keys()) {
      lastSeen?.set(table, Math.max(bucket.at, lastSeen.get(table) ?? 0));
    }
  }
}

function setAll(totals: Map<string, Counts>, changed: Totals): void {
  for (const [table, counts] of changed) totals.set(table, counts);
}

function openSpan(timeline: Timeline, cause: Span['cause'], from: number): void {
  if (timeline.spans.some((span) => span.cause === cause && span.to === null)) return;
  addSpan(timeline, { cause, from, to: null });
}

function closeSpans(timeline: Timeline, cause: Span['cause'], to: number): void {
  timeline.spans = timeline.spans.map((span) => (span.cause === cause && span.to === null ? { ...span, to } : span));
}

/** Spans that have left the history are forgotten, so that their list stays bounded. */
function addSpan(timeline: Timeline, added: Span): void {
  const oldest = (timeline.newest - timeline.capacity) * timeline.stepSeconds;
  timeline.spans = [...timeline.spans.filter(({ to }) => to === null || to > oldest), added];
}
