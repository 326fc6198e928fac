"""The text of a date, time or interval in, a number that orders like PostgreSQL's values out. Knows no filter.

PostgreSQL has years before Christ and beyond 9999, 24:00:00 and a 60th second; datetime does not. Each function raises
ValueError if the text is malformed or its value is out of PostgreSQL's range.
"""

import math
import re
from datetime import date

Instant = int | float  # days or microseconds since the year 1; infinite where PostgreSQL's are

_DAY = 86_400_000_000  # in microseconds, as all else here
_UNITS = {"hours": _DAY // 24, "minutes": 60_000_000, "seconds": 1_000_000}

_DATE = r"(?P<year>\d{4}|[1-9]\d{4,6})-(?P<month>\d\d)-(?P<day>\d\d)"
_CLOCK = r"(?P<hour>\d\d?):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d|60)(?:\.(?P<fraction>\d+))?)?"
_ZONE = (
    r"(?: ?(?P<zone>Z|(?P<east>[+-])(?P<zone_hour>0\d|1[0-5])"
    r"(?::?(?P<zone_minute>[0-5]\d)(?::(?P<zone_second>[0-5]\d))?)?))?"
)
_FLAGS = re.ASCII | re.IGNORECASE
_as_instant = re.compile(rf"\s*{_DATE}(?:[T ]{_CLOCK}{_ZONE})?(?: (?P<era>BC))?\s*", _FLAGS).fullmatch
_as_time = re.compile(rf"\s*{_CLOCK}{_ZONE}\s*", _FLAGS).fullmatch
_as_interval = re.compile(
    r"\s*(?=\S)"
    r"(?:(?P<years>[+-]?\d{1,9}) years?\b ?)?(?:(?P<months>[+-]?\d{1,10}) mon(?:s|ths?)?\b ?)?"
    r"(?:(?P<weeks>[+-]?\d{1,9}) weeks?\b ?)?(?:(?P<days>[+-]?\d{1,10}) days?\b ?)?"
    r"(?:(?P<sign>[+-]?)(?P<hour>\d{1,10}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)(?:\.(?P<fraction>\d{1,6}))?)?"
    r"|(?:(?P<hours>[+-]?\d{1,9}) hours?\b ?)?(?:(?P<minutes>[+-]?\d{1,9}) min(?:s|utes?)?\b ?)?"
    r"(?:(?P<seconds>[+-]?\d{1,9}) sec(?:s|onds?)?)?)\s*",
    _FLAGS,
).fullmatch
_INFINITIES = {"infinity": math.inf, "-infinity": -math.inf}

# From 4714-11-24 BC; up to, and without, 5874898-01-01 (date) and 294277-01-01 (timestamp).
_FIRST_DAY, _END_OF_DATES, _END_OF_TIMESTAMPS = -1_721_425, 2_145_762_069, 107_482_103


def read_date(text: str, *, is_exact: bool = False) -> Instant:
    """A date in days. Ignores a time of day; with `is_exact`, refuses it."""
    if (infinite := _infinity(text)) is not None:
        return infinite
    found = _groups(_as_instant(text), is_exact, has_clock=False)
    if found["hour"]:
        _clock(found)
    return _within(_day(found), _FIRST_DAY, _END_OF_DATES)


def read_timestamp(text: str, *, is_exact: bool = False) -> Instant:
    """A timestamp in microseconds. Ignores a zone; with `is_exact`, refuses it, and a date alone."""
    if (infinite := _infinity(text)) is not None:
        return infinite
    found = _groups(_as_instant(text), is_exact)
    return _moment(found, 0)


def read_timestamptz(text: str, *, is_exact: bool = False) -> Instant:
    """A timestamp in microseconds. Without a zone it is UTC; with `is_exact`, that is refused."""
    if (infinite := _infinity(text)) is not None:
        return infinite
    found = _groups(_as_instant(text), is_exact, has_zone=True)
    return _moment(found, _offset(found))


def read_time(text: str, *, is_exact: bool = False) -> int:
    """A time of day in microseconds. Ignores a zone; with `is_exact`, refuses it."""
    return _clock(_groups(_as_time(text), is_exact))


def read_timetz(text: str, *, is_exact: bool = False) -> tuple[int, int]:
    """A time of day with a zone; UTC without one, which `is_exact` refuses. Of equal moments the western is later."""
    found = _groups(_as_time(text), is_exact, has_zone=True)
    west = -_offset(found)
    return _clock(found) + west, west


def read_interval(text: str) -> Instant:
    """An interval in microseconds. A month has 30 days, a day 24 hours."""
    if (infinite := _infinity(text)) is not None:
        return infinite
    found = _groups(_as_interval(text), is_exact=False)
    months = _number(found["years"]) * 12 + _number(found["months"])
    days = _number(found["weeks"]) * 7 + _number(found["days"])
    clock = sum(_number(found[name]) * unit for name, unit in _UNITS.items())
    if found["hour"]:
        of_clock = int(found["hour"]) * _UNITS["hours"] + _minutes(found)
        clock += -of_clock if found["sign"] == "-" else of_clock
    for number, limit in ((months, 2**31), (days, 2**31), (clock, 2**63)):
        _within(number, -limit, limit)
    return (months * 30 + days) * _DAY + clock


def _infinity(text: str) -> float | None:
    return _INFINITIES.get(text.strip().lower())


Groups = dict[str, str]  # a missing group is an empty text


def _groups(found: re.Match[str] | None, is_exact: bool, *, has_clock: bool = True, has_zone: bool = False) -> Groups:
    if found is None or (is_exact and (bool(found["hour"]), bool(found["zone"])) != (has_clock, has_zone)):
        raise ValueError("not of this form")
    return found.groupdict("")


def _number(digits: str) -> int:
    return int(digits or 0)


def _day(found: Groups) -> int:
    year = int(found["year"])
    if year == 0:
        raise ValueError("there is no year 0")
    if found["era"]:
        year = 1 - year
    # The calendar repeats every 400 years, which are 146,097 days.
    return date(year % 400 + 400, int(found["month"]), int(found["day"])).toordinal() + (year // 400 - 1) * 146_097


def _moment(found: Groups, offset: int) -> int:
    day, clock = _day(found), _clock(found) if found["hour"] else 0
    # PostgreSQL also has the moment to which timestamp(0) rounds 294276-12-31 23:59:59.5.
    is_rounded = day == _END_OF_TIMESTAMPS and bool(found["hour"]) and (clock, offset) == (0, 0)
    return _within(day * _DAY + clock - offset, _FIRST_DAY * _DAY, _END_OF_TIMESTAMPS * _DAY + is_rounded)


def _clock(found: Groups) -> int:
    return _within(int(found["hour"]) * _UNITS["hours"] + _minutes(found), 0, _DAY + 1)


def _minutes(found: Groups) -> int:
    fraction = round(float(f"0.{found['fraction'] or 0}") * 1_000_000)  # as PostgreSQL rounds it
    return int(found["minute"]) * _UNITS["minutes"] + _number(found["second"]) * _UNITS["seconds"] + fraction


def _offset(found: Groups) -> int:
    hours, minutes, seconds = (_number(found[f"zone_{unit}"]) for unit in ("hour", "minute", "second"))
    seconds += (hours * 60 + minutes) * 60
    return (-seconds if found["east"] == "-" else seconds) * 1_000_000


def _within(number: int, first: int, end: int) -> int:
    if not first <= number < end:
        raise ValueError("PostgreSQL has no such value")
    return number


def write_date(day: Instant) -> str:
    """The text of a date, such that read_date() gives it back."""
    if math.isinf(day):
        return _write_infinity(day)
    written, era = _written_day(int(day))
    return written + era


def write_timestamp(moment: Instant, zone: str = "") -> str:
    """The text of a timestamp in microseconds, with `zone` at its end."""
    if math.isinf(moment):
        return _write_infinity(moment)
    day, clock = divmod(int(moment), _DAY)
    written, era = _written_day(day)
    return f"{written} {write_time(clock)}{zone}{era}"


def write_time(clock: int) -> str:
    seconds, fraction = divmod(clock, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"


def write_timetz(moment: tuple[int, int]) -> str:
    clock, west = moment
    seconds = abs(west) // 1_000_000
    sign = "-" if west > 0 else "+"
    return f"{write_time(clock - west)}{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def write_interval(length: int) -> str:
    """The text of a finite interval, with a sign before each number, so that IntervalStyle does not matter."""
    sign, rest, parts = -1 if length < 0 else 1, abs(length), []
    for unit, name in ((30 * _DAY, "mons"), (_DAY, "days"), (1, "microseconds")):
        number = min(rest // unit, 2**31 - 1) if unit > 1 else rest
        rest -= number * unit
        parts.append(f"{sign * number:+d} {name}")
    return " ".join(parts)


def _write_infinity(moment: Instant) -> str:
    return "infinity" if moment > 0 else "-infinity"


def _written_day(day: int) -> tuple[str, str]:
    cycle, rest = divmod(day - 1, 146_097)  # the days of 400 years
    found = date.fromordinal(rest + 1)
    year, era = found.year + 400 * cycle, ""
    if year < 1:
        year, era = 1 - year, " BC"
    return f"{year:04}-{found.month:02}-{found.day:02}", era
