// Follows the feed in Node, one line of JSON for each change: the client of the browser runs here too.
//
//     node examples/follow.mjs ws://localhost:8080/ws orders
import { connect } from "../frontend/dist/client.js";

const WebSocket = globalThis.WebSocket ?? (await import("ws").catch(() => null))?.default;
if (!WebSocket) {
  console.error(`Node 22 or newer is needed, or the package ws: this is ${process.version}`);
  process.exit(1);
}

const [url = "ws://localhost:8080/ws", table] = process.argv.slice(2);

const feed = connect(url, {
  WebSocket,
  ...(table && { table }),
  token: process.env.TOKEN, // of a server that asks for one
  parse: (text) => JSON.parse(text), // rounds numbers beyond 2^53; parse of the package lossless-json keeps them
  onChange: (change) => console.log(JSON.stringify(change)),
  onGap: (gap) => console.error(`changes may be missing: ${gap.why}; ${gap.what_to_do}`),
  onState: ({ state, attempts, reason }) => {
    if (state !== "failed") console.error([state, attempts > 1 && `attempt ${attempts}`, reason].filter(Boolean).join(", "));
  },
  onError: (error) => {
    console.error(`${error.code}: ${error.message}`);
    if (error.isFinal) process.exitCode = 1; // the feed has ended, and nothing else keeps the program running
  },
});

process.on("SIGINT", () => feed.close());
process.stdout.on("error", () => process.exit()); // the reader has ended, as after `| head`
