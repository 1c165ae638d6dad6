"""`sweeper doctor`: what this machine has, what is missing for a search and its cure, and what cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from sweeper.cli.checks import base, gpu, libraries, store, system
from sweeper.cli.finding import Finding, State
from sweeper.cli.reachable import CHECKS, Named
from sweeper.redaction import redacted


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        look: has nothing to say of a machine that it does not concern.
        is_needed: nothing works where it breaks.
    """

    what: str
    look: Callable[[], Finding | None]
    is_needed: bool = False


def checks(named: Named) -> list[Check]:
    """All of them, in the order in which one would cure what they find."""
    return [
        Check("python", libraries.python, is_needed=True),
        Check("libraries", libraries.libraries, is_needed=True),
        Check("gpu", gpu.gpu),
        Check("driver", gpu.driver),
        Check("compute capability", gpu.compute_capability),
        Check("mig", gpu.mig),
        Check("wsl", system.wsl),
        Check("c compiler", system.compiler),
        Check("4-bit library", libraries.quantised_library),
        Check("4-bit training", libraries.quantised_training, is_needed=True),
        Check("store", partial(store.store, named.home), is_needed=True),
        Check("disk", partial(store.disk, named.home)),
        Check("hub", base.hub),
        Check("base", partial(base.base, named), is_needed=True),
        Check("smollm2-135m", base.packaged_model),
        *(Check(what, partial(look, named), is_needed=True) for what, look in CHECKS.items()),
    ]


def examine(named: Named) -> list[Finding]:
    """Looks at everything; a check that breaks is a finding too."""
    return list(_made(checks(named)))


def _made(to_make: Iterable[Check]) -> Iterable[Finding]:
    for check in to_make:
        try:
            finding = check.look()
        except Exception as error:  # a check must not keep the others from being made
            state = State.MISSING if check.is_needed else State.WARNING
            first = redacted(str(error)).strip().partition("\n")[0]
            detail = f"could not be looked at: the check itself failed with {type(error).__name__}: {first}"
            finding = Finding(check.what, state, detail, "pip install -c constraints.txt -e . brings what was tested")
        if finding is not None:
            yield finding
