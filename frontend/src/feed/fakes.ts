// Comes in: what a test wants to happen. Goes out: a socket and a clock to which it happens. For tests only.
import type { Clock } from './socket';
import type { WebSocketLike } from './websocket_like';

export class FakeSocket implements WebSocketLike {
  onopen: WebSocketLike['onopen'] = null;
  onmessage: WebSocketLike['onmessage'] = null;
  onclose: WebSocketLike['onclose'] = null;
  onerror: WebSocketLike['onerror'] = null;
  isClosed = false;
  readonly sent: string[] = [];

  say(text: string): void {
    this.onmessage?.({ data: text } as MessageEvent);
  }

  hangUp(code = 1006, reason = ''): void {
    this.onclose?.({ code, reason } as CloseEvent);
  }

  send(text: string): void {
    this.sent.push(text);
  }

  close(): void {
    this.isClosed = true;
  }
}

export class FakeClock implements Clock {
  #now = 1_000_000;
  timers: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + ms, callback };
    this.timers.push(timer);
    return () => {
      this.timers = this.timers.filter((other) => other !== timer);
    };
  }

  pass(ms: number): void {
    this.#now += ms;
    const due = this.timers.filter((timer) => timer.at <= this.#now);
    this.timers = this.timers.filter((timer) => timer.at > this.#now);
    for (const timer of due) timer.callback();
  }
}
