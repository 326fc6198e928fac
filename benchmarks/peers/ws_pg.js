// Node, ws and pg: each notification is sent to every open client, as the manual of ws shows it.

import pg from "pg";
import { WebSocket, WebSocketServer } from "ws";

const port = Number(process.argv[2]);
const connection = new pg.Client(); // libpq's variables name the database
await connection.connect();
await connection.query("LISTEN events");

const server = new WebSocketServer({ host: "127.0.0.1", port });
connection.on("notification", ({ payload }) => {
  for (const client of server.clients) {
    if (client.readyState === WebSocket.OPEN) {
      client.send(payload, { binary: false });
    }
  }
});
server.on("listening", () => console.error(`serving at http://127.0.0.1:${port}/`));
