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

function end(why) {
  console.error(why);
  process.exit(1);
}

function load() {
  try {
    return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : null;
  } catch (error) {
    return end(`${file} has no rows that can be read: ${error.message}; delete it to begin again, or name another file`);
  }
}

/** The rows and their place together, so that a crash leaves the ones before, or these. */
function save(kept) {
  try {
    writeFileSync(`${file}.new`, JSON.stringify(kept), { flush: true });
    renameSync(`${file}.new`, file);
  } catch (error) {
    end(`the rows cannot be kept in ${file}: ${error.message}; make room there, or name a file that can be written`);
  }
}

const live = rows(url, {
  WebSocket,
  table,
  filter,
  token: process.env.TOKEN, // of a server that asks for one
  since: load(),
  onError: (error) => {
    console.error(`${error.code}: ${error.message}`);
    if (error.isFinal) process.exitCode = 1;
  },
});

live.subscribe(({ list, isLoaded }) => {
  if (!isLoaded) return;
  save({ list, cursor: live.cursor });
  console.log(list.length); // your work with the rows
});

process.on("SIGINT", () => live.close());
