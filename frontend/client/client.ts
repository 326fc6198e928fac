// Comes in: the modules of this folder. Goes out: what a page or a program imports. Built into dist/client.js, which
// the server gives out as /client.js, and which clients/javascript packs for npm.
export { connect } from './connect';
export { FeedError } from './options';
export type { Address, Change, ErrorCode, Feed, Gap, Key, Options, State, Subscription } from './options';
export { rows } from './rows';
export type { LiveRows, Rows, RowsOptions } from './rows';
