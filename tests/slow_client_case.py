"""The ground for tests of clients that do not read: a table of wide rows, and a client that is far behind."""

from tornado.websocket import WebSocketClientConnection

from tests.feed_case import FeedTestCase, message
from tests.raw_client import RawClient


class SlowClientCase(FeedTestCase):
    def prepare_database(self) -> None:
        self.write("CREATE TABLE wide (id bigint PRIMARY KEY, number int, filler text)")
        self.watch("public.wide")

    async def left_behind(self) -> tuple[RawClient, WebSocketClientConnection, int]:
        """A conflating client that has read nothing, and one that has read all changes: of 8 rows, each changed 250
        times."""
        stuck = RawClient(self.get_http_port())
        await stuck.connect("/ws?slow=conflate", protocol=True)
        other = await self.connect(protocol=True)
        self.write("INSERT INTO wide SELECT n, 0, repeat('x', 5000) FROM generate_series(1, 8) AS n")
        for number in range(1, 251):
            self.write("UPDATE wide SET number = %s", [number])
        seen = 0
        while seen < 8 * 251:
            seen += len((await message(other, "changes"))["changes"])
        return stuck, other, seen
