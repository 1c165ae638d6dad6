"""Which of a study's workers leads: it opens the study, and ends it when the trials of all have ended.

That is a lease as one on a trial is. Where the leader is gone, whichever worker comes first takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sweeper.search.study import Search

POLL_S = 1.0  # between two looks at what another worker does


class Lead:
    """One worker's part; true while it leads."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._is_mine = False

    def __bool__(self) -> bool:
        return self._is_mine

    @contextmanager
    def held(self) -> Iterator[None]:
        """Gives the lead back when the worker leaves the block."""
        try:
            yield
        finally:
            self._is_mine = False
            self._search.resign()

    def take(self) -> bool:
        """Leads from now on, unless another worker does."""
        self._is_mine = self._search.lead()
        return self._is_mine

    def falls_to_me(self, is_stopping: Callable[[], bool]) -> bool:
        """Whether the one that led is gone; waits until that is known.

        Args:
            is_stopping: ends the wait, with False.
        """
        first = self._search.leader()
        while not is_stopping():
            if self.take():
                return True
            now = self._search.leader()
            if now is not None:
                holder, _ = now
                if (holder.is_here and not holder.is_gone) or first not in (None, now):
                    return False
                first = now
            time.sleep(POLL_S)
        return False
