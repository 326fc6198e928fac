// Comes in: a table's name and callbacks, of any page. Goes out: the feed of its changes.
import { readArguments } from './arguments';
import { type Environment, RUNTIME } from './environment';
import { follow } from './follow';
import type { Address, Feed, Options } from './options';

const OPTIONS = [
  'table', 'action', 'filter', 'columns', 'since', 'token',
  'onChange', 'onGap', 'onState', 'onError', 'parse', 'WebSocket',
];

/**
 * Follows the feed at `url`, a server's or that of its /ws; the page's own server's unless given; until it is closed or refused.
 *
 * It reconnects for ever, and continues after the last change that was delivered: each comes once, in order. Where that
 * cannot be kept, onGap says so. What the server refuses for good, such as an unknown table, ends the feed, and onError
 * says why. While the page is left, which the Back button may restore, it has no connection. Throws SyntaxError or
 * TypeError for an invalid URL, TypeError for an unknown option and where there is no WebSocket.
 */
export function connect<Row = Record<string, any>>(options: Options<Row>): Feed;
export function connect<Row = Record<string, any>>(url: Address | undefined, options?: Options<Row>): Feed;
/** @internal */
export function connect(url: Address | undefined, options: Options, environment: Environment): Feed;
export function connect(first: Address | Options | undefined, second?: Options, environment = RUNTIME): Feed {
  const { address, options } = readArguments('connect', OPTIONS, first, second, environment);
  const feed = follow(address, options, environment);
  return {
    get cursor() {
      return feed.cursor;
    },
    close: feed.close,
  };
}
