import { beforeEach, expect, test } from 'vitest';

import { FakeClock, FakeSocket } from './fakes';
import { ANSWER_LIMIT_MS, type Connection, ReconnectingSocket, STEADY_MS } from './socket';

const SILENCE_LIMIT_MS = 8_000;

let clock: FakeClock;
let sockets: FakeSocket[];
let connections: Connection[];
let texts: string[];
let socket: ReconnectingSocket;

const last = () => sockets.at(-1)!;
const states = () => connections.map((connection) => connection.state);

beforeEach(() => {
  clock = new FakeClock();
  sockets = [];
  connections = [];
  texts = [];
  socket = new ReconnectingSocket({
    open: () => {
      sockets.push(new FakeSocket());
      return last();
    },
    clock,
    random: () => 1,
    silenceLimitMs: SILENCE_LIMIT_MS,
    onConnection: (connection) => connections.push(connection),
    onText: (text) => texts.push(text),
  });
  socket.connect();
});

test('it is open when the server has spoken, and hands on the text', () => {
  expect(states()).toEqual(['connecting']);
  last().say('hello');
  expect(states()).toEqual(['connecting', 'open']);
  expect(texts).toEqual(['hello']);
});

test('a lost connection says when it retries, and does', () => {
  last().say('hello');
  last().hangUp();
  clock.pass(0);
  expect(states()).toEqual(['connecting', 'open', 'waiting', 'connecting']);
  last().hangUp();
  expect(connections.at(-1)).toMatchObject({ state: 'waiting', retryAt: clock.now() + 300 });
  clock.pass(299);
  expect(sockets).toHaveLength(2);
  clock.pass(1);
  expect(sockets).toHaveLength(3);
});

test('delays grow until a connection has stood for a while', () => {
  const delayAfterHangUp = () => {
    last().hangUp();
    const connection = connections.at(-1);
    const delay = connection?.state === 'waiting' ? connection.retryAt - clock.now() : NaN;
    clock.pass(delay);
    return delay;
  };
  expect([delayAfterHangUp(), delayAfterHangUp(), delayAfterHangUp()]).toEqual([0, 300, 600]);
  last().say('hello, and good bye');
  clock.pass(STEADY_MS - 1);
  expect(delayAfterHangUp()).toBe(1200);
  last().say('hello');
  clock.pass(STEADY_MS);
  expect(delayAfterHangUp()).toBe(0);
});

test('retry now does not wait, and leaves no second attempt behind', () => {
  last().hangUp();
  socket.connect();
  expect(sockets).toHaveLength(2);
  last().say('hello');
  clock.pass(300);
  expect(sockets).toHaveLength(2);
});

test('connecting again while connected does nothing', () => {
  socket.connect();
  last().say('hello');
  socket.connect();
  expect(sockets).toHaveLength(1);
});

test('an announced delay is used once, instead of our own', () => {
  last().say('going away');
  socket.expectClose(4_000);
  last().hangUp();
  expect(connections.at(-1)).toMatchObject({ state: 'waiting', retryAt: clock.now() + 4_000 });
  clock.pass(4_000);
  last().hangUp();
  expect(connections.at(-1)).toMatchObject({ state: 'waiting', retryAt: clock.now() });
});

test('silence is a lost connection; every message puts it off', () => {
  last().say('hello');
  clock.pass(SILENCE_LIMIT_MS - 1);
  last().say('still here');
  clock.pass(SILENCE_LIMIT_MS - 1);
  expect(states().at(-1)).toBe('open');
  clock.pass(1);
  expect(states().at(-1)).toBe('waiting');
  expect(sockets[0]?.isClosed).toBe(true);
});

test('an attempt that is never answered is given up', () => {
  clock.pass(ANSWER_LIMIT_MS);
  expect(states()).toEqual(['connecting', 'waiting']);
});

test('what a socket that was given up still says is not heard', () => {
  last().hangUp();
  sockets[0]?.say('too late');
  expect(texts).toEqual([]);
});

test.each(['connecting', 'open', 'waiting'])('closed when told that it is %s, it stays closed', (state) => {
  const closing = new ReconnectingSocket({
    open: () => {
      sockets.push(new FakeSocket());
      return last();
    },
    clock,
    random: () => 1,
    silenceLimitMs: Infinity,
    onConnection: (connection) => connection.state === state && closing.close(),
    onText: (text) => texts.push(text),
  });
  socket.close();
  closing.connect();
  last().say('hello');
  last().hangUp();
  expect(texts).toEqual(state === 'waiting' ? ['hello'] : []);
  expect(last().isClosed).toBe(true);
  expect(clock.timers).toEqual([]);
});

test('closed by the page, it stays closed and leaves no timer', () => {
  last().say('hello');
  socket.close();
  expect(states().at(-1)).toBe('closed');
  expect(last().isClosed).toBe(true);
  expect(clock.timers).toEqual([]);
});
