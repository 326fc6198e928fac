// A worker that keeps a table's rows in a file, through restarts of itself and of all others; prints how many they are.
//
//     node examples/keep_rows.mjs http://localhost:8080 portal_tickets tickets.json
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

import { rows } from "../frontend/dist/client.js";

const WebSocket = globalThis.WebSocket ?? (await import("ws").catch(() => null))?.default;
const [url, table, file, ...filter] = process.argv.slice(2);
if (!WebSocket || !file) {
  console.error(WebSocket ? "usage: keep_rows.mjs URL TABLE FILE [FILTER...]" : "Node 22 or newer is needed, or the package ws");
  process.exit(1);
}

const live = rows(url, {
  WebSocket,
  table,
  filter,
  token: process.env.TOKEN, // of a server that asks for one
  since: existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : null,
  onError: (error) => {
    console.error(`${error.code}: ${error.message}`);
    if (error.isFinal) process.exitCode = 1;
  },
});

live.subscribe(({ list, isLoaded }) => {
  if (!isLoaded) return;
  // The rows and their place together, so that a crash leaves the ones before, or these.
  writeFileSync(`${file}.new`, JSON.stringify({ list, cursor: live.cursor }), { flush: true });
  renameSync(`${file}.new`, file);
  console.log(list.length); // your work with the rows
});

process.on("SIGINT", () => live.close());
