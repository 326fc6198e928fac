"""The base of tests of access: a server with a token of each kind, a table for all and one for few."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import jwt
from tornado.httpclient import HTTPClientError
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection

from tests.feed_case import FeedTestCase

SECRET = "a secret of the issuer, of at least 32 bytes"
MINE = {"public.orders": {"columns": ["id", "customer_id"], "filter": ["customer_id=eq.42"]}}
# By kind: the token, and its rights.
RIGHTS: dict[str, Any] = {
    "full": {"tables": {"*": {}}, "channels": ["*"], "admin": True},
    "narrow": {"tables": MINE},
    "admin": {"tables": MINE, "admin": True},
    "orders": {"tables": {"public.orders": {}}, "channels": ["people"]},
    "nothing": {},
}
KINDS = ("none", "wrong", "expired", *RIGHTS)


def issued(rights: Any, lasts_seconds: float = 3600, **claims: Any) -> str:
    return jwt.encode({"exp": time.time() + lasts_seconds, "changefeed": rights, **claims}, SECRET, "HS256")


def token_of(kind: str) -> str | None:
    match kind:
        case "none":
            return None
        case "wrong":
            return "this-is-no-token-of-this-server"
        case "expired":
            return issued(RIGHTS["full"], -1)
        case "full":
            return "the-token-of-the-settings"
        case _:
            return issued(RIGHTS[kind])


class AccessTestCase(FeedTestCase):
    more_flags: ClassVar[tuple[str, ...]] = ()
    has_channels: ClassVar[bool] = True

    def get_app(self) -> Application:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.key_file = Path(folder.name) / "key"
        self.key_file.write_text(SECRET + "\n")
        self.token_file = Path(folder.name) / "tokens"
        self.token_file.write_text(f"# ours\n\n{token_of('full')}\nfor-narrow-clients {json.dumps(RIGHTS['narrow'])}\n")
        type(self).flags = (
            *("--token-file", str(self.token_file), "--jwt-algorithm", "HS256", "--jwt-key-file", str(self.key_file)),
            *(("--channels", "people") if self.has_channels else ()),
            *self.more_flags,
        )
        return super().get_app()

    def prepare_database(self) -> None:
        self.write("CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, note text)")
        self.write("CREATE TABLE salaries (id bigserial PRIMARY KEY, amount text)")
        self.watch("public.orders")
        self.watch("public.salaries")

    def order(self, number: int, customer: int = 42) -> None:
        self.write("INSERT INTO orders VALUES (%s, %s, 'unseen')", (number, customer))

    def pay(self, rows: int = 1) -> None:
        """What nobody is to hear of but those with a right to it."""
        self.write("INSERT INTO salaries (amount) SELECT 'unseen' FROM generate_series(1, %s)", (rows,))

    def headers(self, kind: str) -> dict[str, str]:
        token = token_of(kind)
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(self, kind: str, path: str, **options: Any) -> tuple[int, Any]:
        """The status, and the JSON of the answer where it is any."""
        headers = {**self.headers(kind), **options.pop("headers", {})}
        answer = await self.http_client.fetch(self.get_url(path), raise_error=False, headers=headers, **options)
        is_json = "application/json" in answer.headers.get("Content-Type", "")
        return answer.code, json.loads(answer.body) if is_json else answer.body

    async def knock(self, kind: str, path: str, *, protocol: bool = False) -> WebSocketClientConnection | int:
        """The socket, or the status of the refusal."""
        try:
            return await self.connect(path, protocol=protocol, **self.headers(kind))
        except HTTPClientError as error:
            return error.code


async def closing(socket: WebSocketClientConnection) -> int | None:
    """The code that a socket is closed with, which sends nothing before."""
    said = await socket.read_message()
    assert said is None, said
    return socket.close_code
