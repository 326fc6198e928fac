"""How much one turn of the loop takes on, by what the last one took; and how soon the next one may begin."""

import asyncio
from collections.abc import Callable

import pytest

from changefeed import turns
from changefeed.change.change import Change
from changefeed.owners import Owner
from changefeed.selection.subscription import ALL_CHANGES, Selection
from changefeed.turns import (
    FIRST_COUNT,
    GROWTH,
    Floor,
    LimitedStarts,
    SharedTurns,
    Stopwatch,
    TurnSize,
    Work,
    WorkQueue,
)
from handlers.delivery.dialects import PLAIN, Dialect
from handlers.delivery.live_clients import LiveClient, LiveClients
from handlers.delivery.outbox import Outbox

ONE, OTHER = Owner("one", "192.0.2.1"), Owner("other", "192.0.2.1")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(turns, "TURN_SECONDS", 1.0)
    return Clock()


@pytest.fixture
def turn(clock: Clock) -> TurnSize:
    return TurnSize(clock)


def take(turn: TurnSize, clock: Clock, count: int, seconds: float) -> None:
    turn.begin()
    clock.now += seconds
    turn.end(count)


def test_the_next_turn_has_the_right_length(turn: TurnSize, clock: Clock):
    take(turn, clock, 16, 1 / 4)
    assert turn.count == 64
    take(turn, clock, 64, 1.0)
    assert turn.count == 64
    take(turn, clock, 64, 4.0)
    assert turn.count == 16


def test_it_grows_step_by_step_and_never_to_nothing(turn: TurnSize, clock: Clock):
    take(turn, clock, FIRST_COUNT, 0.0)
    assert turn.count == FIRST_COUNT * GROWTH
    take(turn, clock, FIRST_COUNT * GROWTH, 1e6)
    assert turn.count == 1


def test_work_that_is_left_out_does_not_count(clock: Clock):
    sending = Stopwatch(clock)
    turn = TurnSize(lambda: clock() - sending.seconds)
    turn.begin()
    with sending.running():
        clock.now += 100.0
    clock.now += 1 / 4
    turn.end(16)
    assert turn.count == 64


def test_a_small_turn_does_not_reset_the_size(turn: TurnSize, clock: Clock):
    take(turn, clock, 16, 1 / 4)
    take(turn, clock, 1, 1 / 64)
    assert turn.count == 64


class FakeClient:
    """A live client without a transport; receiving may take time by the clock."""

    outbox: Outbox
    dialect: Dialect = PLAIN
    is_catching_up = False

    def __init__(self, selection: Selection, on_receive: Callable[[], None] = lambda: None) -> None:
        self.selection = selection
        self.received: list[bytes] = []
        self._on_receive = on_receive

    def receive(self, buffer: bytes) -> bool:
        self.received.append(buffer)
        self._on_receive()
        return True


def joined(clients: LiveClients, client: FakeClient) -> FakeClient:
    live: LiveClient = client  # type: ignore[assignment]
    clients.join(live)
    return client


def test_turn_sizes_exclude_writing_to_clients(clock: Clock):
    def pass_a_second() -> None:
        clock.now += 1.0

    async def publish_all() -> int:
        work, sending = WorkQueue(clock), Stopwatch(clock)
        turn, clients = TurnSize(lambda: work.seconds - sending.seconds), LiveClients(work=work, sending=sending)
        everything = Selection(ALL_CHANGES, lambda table: None)
        ours = [joined(clients, FakeClient(everything, pass_a_second)) for _ in range(100)]
        changes, writes = [Change("{}", "public.orders", "INSERT")] * 2_000, 0
        while changes:
            part, changes, writes = changes[: turn.count], changes[turn.count :], writes + 1
            turn.begin()
            clients.broadcast(part, None)
            await work.emptied()
            turn.end(len(part))
        assert [len(client.received) for client in ours] == [writes] * 100
        return writes

    assert asyncio.run(publish_all()) <= 4


def test_only_an_immediate_restart_waits(clock: Clock):
    floor = Floor(4.0, clock)
    assert floor.left_seconds == 0.0
    floor.begin()
    assert floor.left_seconds == 4.0
    clock.now += 3.0
    assert floor.left_seconds == 1.0
    clock.now += 100.0
    assert floor.left_seconds == 0.0


@pytest.mark.parametrize("tasks", [10, 20, 40])
def test_many_tasks_share_one_turn(tasks: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    done: list[int] = []

    def work(number: int) -> Work:
        for _ in range(3):
            done.append(number)
            yield

    async def share() -> int:
        shared, most = SharedTurns(), 0
        sharing = [asyncio.ensure_future(shared.do(work(number), Owner(str(number), ""))) for number in range(tasks)]
        while not all(task.done() for task in sharing):
            before = len(done)
            await asyncio.sleep(0)
            most = max(most, len(done) - before)
        return most

    assert asyncio.run(share()) == 1
    assert done == [*range(tasks)] * 3  # each in turn


def test_many_tasks_of_one_owner_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    done: list[Owner] = []

    def work(owner: Owner) -> Work:
        for _ in range(3):
            done.append(owner)
            yield

    async def share() -> None:
        shared = SharedTurns()
        await asyncio.gather(*(shared.do(work(owner), owner) for owner in (*[ONE] * 20, OTHER)))

    asyncio.run(share())
    assert done[:6] == [ONE, OTHER] * 3


def test_a_task_that_fails_or_is_cancelled_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)

    def work(failure: str = "") -> Work:
        yield
        if failure:
            raise ValueError(failure)
        yield

    async def share() -> list[object]:
        shared = SharedTurns()
        sharing = [asyncio.ensure_future(shared.do(work(failure), ONE)) for failure in ("", "", "broken", "")]
        await asyncio.sleep(0)
        sharing[1].cancel()
        return list(await asyncio.gather(*sharing, return_exceptions=True))

    first, cancelled, failed, last = asyncio.run(share())
    assert first is None
    assert last is None
    assert isinstance(cancelled, asyncio.CancelledError)
    assert str(failed) == "broken"


def test_few_pieces_of_work_start_in_one_turn_of_the_loop_each_owners_in_turn():
    starts = LimitedStarts(2)
    started: list[tuple[int, str | None]] = []
    turn = 0

    async def start(owner: Owner) -> None:
        await starts.take(owner)
        started.append((turn, owner.holder))

    async def start_all() -> None:
        nonlocal turn
        tasks = [asyncio.ensure_future(start(owner)) for owner in [ONE] * 7 + [OTHER] * 3]
        await asyncio.sleep(0)
        tasks[6].cancel()
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1

    asyncio.run(start_all())
    per_turn = [sum(at == one for at, _ in started) for one in range(turn + 1)]
    assert max(per_turn) == 2
    assert [holder for _, holder in started] == ["one"] * 2 + ["one", "other"] * 3 + ["one"]
