"""Rules and a tally in, alerts that are raised or end out. Knows no clock, database or HTTP.

The rules are those of the dashboard, in its words. An alert changes only if that is certain: a time that was not
counted leaves it as it was.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from changefeed.change.change import ACTIONS
from changefeed.change.table_names import as_written, canonical
from changefeed.counts.tally import OTHER_TABLES, STEPS, Tally
from changefeed.selection.subscription import Subscription

RATE_SECONDS = 5  # a rate is the mean over this time, as on the dashboard
CALM_SECONDS = (
    30.0  # how long a rate must stay below the limit before its alert ends: so there is one alert, not one a second
)
MOST_SECONDS = max(step * kept for step, kept in STEPS.items())

EXPECTED = (
    "an alert such as: no INSERT in public.orders for 5 min (s, min or h, at most 24 h), or: more than 100 INSERT/s "
    'in public.orders; without "in …" all tables together'
)
_UNITS = {"s": 1, "min": 60, "h": 3600}
_ACTION = rf"(?P<action>{'|'.join(ACTIONS)})"
_ABOVE = re.compile(rf"more than (?P<limit>\d{{1,9}}(\.\d{{1,6}})?) {_ACTION}/s( in (?P<table>.+))?", re.ASCII)
_QUIET = re.compile(
    rf"no {_ACTION}( in (?P<table>.+))? for (?P<amount>\d{{1,6}}(\.\d{{1,6}})?) ?(?P<unit>s|min|h)", re.ASCII
)


@dataclass(frozen=True)
class Above:
    """More changes a second than `per_second`. `table` is as in a subscription; None means all tables together."""

    action: str
    table: str | None
    per_second: float

    def __str__(self) -> str:
        return f"more than {self.per_second:.12g} {self.action}/s{_within(self.table)}"


@dataclass(frozen=True)
class Quiet:
    """No change for `seconds`."""

    action: str
    table: str | None
    seconds: int

    def __str__(self) -> str:
        unit = next(unit for unit in ("h", "min", "s") if self.seconds % _UNITS[unit] == 0)
        return f"no {self.action}{_within(self.table)} for {self.seconds // _UNITS[unit]} {unit}"


Alert = Above | Quiet


def parse_alert(text: str) -> Alert:
    """Parses the words of an alert, as EXPECTED says. Raises ValueError."""
    text = text.strip()
    if found := _ABOVE.fullmatch(text):
        return Above(found["action"], _table(found["table"]), float(found["limit"]))
    found = _QUIET.fullmatch(text)
    if not found:
        raise ValueError
    seconds = round(float(found["amount"]) * _UNITS[found["unit"]])
    if not 1 <= seconds <= MOST_SECONDS:
        raise ValueError
    return Quiet(found["action"], _table(found["table"]), seconds)


@dataclass(frozen=True)
class Transition:
    """An alert is raised, or ends. Times are epoch seconds; `since` is when it was raised.

    `value` is the changes per second, or for Quiet the seconds since the last change; None if unknown.
    """

    alert: Alert
    is_raised: bool
    since: float
    now: float
    value: float | None


class Alerts:
    """The state of all alerts, by the counts in `tally`."""

    def __init__(self, alerts: Iterable[Alert], tally: Tally) -> None:
        self._watches = [
            _AboveWatch(alert, tally) if isinstance(alert, Above) else _QuietWatch(alert, tally) for alert in alerts
        ]

    def check(self, known_from: float, now: float) -> list[Transition]:
        """The transitions since the last check. All changes between the two times (epoch seconds) are counted."""
        return [transition for watch in self._watches if (transition := watch.check(known_from, now))]


class _Watch:
    """One alert and, if it is raised, since when."""

    calm_seconds = 0.0

    def __init__(self, alert: Alert, tally: Tally) -> None:
        self._alert = alert
        self._tally = tally
        self._index = ACTIONS.index(alert.action)
        self._asked = Subscription((alert.table,)) if alert.table else Subscription()
        self._tables: list[str] = []
        self._tables_known = 0
        self._raised_at: float | None = None
        self._was_so_at = 0.0

    def check(self, known_from: float, now: float) -> Transition | None:
        self._look_for_tables()
        is_so, value = self._look(known_from, now)
        if is_so:
            self._was_so_at = now
            if self._raised_at is None:
                self._raised_at = now
                return Transition(self._alert, True, now, now, value)
        elif is_so is False and self._raised_at is not None and now - self._was_so_at >= self.calm_seconds:
            since, self._raised_at = self._raised_at, None
            return Transition(self._alert, False, since, now, value)
        return None

    def _look(self, known_from: float, now: float) -> tuple[bool | None, float | None]:
        """Whether the alert's condition holds, None if unknown; and the transition's value."""
        raise NotImplementedError

    def _look_for_tables(self) -> None:
        totals = self._tally.totals
        if self._tables_known != len(totals):
            self._tables_known = len(totals)
            self._tables = [table for table in totals if self._asked.names(as_written(table))]

    @property
    def _is_counted(self) -> bool:
        """False if the table may be counted together with others under one name."""
        return bool(self._tables) or OTHER_TABLES not in self._tally.totals


class _AboveWatch(_Watch):
    calm_seconds = CALM_SECONDS

    def __init__(self, alert: Above, tally: Tally) -> None:
        super().__init__(alert, tally)
        self._per_second = alert.per_second

    def _look(self, known_from: float, now: float) -> tuple[bool | None, float | None]:
        end = int(now)  # excludes the second that is not over yet
        buckets = self._tally.by_step[1]
        count = sum(buckets.count(begins, self._tables, self._index) for begins in range(end - RATE_SECONDS, end))
        rate = count / RATE_SECONDS
        if rate > self._per_second:
            return True, rate
        return (False if self._is_counted and known_from <= end - RATE_SECONDS else None), rate


class _QuietWatch(_Watch):
    def __init__(self, alert: Quiet, tally: Tally) -> None:
        super().__init__(alert, tally)
        self._seconds = alert.seconds
        self._buckets = next(b for b in tally.by_step.values() if b.window_seconds >= alert.seconds)
        self._counted = 0
        self._last_before: float | None = None  # the end of the last change's step

    def _look(self, known_from: float, now: float) -> tuple[bool | None, float | None]:
        counted = sum(self._tally.totals[table][self._index] for table in self._tables)
        if counted != self._counted:  # else the search would give the same result
            self._counted = counted
            self._last_before = self._buckets.newest_end(self._tables, self._index) or self._last_before
        if self._last_before is None:
            value = None
        else:
            value = max(0.0, now - self._last_before)
            if value < self._seconds:
                return False, value
        return (True if self._is_counted and known_from <= now - self._seconds else None), value


def _table(text: str | None) -> str | None:
    return canonical(text) if text else None


def _within(table: str | None) -> str:
    return f" in {table}" if table else ""
