"""A small web application: serves the pages of this folder, and writes what they send into PostgreSQL.

It never speaks to the feed. It commits; the feed delivers the change to every open page.

    .venv/bin/python examples/site.py --database-url postgresql://localhost/shop
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

try:
    import psycopg2
    from psycopg2.extras import RealDictCursor
except ImportError:
    sys.exit("the package psycopg2 is needed: use .venv/bin/python, which `make run` installs")

FOLDER = Path(__file__).parent
PAGES = {"/": "index.html", "/live-list": "live-list.html", "/chat": "chat.html", "/progress": "progress.html"}
DEFAULT_FEED = "http://localhost:8080"  # as it stands in the pages
BODY_LIMIT_BYTES = 16 * 1024
JOB_STEP_SECONDS = 0.05

# For each path of GET: the rows that a page begins with.
READS = {
    "/messages": "SELECT * FROM (SELECT * FROM examples.messages ORDER BY id DESC LIMIT 50) newest ORDER BY id",
    "/jobs": "SELECT * FROM examples.jobs WHERE percent < 100 ORDER BY id",
}
# For each path of POST: a statement, and the fields that it takes from the body.
WRITES = {
    "/tasks": "INSERT INTO examples.tasks (title) VALUES (%(title)s) RETURNING id",
    "/tasks/done": "UPDATE examples.tasks SET done = %(done)s WHERE id = %(id)s RETURNING id",
    "/tasks/remove": "DELETE FROM examples.tasks WHERE id = %(id)s RETURNING id",
    "/messages": "INSERT INTO examples.messages (author, body) VALUES (%(author)s, %(body)s) RETURNING id",
    "/jobs": "INSERT INTO examples.jobs DEFAULT VALUES RETURNING id",
}


class Database:
    """Statements in, rows out; each statement is a transaction and a connection of its own."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo

    def run(self, statement: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        # With a fixed search_path: no statement calls a function or an operator that others made in public.
        options = "-c search_path=pg_catalog,pg_temp"
        connection = psycopg2.connect(self._conninfo, options=options, cursor_factory=RealDictCursor)
        try:
            with connection, connection.cursor() as db_cursor:
                db_cursor.execute(statement, values)
                return [dict(row) for row in db_cursor] if db_cursor.description else []
        finally:
            connection.close()

    def work(self, job: int) -> None:
        """Pretends to work on a job, and writes how far it is."""
        for percent in range(5, 101, 5):
            time.sleep(JOB_STEP_SECONDS)
            self.run(
                "UPDATE examples.jobs SET percent = %(percent)s WHERE id = %(job)s", {"percent": percent, "job": job}
            )


def make_handler(database: Database, feed: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in PAGES:
                page = (FOLDER / PAGES[self.path]).read_text("utf-8").replace(DEFAULT_FEED, feed)
                self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
            elif self.path in READS:
                self._answer_rows(lambda: database.run(READS[self.path]))
            else:
                self._answer(HTTPStatus.NOT_FOUND, "not found", "text/plain")

        def do_POST(self) -> None:
            # A page of another origin cannot send JSON unless it is allowed to: CORS, Fetch 4.1.
            if self.headers.get_content_type() != "application/json":
                self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON", "text/plain")
            elif self.path not in WRITES:
                self._answer(HTTPStatus.NOT_FOUND, "not found", "text/plain")
            else:
                rows = self._answer_rows(lambda: database.run(WRITES[self.path], self._read_values()))
                if rows and self.path == "/jobs":
                    threading.Thread(target=database.work, args=(rows[0]["id"],), daemon=True).start()

        def _read_values(self) -> dict[str, Any]:
            length = int(self.headers["Content-Length"])
            if not 0 <= length <= BODY_LIMIT_BYTES:
                raise ValueError("the body is too long")
            values: dict[str, Any] = json.loads(self.rfile.read(length))
            return values

        def _answer_rows(self, run: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
            try:
                rows = run()
            except (psycopg2.Error, KeyError, TypeError, ValueError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, str(error), "text/plain; charset=utf-8")
                return []
            self._answer(HTTPStatus.OK, json.dumps(rows), "application/json")
            return rows

        def _answer(self, status: HTTPStatus, body: str, content_type: str) -> None:
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the pages of the examples and write into PostgreSQL.")
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL", ""), help="default: $DATABASE_URL")
    parser.add_argument("--feed", default=DEFAULT_FEED, help=f"address of the feed's server (default: {DEFAULT_FEED})")
    parser.add_argument("--port", type=int, default=8000, help="port to serve on (default: 8000)")
    arguments = parser.parse_args()
    database = Database(arguments.database_url)
    try:
        database.run((FOLDER / "tables.sql").read_text("utf-8"))
    except psycopg2.Error as error:
        sys.exit(f"the tables of the examples cannot be created (--database-url): {' '.join(str(error).split())}")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", arguments.port), make_handler(database, arguments.feed))
    except OSError as error:
        sys.exit(f"--port {arguments.port}: {error}")
    print(f"The examples are at http://localhost:{server.server_address[1]}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
