import { beforeEach, expect, test } from 'vitest';

import { DELAY_LIMIT_MS } from '../src/feed/backoff';
import { FakeClock, FakeSocket } from '../src/feed/fakes';
import { STEADY_MS } from '../src/feed/socket';
import { type Change, type Feed, type FeedError, type Gap, type Options, type State } from './client';
import { connect } from './connect';
import type { Environment } from './environment';

let clock: FakeClock;
let sockets: FakeSocket[];
let urls: string[];
let heard: string[];
let gaps: Gap[];
let states: State[];
let reported: unknown[];
let errors: FeedError[];
let feed: Feed;
let page: EventTarget;

const last = () => sockets.at(-1)!;
const say = (type: string, fields: object = {}) => last().say(JSON.stringify({ type, ...fields }));
const hello = (cursor: string | null) => say('hello', { cursor, epoch: 'e', server: {}, limits: {} });
/** Each of `names` is a change, and its cursor; the message's is that of the last. */
const changes = (...names: string[]) =>
  say('changes', { changes: names.map((name) => ({ table: name, cursor: name })), cursor: names.at(-1) });
const gap = (why: string, to: string | null = null) =>
  say('gap', { from: null, to, since: null, until: null, why, what_to_do: 'read again' });
const sinceOf = (url: string | undefined) => new URL(url!).searchParams.get('since');
const cut = () => {
  last().hangUp();
  clock.pass(DELAY_LIMIT_MS);
};
class PageSocket extends FakeSocket {
  constructor(url: string) {
    super();
    urls.push(url);
    sockets.push(this);
  }
}
const browser = (address = 'http://shop.example/orders/7?a=b#c'): Environment => ({
  page: address,
  window: page,
  WebSocket: PageSocket,
  fetch: undefined,
  clock,
  random: () => 1,
  report: (error) => reported.push(error),
});
const follow = (options: Options = {}, url?: string) =>
  connect(
    url,
    {
      onChange: (change: Change) => heard.push(change.table),
      onGap: (told) => {
        gaps.push(told);
        heard.push(`gap: ${told.why}`);
      },
      onState: (state) => states.push(state),
      onError: (error) => errors.push(error),
      ...options,
    },
    browser(),
  );

beforeEach(async () => {
  clock = new FakeClock();
  page = new EventTarget();
  [sockets, urls, heard, gaps, states, reported, errors] = [[], [], [], [], [], [], []];
  feed = follow();
  await Promise.resolve(); // its first state
});

// -- where it connects to

test("it is the page's own server unless said otherwise, with TLS where the page has it", () => {
  connect(undefined, {}, browser('https://shop.example:444/orders/7'));
  follow({}, 'feeds/ws?table=a#here');
  follow({}, 'https://other.example/ws');
  expect(urls).toEqual([
    'ws://shop.example/ws',
    'wss://shop.example:444/ws',
    'ws://shop.example/orders/feeds/ws?table=a',
    'wss://other.example/ws',
  ]);
});

test('the subscription stands in the query, once for each value, at every attempt', () => {
  follow({ table: ['orders', 'public.items'], action: 'INSERT', filter: ['a=eq.x&y', 'b=gt.1'], columns: ['id'] });
  hello('c0');
  cut();
  const query = [
    ['table', 'orders'], ['table', 'public.items'], ['action', 'INSERT'],
    ['filter', 'a=eq.x&y'], ['filter', 'b=gt.1'], ['columns', 'id'],
  ];
  expect([...new URL(urls[1]!).searchParams]).toEqual(query);
  expect([...new URL(urls[2]!).searchParams]).toEqual([...query, ['since', 'c0']]);
});

test('an invalid URL is refused at once', () => {
  expect(() => follow({}, 'http://')).toThrow(TypeError);
});

test('an unknown option is refused at once, and named', () => {
  const misspelt = { tabel: 'orders', onchange: () => {} } as Options;
  expect(() => connect(misspelt)).toThrow(TypeError);
  expect(() => follow(misspelt)).toThrow('unknown option tabel, onchange; connect takes table, action, filter, columns,');
  expect(sockets).toHaveLength(1);
});

test('every option there is may be given', () => {
  const all: Required<Options> = {
    table: 't', action: 'INSERT', filter: 'a=eq.1', columns: 'a', since: null, token: 'x',
    onChange: () => {}, onGap: () => {}, onState: () => {}, onError: () => {}, parse: JSON.parse, WebSocket: PageSocket,
  };
  expect(() => follow(all)).not.toThrow();
});

// -- it goes on after what was delivered

test('it begins now, and goes on after the cursor of hello until a change was delivered', () => {
  expect(sinceOf(urls[0])).toBeNull();
  expect(feed.cursor).toBeNull();
  hello('c0');
  expect(feed.cursor).toBe('c0');
  cut();
  expect(sinceOf(urls[1])).toBe('c0');
  hello('c0');
  changes('c1', 'c2');
  cut();
  expect(sinceOf(urls[2])).toBe('c2');
});

test('it begins after a cursor that it is given, which may stand in the URL', () => {
  follow({ since: 'c7' });
  follow({}, '/ws?since=c8');
  last().hangUp();
  clock.pass(0);
  expect(urls.slice(1).map(sinceOf)).toEqual(['c7', 'c8', 'c8']);
});

test('changes are delivered in order, and before their cursor is taken', () => {
  const seen: (string | null)[] = [];
  const other = follow({ onChange: () => seen.push(other.cursor) });
  hello('c0');
  changes('c1', 'c2');
  changes('c3');
  expect(seen).toEqual(['c0', 'c1', 'c2']);
  expect(other.cursor).toBe('c3');
});

test('what onChange throws is reported, and the others are delivered', () => {
  const error = new Error('mine');
  const other = follow({
    onChange: (change) => {
      heard.push(change.table);
      if (change.table === 'c1') throw error;
    },
  });
  hello('c0');
  changes('c1', 'c2');
  expect(heard).toEqual(['c1', 'c2']);
  expect(reported).toEqual([error]);
  expect(other.cursor).toBe('c2');
});

test('a change without a cursor keeps the one there was', () => {
  hello('c0');
  say('changes', { changes: [{ table: 'plain' }], cursor: null });
  expect(heard).toEqual(['plain']);
  expect(feed.cursor).toBe('c0');
});

test('what a lost socket still says is not delivered twice', () => {
  hello('c0');
  changes('c1');
  const lost = last();
  cut();
  lost.say(JSON.stringify({ type: 'changes', changes: [{ table: 'c2' }], cursor: 'c2' }));
  hello('c1');
  changes('c2');
  expect(heard).toEqual(['c1', 'c2']);
});

// -- gaps

test('a gap comes before what is behind it, as the server told it', () => {
  hello('c0');
  gap('lost', 'c5');
  changes('c6');
  expect(heard).toEqual(['gap: lost', 'c6']);
  expect(gaps[0]).toMatchObject({ from: null, to: 'c5', why: 'lost', what_to_do: 'read again' });
});

test('a cursor that the server refuses is kept until the gap is delivered, and then replaced', () => {
  follow({ since: 'old' });
  hello('new');
  cut();
  expect(sinceOf(urls.at(-1))).toBe('old'); // the gap did not come through
  hello('new');
  gap('restored');
  cut();
  expect(sinceOf(urls.at(-1))).toBe('new');
  hello('new');
  expect(heard).toEqual(['gap: restored']);
});

test('a gap in passing leaves the cursor where it is: the changes behind it are still to come', () => {
  hello('c0');
  changes('c1');
  gap('not journaled', 'c9');
  cut();
  expect(sinceOf(urls.at(-1))).toBe('c1');
});

test('without a journal a lost connection is a gap', () => {
  hello(null);
  clock.pass(STEADY_MS);
  const lostAt = clock.now();
  last().hangUp();
  clock.pass(0);
  last().hangUp();
  clock.pass(300);
  expect(gaps).toEqual([]);
  hello(null);
  expect(sinceOf(urls.at(-1))).toBeNull();
  expect(gaps).toMatchObject([
    { since: new Date(lostAt).toISOString(), until: new Date(lostAt + 300).toISOString(), from: null, to: null },
  ]);
});

test('so it is where some changes are in no journal', () => {
  hello('c0');
  say('changes', { changes: [{ table: 'plain' }], cursor: null });
  cut();
  hello('c0');
  changes('c1');
  expect(heard).toEqual(['plain', expect.stringMatching(/^gap: the connection was lost/), 'c1']);
});

test('the first connection is no gap, however long it takes', () => {
  cut();
  clock.pass(300);
  hello(null);
  expect(gaps).toEqual([]);
});

test('a message that cannot be read is a gap, and reported', () => {
  hello('c0');
  last().say('{"type":');
  changes('c1');
  expect(heard).toEqual([expect.stringMatching(/^gap: a message could not be read/), 'c1']);
  expect(reported).toEqual([expect.any(SyntaxError)]);
});

// -- attempts

const waits = () => states.flatMap((state) => (state.state === 'waiting' ? [state.attempts] : []));
const delayAfterHangUp = () => {
  last().hangUp();
  const state = states.at(-1);
  const delay = state?.state === 'waiting' ? state.retryAt - clock.now() : NaN;
  clock.pass(delay);
  return delay;
};

test('it tries at once, then ever more slowly, for ever', () => {
  const delays = Array.from({ length: 9 }, delayAfterHangUp);
  expect(delays).toEqual([0, 300, 600, 1200, 2400, 4800, 9600, DELAY_LIMIT_MS, DELAY_LIMIT_MS]);
  expect(waits()).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  hello('c0');
  clock.pass(STEADY_MS);
  expect(delayAfterHangUp()).toBe(0);
  expect(waits().at(-1)).toBe(1);
});

const stateNames = () => states.map((state) => state.state);

test('the states come as they change, the first once the page has its feed', async () => {
  hello('c0');
  cut();
  hello('c0');
  expect(stateNames()).toEqual(['connecting', 'open', 'waiting', 'connecting', 'open']);
  states = [];
  follow();
  expect(states).toEqual([]);
  await Promise.resolve();
  expect(states).toEqual([{ state: 'connecting' }]);
});

test('a feed that is closed at once has no state', async () => {
  states = [];
  follow().close();
  await Promise.resolve();
  expect(states).toEqual([]);
});

const refuse = (code: string, message: string, closeCode = 1008) => {
  say('error', { code, message });
  last().hangUp(closeCode, code);
};

test('a refused subscription ends the feed, with the reason', () => {
  refuse('unknown_table', 'there is no table ordres');
  expect(states.at(-1)).toEqual({ state: 'failed', reason: 'there is no table ordres' });
  expect(errors).toMatchObject([{ name: 'FeedError', code: 'unknown_table', isFinal: true }]);
  expect(errors[0]!.message).toBe('there is no table ordres');
  clock.pass(3_600_000);
  page.dispatchEvent(new Event('pageshow'));
  expect([sockets.length, clock.timers, reported, gaps]).toEqual([1, [], [], []]);
  expect(stateNames()).toEqual(['connecting', 'failed']);
});

test('so does one that is refused when it comes back, after what it had', () => {
  hello('c0');
  changes('c1');
  cut();
  refuse('unknown_column', 'orders has no column total');
  expect(errors).toMatchObject([{ code: 'unknown_column', isFinal: true }]);
  expect(feed.cursor).toBe('c1');
});

test('a connection that ends without an error is tried again, whatever its close code', () => {
  last().hangUp(1008, 'you send too much');
  clock.pass(0);
  last().hangUp(1013, 'database_unavailable');
  expect(waits()).toEqual([1, 2]);
  expect(states.at(-1)).toMatchObject({ state: 'waiting', code: 1013, reason: 'database_unavailable' });
  clock.pass(DELAY_LIMIT_MS);
  hello('c0');
  expect([states.at(-1), errors]).toEqual([{ state: 'open' }, []]);
});

test('an error of an open feed does not end it', () => {
  hello('c0');
  say('error', { code: 'unknown_table', message: 'there is no table orders' });
  changes('c1');
  expect(errors).toMatchObject([{ code: 'unknown_table', isFinal: false }]);
  expect(heard).toEqual(['c1']);
  cut();
  expect(sockets).toHaveLength(2);
});

test('without onError an error is an uncaught one', () => {
  connect(undefined, {}, browser());
  refuse('unknown_table', 'there is no table ordres');
  expect(reported).toMatchObject([{ code: 'unknown_table', message: 'there is no table ordres' }]);
});

test('what onError throws is reported', () => {
  const error = new Error('mine');
  follow({
    onError: () => {
      throw error;
    },
  });
  refuse('unknown_table', 'there is no table ordres');
  expect(reported).toEqual([error]);
});

test("without an error of the server's, the reason is that of the close", () => {
  hello('c0');
  last().hangUp(1013, 'the outbox is full');
  expect(states.at(-1)).toMatchObject({ attempts: 1, code: 1013, reason: 'the outbox is full' });
});

test('a server that goes away says when to come back, once', () => {
  hello('c0');
  clock.pass(STEADY_MS);
  say('going_away', { reconnect_in_ms: 4_000 });
  expect([delayAfterHangUp(), delayAfterHangUp()]).toEqual([4_000, 0]);
});

test('silence of the database is no lost connection', () => {
  hello('c0');
  clock.pass(3_600_000);
  expect(sockets).toHaveLength(1);
});

// -- a page that is left, and brought back as it was

const leave = () => page.dispatchEvent(new Event('pagehide'));
const comeBack = () => page.dispatchEvent(new Event('pageshow'));

test('it has no connection while the page is left, and goes on when it is back', () => {
  hello('c0');
  changes('c1');
  leave();
  expect(last().isClosed).toBe(true);
  clock.pass(3_600_000);
  expect([sockets.length, clock.timers]).toEqual([1, []]);
  comeBack();
  expect([sockets.length, sinceOf(urls.at(-1))]).toEqual([2, 'c1']);
  hello('c1');
  changes('c2');
  expect(heard).toEqual(['c1', 'c2']);
  expect(states.map((state) => state.state)).toEqual(['connecting', 'open', 'connecting', 'open']);
});

test('so it does when it was left while it waited for its next attempt, or before it was greeted', () => {
  leave();
  comeBack();
  last().hangUp();
  leave();
  clock.pass(60_000);
  expect(sockets).toHaveLength(2);
  comeBack();
  hello('c0');
  expect(gaps).toEqual([]);
  expect(states.at(-1)).toEqual({ state: 'open' });
});

test('what is in no journal is missing of the time in which it was left', () => {
  hello(null);
  const leftAt = clock.now();
  leave();
  clock.pass(60_000);
  comeBack();
  hello(null);
  expect(gaps).toMatchObject([
    { since: new Date(leftAt).toISOString(), until: new Date(leftAt + 60_000).toISOString() },
  ]);
});

test('a page that is shown for the first time, and one whose feed is closed, bring nothing back', () => {
  comeBack();
  expect(sockets).toHaveLength(1);
  leave();
  feed.close();
  comeBack();
  expect(sockets).toHaveLength(1);
});

// -- the rest

test('a closed feed calls nothing, whatever still happens', () => {
  hello('c0');
  const before = states.length;
  feed.close();
  hello('c0');
  changes('c1');
  gap('late');
  last().hangUp();
  clock.pass(60_000);
  expect([heard, states.length, sockets.length]).toEqual([[], before, 1]);
  expect(last().isClosed).toBe(true);
  expect(clock.timers).toEqual([]);
});

test('closed by its own callback, it has dealt with that change and no other', () => {
  const other = follow({
    onChange: (change) => {
      heard.push(change.table);
      if (change.table === 'c2') other.close();
    },
  });
  hello('c0');
  changes('c1', 'c2', 'c3');
  expect(heard).toEqual(['c1', 'c2']);
  expect(other.cursor).toBe('c2');
});

test('messages are parsed by a parser that keeps every digit', () => {
  const parse = (text: string) => JSON.parse(text.replace(/:(\d+)/g, ':"$1"')) as unknown;
  const ids: unknown[] = [];
  follow({ parse, onChange: (change) => ids.push(change.data?.['id']) });
  hello('c0');
  last().say('{"type":"changes","changes":[{"data":{"id":9007199254740993}}],"cursor":"c1"}');
  say('going_away', { reconnect_in_ms: 50 });
  last().hangUp();
  expect(ids).toEqual(['9007199254740993']);
  expect(states.at(-1)).toMatchObject({ retryAt: clock.now() + 50 });
});

test('an invalid cursor is a gap that explains it, and the feed begins now', () => {
  follow({ since: 'from elsewhere' });
  say('error', { code: 'not_a_cursor', message: 'that is no cursor' });
  expect(states.at(-1)?.state).not.toBe('open');
  cut();
  hello('c0');
  changes('c1');
  expect(sinceOf(urls.at(-1))).toBe(null);
  expect(heard).toEqual(['gap: the feed cannot continue after the cursor given: that is no cursor', 'c1']);
  expect(states).toContainEqual(expect.objectContaining({ state: 'waiting', reason: 'that is no cursor' }));
});

test('messages of later versions are ignored', () => {
  hello('c0');
  say('surprise');
  changes('c1');
  expect([heard, reported, errors]).toEqual([['c1'], [], []]);
});

test('a WebSocket may be given, and without one the error says so', () => {
  follow({ WebSocket: PageSocket });
  expect(sockets).toHaveLength(2);
  const options = { ...browser(), WebSocket: undefined };
  expect(() => connect('ws://shop.example/ws', {}, options)).toThrow('there is no WebSocket here');
  connect('ws://shop.example/ws', { WebSocket: PageSocket }, options);
  expect(sockets).toHaveLength(3);
});

test('a URL may be a URL', () => {
  connect('http://bare.example', {}, browser());
  expect(urls.at(-1)).toBe('ws://bare.example/ws');
  connect('https://bare.example/?table=a', {}, browser());
  expect(urls.at(-1)).toBe('wss://bare.example/ws?table=a');
  connect(new URL('http://other.example/ws?table=a'), {}, browser());
  expect(urls.at(-1)).toBe('ws://other.example/ws?table=a');
});

// -- a server that asks for a token

const authenticated = () => last().sent.map((text) => JSON.parse(text));

test('a token is the first that is said, or that there is none', async () => {
  follow({ token: 'of the page' });
  last().onopen?.({} as Event);
  await Promise.resolve();
  expect(authenticated()).toEqual([{ type: 'authenticate', token: 'of the page' }]);
  follow();
  last().onopen?.({} as Event);
  expect(authenticated()).toEqual([{ type: 'authenticate' }]);
});

test('a server that answers this with an error, as version 0.2 did, is open all the same', () => {
  hello('c0');
  say('error', { code: 'bad_token', message: 'send {"type": "authenticate", "token": "..."}' });
  expect([errors, states.at(-1)]).toEqual([[], { state: 'open' }]);
});

test('a function is asked for the token at each connection, and its refusal is in the state', async () => {
  const tokens = ['old', 'new'];
  follow({ token: async () => tokens.shift() ?? '' });
  last().onopen?.({} as Event);
  await Promise.resolve();
  await Promise.resolve();
  expect(authenticated()).toEqual([{ type: 'authenticate', token: 'old' }]);
  last().hangUp(4401);
  expect(states.at(-1)).toMatchObject({ state: 'waiting', attempts: 1, code: 4401 });
  clock.pass(DELAY_LIMIT_MS);
  last().onopen?.({} as Event);
  await Promise.resolve();
  await Promise.resolve();
  expect(authenticated()).toEqual([{ type: 'authenticate', token: 'new' }]);
  hello('c0');
  expect(states.at(-1)).toEqual({ state: 'open' });
});

test('a token that does not change and is refused ends the feed; so does a server that requires one', () => {
  follow({ token: 'of the page' });
  refuse('bad_token', 'the token is not accepted', 4401);
  follow();
  refuse('sign_in', 'sign in: send the header', 4401);
  expect(errors).toMatchObject([
    { code: 'bad_token', message: 'the token is not accepted', isFinal: true },
    { code: 'sign_in', message: expect.stringContaining('requires a token'), isFinal: true },
  ]);
  expect(sockets).toHaveLength(3);
});

test('a function may return a token that has more rights the next time', () => {
  follow({ token: () => 'now' });
  refuse('no_rights', 'the token grants nothing');
  expect(states.at(-1)).toMatchObject({ state: 'waiting', reason: 'the token grants nothing' });
  clock.pass(DELAY_LIMIT_MS);
  refuse('unknown_table', 'there is no table ordres');
  expect(errors).toMatchObject([{ code: 'unknown_table' }]);
});

test('where there is no token, that is reported and it connects again', async () => {
  const problem = new Error('signed out');
  follow({
    token: () => {
      throw problem;
    },
  });
  last().onopen?.({} as Event);
  await Promise.resolve();
  expect(reported).toEqual([problem]);
  expect(last().isClosed).toBe(true);
});

// -- a socket that does not open, of which a page is not told why

const found = (status: number, code: string, message: string) => Response.json({ error: { code, message } }, { status });
/** Whose address is asked by HTTP; `answer` is what it says. */
const probed = async (answer: () => Response | Promise<Response>, address = '/ws', page?: string) => {
  feed.close();
  const asked: { url: string; signal: AbortSignal }[] = [];
  const fetch = async (url: string, { signal }: { signal: AbortSignal }) => {
    asked.push({ url, signal });
    return answer();
  };
  const options = { onState: (state: State) => states.push(state), onError: (error: FeedError) => errors.push(error) };
  feed = connect(address, options, { ...browser(page), fetch });
  last().hangUp();
  await settled();
  return asked;
};
const settled = () => new Promise((resolve) => setTimeout(resolve));

test('an address where there is nothing ends the feed, with what the server says', async () => {
  const asked = await probed(() => found(404, 'not_found', 'there is nothing at this path'), '/sw?table=a');
  expect(asked.map(({ url }) => url)).toEqual(['http://shop.example/sw?table=a']);
  expect(errors).toMatchObject([{ code: 'not_found', message: 'there is nothing at this path', isFinal: true }]);
  expect(states.at(-1)).toEqual({ state: 'failed', reason: 'there is nothing at this path' });
  expect([clock.timers, asked[0]!.signal.aborted]).toEqual([[], true]);
});

test('so does an address with something else: a page, a redirect, an error without JSON', async () => {
  await probed(() => new Response('<!doctype html>'));
  await probed(() => Response.error(), 'https://shop.example/ws'); // status 0, as a redirect has in a page
  await probed(() => new Response('no', { status: 403 }));
  expect(errors.map(({ code }) => code)).toEqual(['not_a_feed', 'not_a_feed', 'http_403']);
  expect(errors[0]!.message).toContain('there is no feed at http://shop.example/ws, which answers with the status 200: write');
});

test('what may pass is tried again, and explained', async () => {
  const answers = [
    found(503, 'not_ready', 'the journal is not known yet'),
    found(400, 'not_a_websocket', 'this path is a WebSocket'),
    new Response('', { status: 426 }),
    new Response('', { status: 429 }),
  ];
  const reasons = [];
  const asked = await probed(() => answers.shift() ?? Response.error());
  while (asked.length < 4) {
    clock.pass(DELAY_LIMIT_MS);
    last().hangUp();
    reasons.push(states.at(-1));
    await settled();
  }
  const proxy = expect.stringContaining('does a proxy pass on Upgrade?');
  expect(reasons).toMatchObject([{ reason: 'the journal is not known yet' }, { reason: proxy }, { reason: proxy }]);
  expect(errors).toEqual([]);
});

test('without an answer it is tried again; a page of another origin may not have been let in', async () => {
  const unreachable = () => Promise.reject(new TypeError('Failed to fetch'));
  await probed(unreachable);
  clock.pass(0);
  last().hangUp();
  expect(states.at(-1)).toMatchObject({ state: 'waiting', reason: '' });
  await probed(unreachable, 'http://feed.example:8080');
  clock.pass(0);
  last().hangUp();
  expect(states.at(-1)).toMatchObject({
    reason:
      'no answer from feed.example:8080; if it runs, it may not let pages of http://shop.example in: --allow-origin http://shop.example',
  });
  expect(errors).toEqual([]);
});

test('an address that has answered once is not asked again', async () => {
  const asked = await probed(() => Promise.reject(new TypeError('Failed to fetch')));
  clock.pass(0);
  hello('c0');
  cut();
  last().hangUp();
  expect(asked).toHaveLength(1);
});

test('a feed that is closed meanwhile, or open, asks no more and calls nobody', async () => {
  let answer: (response: Response) => void = () => {};
  const later = () => new Promise<Response>((resolve) => (answer = resolve));
  const [asked] = await probed(later);
  feed.close();
  expect(asked!.signal.aborted).toBe(true);
  answer(found(404, 'not_found', 'there is nothing at this path'));
  await probed(later);
  clock.pass(0);
  hello('c0');
  answer(found(404, 'not_found', 'there is nothing at this path'));
  await settled();
  expect([errors, states.at(-1)]).toEqual([[], { state: 'open' }]);
});
