"""The answers of the HTTP API as JSON Schemas, which OpenAPI 3.1 refers to by name."""

from typing import Any

from changefeed.change.change import ACTIONS

Json = dict[str, Any]


def shape(properties: Json, optional: tuple[str, ...] = ()) -> Json:
    """An object with exactly these `properties`; only those in `optional` may be missing."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def list_of(items: Json) -> Json:
    return {"type": "array", "items": items}


def map_of(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
FLAG: Json = {"type": "boolean"}
TIME: Json = {"type": "string", "format": "date-time"}
COUNT: Json = {"type": "integer", "minimum": 0}
COLUMNS = list_of(TEXT)

SCHEMAS: Json = {
    "Error": shape(
        {"error": shape({"code": {"type": "string", "pattern": "^[a-z0-9_]+$"}, "message": TEXT})},
    ),
    "Change": {
        "type": "object",
        "description": "One row's change. Values are those of PostgreSQL's to_json, with all digits.",
        "properties": {
            "table": TEXT,
            "action": {"enum": list(ACTIONS)},
            "data": {"type": ["object", "null"], "description": "the new row; on DELETE the old one"},
            "schema": TEXT,
            "old": {"type": "object", "description": "on UPDATE, the previous values of the columns that changed"},
            "at": TIME,
            "xid": TEXT,
            "cursor": TEXT,
            "count": COUNT,
            "filter": {"enum": ["enter", "leave"]},
        },
        "required": ["table", "action", "data"],
    },
    "Gap": shape(
        {
            "from": or_null(TEXT),
            "to": or_null(TEXT),
            "since": or_null(TIME),
            "until": or_null(TIME),
            "why": TEXT,
            "what_to_do": TEXT,
            "skipped": COUNT,
            "table": TEXT,
        },
        optional=("skipped", "table"),
    ),
    "Database": shape({"state": TEXT, "name": TEXT, "since": TIME, "reason": or_null(TEXT)}),
    "Counts": {"type": "array", "items": COUNT, "minItems": len(ACTIONS), "maxItems": len(ACTIONS)},
    "Clients": shape({"feed": COUNT, "dashboards": COUNT, "raw": COUNT}),
    "Watched": shape({"table": TEXT, "is_watched": FLAG, "has_changed": FLAG}),
    "Session": shape(
        {
            "is_required": FLAG,
            "is_signed_in": FLAG,
            "is_admin": FLAG,
            "sees_everything": FLAG,
            "not_counted": list_of(TEXT),
            "expires_at": or_null(NUMBER),
        }
    ),
}
