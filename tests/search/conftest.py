from __future__ import annotations

from sweeper.search.asking import Asked
from sweeper.search.study import Search
from tests.postgresql import postgresql as postgresql

RECORD = {"metrics": {"accuracy": 0.5}, "duration_s": 1.0}


def curve(*values: float) -> list[dict[str, float]]:
    """The evaluations of a trial so far."""
    return [
        {"examples": 10.0 * index, "accuracy": value, "macro_f1": value / 2, "accuracy_se": 0.01, "macro_f1_se": 0.01}
        for index, value in enumerate(values, start=1)
    ]


def ask(search: Search) -> Asked:
    """The next configuration, which there is."""
    asked = search.ask()
    assert asked is not None
    return asked


def complete(search: Search, number: int, *values: float) -> None:
    """Reports evaluations and tells the best of them."""
    for count in range(1, len(values) + 1):
        search.report(number, curve(*values[:count]), may_prune=False)
    record = {**RECORD, "metrics": curve(max(values))[0], "curve": curve(*values)}
    search.complete(number, max(values), record, {})
