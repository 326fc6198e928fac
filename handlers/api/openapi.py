"""The description of the HTTP API, in OpenAPI 3.1: /api/openapi.json. A test compares it with the routes."""

import json
from functools import cache

from changefeed.change.change import ACTIONS
from changefeed.counts.tally import STEPS
from changefeed.hub import RECENT_LIMIT
from handlers.access.authentication import COOKIE, Need
from handlers.access.tokens import TOKEN_LIMIT_CHARACTERS
from handlers.api.changes import DEFAULT_LIMIT, MAX_LIMIT
from handlers.api.rows import MOST_ROWS, RowsHandler
from handlers.api.schemas import (
    COLUMNS,
    COUNT,
    FLAG,
    NUMBER,
    SCHEMAS,
    TEXT,
    TIME,
    WHOLE,
    Json,
    list_of,
    map_of,
    or_null,
    ref,
    shape,
)
from handlers.http.base import ApiHandler
from handlers.http.compression import UnchangingContent

# Paths that OpenAPI cannot describe, or that are not part of the API.
LEFT_OUT = {
    "/ws": "the feed, a WebSocket; with the query of /events, and with the subprotocol changefeed.v1",
    "/ws/activity": "what the dashboard draws, a WebSocket",
    "/listen/{channel}": "the payloads of a NOTIFY channel, a WebSocket",
    "/": "the dashboard",
    "/client.js": "the module for pages; its types and the dashboard's files are next to it",
}


class OpenApiHandler(ApiHandler):
    needs = Need.NOTHING
    query_names = ()

    def get(self) -> None:
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish_unchanging(_description(self.context.settings.base_path))


@cache
def _description(base_path: str) -> UnchangingContent:
    return UnchangingContent(json.dumps(describe(base_path)).encode())


def describe(base_path: str) -> Json:
    left_out = "\n".join(f"- `{path}`: {what}" for path, what in LEFT_OUT.items())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "psqlisten2websocket",
            "version": "1",
            "description": "A change feed of PostgreSQL. Tokens are required only if the server's settings have some. "
            f"Not described here:\n\n{left_out}",
        },
        "servers": [{"url": base_path or "/"}],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "responses": {name: _refusal(text) for name, text in REFUSALS.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


REFUSALS = {
    "BadRequest": "What is wrong with the request, and what to write instead.",
    "SignIn": "A token is missing, bad or expired.",
    "NoRight": "The token, or the page that asks, has no right to this.",
    "NotFound": "It does not exist.",
    "Conflict": "The database's present state does not allow it.",
    "TooLarge": "The body is larger than 16 KB.",
    "Later": "Not possible now; Retry-After says when to try again.",
}
STATUSES = {
    "400": "BadRequest",
    "401": "SignIn",
    "403": "NoRight",
    "404": "NotFound",
    "409": "Conflict",
    "413": "TooLarge",
    "503": "Later",
}


def _refusal(description: str) -> Json:
    found: Json = {"description": description, "content": {"application/json": {"schema": ref("Error")}}}
    if description == REFUSALS["Later"]:
        found["headers"] = {"Retry-After": {"description": "seconds", "required": True, "schema": WHOLE}}
    return found


def _parameter(name: str, description: str, schema: Json, place: str = "query") -> Json:
    return {"name": name, "in": place, "description": description, "required": place == "path", "schema": schema}


# The fields of handlers/feed/query.py. A list is a repeated parameter.
FEED_PARAMETERS = {
    "table": _parameter("table", "orders, public.orders or sales.*", list_of(TEXT)),
    "action": _parameter("action", "one of these actions", list_of({"enum": list(ACTIONS)})),
    "filter": _parameter(
        "filter",
        "such as status=eq.open or or=(status.eq.open,total.gt.100); a row must match all of them",
        list_of(TEXT),
    ),
    "columns": _parameter("columns", "send only these, such as id,status", list_of(TEXT)),
    "since": _parameter("since", "a cursor; changes after it are sent", TEXT),
    "replay": _parameter(
        "replay",
        "send this many of the newest changes first",
        {"type": "integer", "minimum": 0, "maximum": RECENT_LIMIT},
    ),
    "rows": _parameter(
        "rows", "true: begin with the rows of the only table, as events `rows`", {"enum": ["true", "false"]}
    ),
    "slow": _parameter("slow", "what the server does if you do not keep up", {"enum": ["close"]}),
}
_CHANGES_PARAMETERS = [one for name, one in FEED_PARAMETERS.items() if name not in ("replay", "rows", "slow")]
_ROWS_PARAMETERS = [FEED_PARAMETERS[name] for name in RowsHandler.query_names if name in ("filter", "columns")]
_LIMIT = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
_WINDOW = {"type": "integer", "minimum": 1, "maximum": 86400}
_TABLE = _parameter("table", "schema.table", {"type": "string", "minLength": 1}, "path")


def _operation(
    summary: str,
    answer: Json,
    statuses: tuple[str, ...],
    *,
    parameters: list[Json] | None = None,
    body: Json | None = None,
    media_type: str = "application/json",
    is_open: bool = False,
) -> Json:
    """`answer` is the schema of a 200. Any request may also get a 400 or 403, see handlers/access/authentication.py."""
    described: Json = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {media_type: {"schema": answer}}}},
    }
    for status in sorted({"400", "403", *statuses, *(() if is_open else ("401",))}):
        described["responses"][status] = {"$ref": f"#/components/responses/{STATUSES[status]}"}
    if parameters:
        described["parameters"] = parameters
    if body:
        described["requestBody"] = {"content": {"application/json": {"schema": body}}}
    described["security"] = [] if is_open else [{"token": []}, {"session": []}]
    return described


PATHS: Json = {
    "/events": {
        "get": _operation(
            "The feed as Server-Sent Events, without end",
            TEXT,
            ("404", "409", "503"),
            parameters=[
                *FEED_PARAMETERS.values(),
                _parameter("Last-Event-ID", "as since; takes precedence over it", TEXT, "header"),
                _parameter("lastEventId", "the same, for a newly made EventSource, which cannot set a header", TEXT),
            ],
            media_type="text/event-stream",
        )
    },
    "/api/changes": {
        "get": _operation(
            "A page of the journal",
            shape(
                {
                    "changes": list_of(ref("Change")),
                    "cursor": TEXT,
                    "has_more": FLAG,
                    "gap": or_null(ref("Gap")),
                }
            ),
            ("404", "503"),
            parameters=[*_CHANGES_PARAMETERS, _parameter("limit", "the maximum number of changes", _LIMIT)],
        )
    },
    "/api/rows": {
        "get": _operation(
            "The rows of a table, and the cursor after which come the changes that they lack; or, with Accept: "
            "application/x-ndjson, a line for each row and a last one with the cursor",
            shape({"rows": list_of({"type": "object"}), "cursor": TEXT}),
            ("404", "409", "503"),
            parameters=[
                _parameter("table", "a watched table, such as public.orders", TEXT) | {"required": True},
                *_ROWS_PARAMETERS,
                _parameter("order", "such as created_on.desc,id or total.asc.nullsfirst", list_of(TEXT)),
                _parameter("limit", "the maximum number of rows", COUNT | {"maximum": MOST_ROWS}),
            ],
        )
    },
    "/api/change": {
        "get": _operation(
            "The change that has this cursor",
            ref("Change"),
            ("404", "503"),
            parameters=[_parameter("cursor", "the change's own cursor", TEXT) | {"required": True}],
        )
    },
    "/api/place": {
        "get": _operation(
            "The cursor before all recorded changes since a time",
            shape({"cursor": TEXT}),
            ("404", "503"),
            parameters=[
                _parameter("at", "epoch seconds", NUMBER | {"minimum": 0, "exclusiveMaximum": 1e11})
                | {"required": True}
            ],
        )
    },
    "/api/activity": {
        "get": _operation(
            "Counts by bucket, table and action, and delays",
            shape(
                {
                    "now": NUMBER,
                    "since": TIME,
                    "has_history": FLAG,
                    "totals": map_of(ref("Counts")),
                    "other": COUNT,
                    "step_seconds": {"enum": list(STEPS)},
                    "buckets": list_of(
                        shape(
                            {"at": WHOLE, "counts": map_of(ref("Counts")), "delays": map_of(COUNT)},
                            optional=("delays",),
                        )
                    ),
                    "deaf": list_of({"type": "array", "items": or_null(NUMBER), "minItems": 2, "maxItems": 2}),
                }
            ),
            ("503",),
            parameters=[
                _parameter("window", "seconds; at most 900 by step 1, 3600 by 10, 86400 by 60", _WINDOW),
                _parameter("step", "seconds", {"enum": list(STEPS), "default": min(STEPS)}),
            ],
        )
    },
    "/api/tables": {
        "get": _operation(
            "The tables of the database, and what watches them",
            shape(
                {
                    "tables": list_of(
                        shape(
                            {
                                "schema": TEXT,
                                "table": TEXT,
                                "is_watched": FLAG,
                                "watched_by": or_null(TEXT),
                                "estimated_rows": or_null(NUMBER),
                                "can_change": FLAG,
                            }
                        )
                    )
                }
            ),
            ("503",),
        )
    },
    "/api/tables/{table}/watch": {
        "parameters": [_TABLE],
        "put": _operation(
            "Watches a table, or changes how it is watched",
            ref("Watched"),
            ("404", "409", "413", "503"),
            body=shape(
                {
                    "omit": or_null(COLUMNS),
                    "row_limit": or_null({"type": "integer", "minimum": 1, "exclusiveMaximum": 1 << 62}),
                    "strict": FLAG,
                    "hash": or_null(COLUMNS),
                },
                optional=("omit", "row_limit", "strict", "hash"),
            ),
        ),
        "delete": _operation("Stops watching a table", ref("Watched"), ("404", "409", "503")),
    },
    "/api/status": {
        "get": _operation(
            "The state of the feed",
            shape(
                {
                    "server": shape({"version": TEXT, "started_at": TIME}),
                    "database": ref("Database"),
                    "clients": ref("Clients"),
                    "process": shape({"number": WHOLE, "of": WHOLE, "pid": WHOLE, "clients": ref("Clients")}),
                    "payload": {"enum": ["off", "keys", "full"]},
                    "journal": or_null(
                        shape(
                            {
                                "schema": TEXT,
                                "epoch": TEXT,
                                "bytes": COUNT,
                                "oldest": or_null(TIME),
                                "newest": or_null(TIME),
                                "lost_statements": COUNT,
                                "retention_hours": NUMBER,
                                "retention_bytes": COUNT,
                            }
                        )
                    ),
                    "watched": list_of(
                        shape(
                            {
                                "schema": TEXT,
                                "table": TEXT,
                                "is_complete": FLAG,
                                "omit": COLUMNS,
                                "row_limit": or_null(WHOLE),
                                "strict": FLAG,
                                "partitions": COUNT,
                                "hash": COLUMNS,
                            }
                        )
                    ),
                    "not_watched": list_of(shape({"schema": TEXT, "table": TEXT, "reason": TEXT})),
                }
            ),
            ("503",),
        )
    },
    "/api/session": {
        "get": _operation("Who you are", ref("Session"), ("503",), is_open=True),
        "post": _operation(
            "Signs in: sets a session cookie in place of the token",
            ref("Session"),
            ("401", "503"),
            body={
                "type": "object",
                "properties": {"token": {"type": "string", "minLength": 1, "maxLength": TOKEN_LIMIT_CHARACTERS}},
                "required": ["token"],
            },
            is_open=True,
        ),
        "delete": _operation("Signs out", ref("Session"), (), is_open=True),
    },
    "/api/openapi.json": {
        "get": _operation("This description", {"type": "object"}, (), is_open=True),
    },
    "/healthz": {
        "get": _operation(
            "Whether the process runs",
            shape({"status": {"const": "ok"}, "version": TEXT}, optional=("version",)),
            (),
            is_open=True,
        )
    },
    "/readyz": {
        "get": _operation(
            "Whether a commit now would reach clients",
            shape(
                {"status": {"const": "ready"}, "database": ref("Database"), "behind_seconds": NUMBER},
                optional=("behind_seconds",),
            ),
            ("503",),
            is_open=True,
        )
    },
    "/metrics": {
        "get": _operation("Metrics for Prometheus", TEXT, ("503",), media_type="text/plain"),
    },
}
