// Follows the feed in Node 22 or newer, one line of JSON for each change: the client of the browser runs here too.
//
//     node examples/follow.mjs ws://localhost:8080/ws orders
import { connect } from "../frontend/dist/client.js";

if (!globalThis.WebSocket) {
  console.error(`Node 22 or newer is needed, and this is ${process.version}`);
  process.exit(1);
}

const [url = "ws://localhost:8080/ws", table] = process.argv.slice(2);

const feed = connect(url, {
  ...(table && { table }),
  token: process.env.TOKEN, // of a server that asks for one
  parse: (text) => JSON.parse(text), // rounds numbers beyond 2^53; parse of the package lossless-json keeps them
  onChange: (change) => console.log(JSON.stringify(change)),
  onGap: (gap) => console.error(`changes may be missing: ${gap.why}; ${gap.what_to_do}`),
  onState: ({ state, attempts, reason, code }) => {
    console.error([state, attempts > 1 && `attempt ${attempts}`, reason].filter(Boolean).join(", "));
    if (code === 1008 || code === 4401) process.exit(1); // the server does not accept the table, or the token
  },
});

process.on("SIGINT", () => feed.close());
process.stdout.on("error", () => process.exit()); // nobody reads any more, as after `| head`
