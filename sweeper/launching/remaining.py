"""How long a search takes still: by the pace of its trials towards its total, and by what it spends of its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Pace:
    """What a session trains, and in which time. The unit is one trial's whole training.

    Attributes:
        shares: how much of its training each trained trial took until it ended: 1 where nothing stopped it.
    """

    shares: dict[int, float] = field(default_factory=dict)
    _began_s: float | None = None
    _worked_s: float = 0.0  # until the latest step
    _work: float = 0.0

    def begin(self, time_s: float) -> None:
        """Says when a trial begins, in seconds since 1970; the first one of the session counts."""
        self._began_s = time_s if self._began_s is None else self._began_s

    def work(self, share: float, time_s: float) -> None:
        """Says that so much of a training was done until then."""
        self._work += share
        if self._began_s is not None:
            self._worked_s = time_s - self._began_s

    def left_s(self, in_flight: Sequence[float], unbegun: int, now_s: float) -> float | None:
        """Seconds until all trials have ended; None before a trial has, or before this session has done anything.

        A trial in flight is taken to come to its end, and one that has not begun to take what is usual: so it is
        rather too long than too short, the more so the fewer trials have ended.

        Args:
            in_flight: how much of its training each trial in flight has done.
            unbegun: trials that have yet to begin.
            now_s: in seconds since 1970.
        """
        if not self.shares or self._began_s is None or not (self._work > 0 and self._worked_s > 0):
            return None
        usual = (sum(self.shares.values()) + len(in_flight)) / (len(self.shares) + len(in_flight))
        left = sum(1 - share for share in in_flight) + unbegun * usual
        since_s = max(now_s - self._began_s - self._worked_s, 0.0)  # an evaluation, perhaps
        return max(left * self._worked_s / self._work - since_s, 0.0)


@dataclass(frozen=True)
class Spent:
    """What a study had taken of its device at a moment, all sessions together."""

    time_s: float  # since 1970
    usd: float | None  # None: it has no price
    device_s: float
    usd_per_s: float | None

    def at(self, now_s: float) -> Spent:
        """What it will have taken by then, if the device is held as it is."""
        since_s = max(now_s - self.time_s, 0.0)
        usd = None if self.usd is None else self.usd + since_s * (self.usd_per_s or 0.0)
        return Spent(now_s, usd, self.device_s + since_s, self.usd_per_s)

    def left_s(self, limit_usd: float | None, limit_s: float | None, now_s: float) -> float | None:
        """Seconds until the first of its limits is reached; None where there is none."""
        then = self.at(now_s)
        found = []
        if limit_usd is not None and then.usd is not None and then.usd_per_s:
            found.append((limit_usd - then.usd) / then.usd_per_s)
        if limit_s is not None:
            found.append(limit_s - then.device_s)
        return max(min(found), 0.0) if found else None


def about(seconds: float) -> str:
    """Seconds as roughly as they are known: `less than a minute`, `about 12 min`, `about 3 h 20 min`."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    tens = 10 * round(minutes / 10)
    if tens < 24 * 60:
        hours, rest = divmod(tens, 60)
        return f"about {hours} h" + (f" {rest} min" if rest and hours < 10 else "")
    days = round(minutes / (24 * 60))
    return f"about {days} day{'s' * (days != 1)}"
