"""What a worker's time goes to, and what may still be spent.

Everything that the device does is booked by the moment. A trial begins only if it can be paid to its end, together with
what confirmation and the test split will take; and whatever was foretold, work stops between two steps, or two parts of
a scoring, once the limit is reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch

from sweeper.config.schema import Config
from sweeper.config.space import bounds
from sweeper.engine.slot import Slot
from sweeper.events import EventLog
from sweeper.models import base
from sweeper.money.account import Beside, beside_session, statement, trial_cost
from sweeper.money.booking import STUDY, Activity, Whose
from sweeper.money.budget import SAFETY, Sizes, Spent, Workload, exceeded, in_words
from sweeper.money.energy import energy_meter
from sweeper.money.ledger import Ledger
from sweeper.money.meter import Meter
from sweeper.money.pace import Pace
from sweeper.money.price import Price
from sweeper.money.statement import Statement, TrialCost
from sweeper.paths import Home
from sweeper.search.asking import Asked
from sweeper.search.ended import ENDED, Ended, holds
from sweeper.search.study import Search
from sweeper.search.views import StudyView, TrialView
from sweeper.tracking.tracker import Tracker
from sweeper.trial import Rhythm, RunKind, TrialParams
from sweeper.worker.memory import MemoryLog
from sweeper.worker.pacing import Pacing
from sweeper.worker.packing import PackSize, settled
from sweeper.worker.workbench import Timing, Workbench

FEW_ROWS = 8  # that are answered to see what scoring takes at the least
LOOK_S = 2.0  # how old what is known of other workers may be


class BudgetSpent(Exception):  # noqa: N818 - a state that the session deals with, not an error for a user
    """The limit was reached in the middle of something."""


class Spending:
    """One worker's bookings, and its part in the study's budget."""

    def __init__(self, home: Home, config: Config, search: Search, events: EventLog) -> None:
        self.ledger = Ledger(search.engine)
        self.price = Price.of(config.gpu)
        self._pacing: Pacing
        self._home, self._config, self._search, self._events = home, config, search, events
        self._meter: Meter
        self._work: Workload | None = None
        self.pack_size = PackSize(config.most_slots)
        self._train_rows = 0
        self._held_back_s = 0.0
        self._tokens: dict[Whose, int] = {}
        self._looked_at = -LOOK_S
        self._beside = Beside(Spent(0.0, 0.0), usd_per_s=None, usd_per_s_ahead=None)

    # Booking

    @contextmanager
    def running(self, launched_s: float | None = None, began_s: float | None = None) -> Iterator[None]:
        """Books while the block runs.

        Args:
            launched_s: when its launcher began, in seconds since 1970: it books from then on; None: from now on.
            began_s: when this worker was told to work, likewise; None: when its process began.
        """
        self.ledger.settle(self._config.search.lease_s)
        device = base.pick_device(self._config.engine.device)
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self._pacing = Pacing(self._home.pace, self._config, device, where)
        name, now = self._config.study.name, time.time()
        energy_mj, how = energy_meter(self._config, device)
        if device.type == "cuda":  # of two like cards, this one
            where += f" {torch.cuda.get_device_properties(device).uuid}"
        self._meter = Meter(self.ledger, name, where, self.price, min(launched_s or now, now), energy_mj)
        if self.price is not None and self.price.tariff_usd_per_kwh is not None:
            self._events.write("note", message=how)
        self.price = self._meter.price  # without a tariff where nothing measures the electricity
        if launched_s is not None:
            self._meter.book(Activity.PREFLIGHT, until_s=began_s or psutil.Process().create_time())
        with self._meter.beating():
            try:
                yield
            finally:
                self._keep_pace()

    @property
    def pace(self) -> Pace:
        """How long things take here, as far as it is known."""
        return self._pacing.pace

    def book(self, activity: Activity, whose: Sequence[Whose] = (), units: int = 0) -> float:
        """Books what has passed since the last booking; returns the seconds.

        Args:
            whose: the runs that it was for, in equal parts; none: the study.
            units: rows that each of them scored.
        """
        seconds = self._meter.book(activity, dict.fromkeys(whose or [STUDY], units))
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._look()
        return seconds

    def account(self) -> Statement:
        """What the study has cost until this moment."""
        self._flush()
        seen = self._search.seen()
        seen = replace(seen, attributes={**seen.attributes, "pace": self.pace.as_dict()})  # kept when the session ends
        return statement(self._search.engine, seen, self.price)

    def trial_cost(self, trial: TrialView) -> TrialCost:
        """What a trial has cost until this moment."""
        self._flush()
        return trial_cost(self.ledger, self._config.study.name, trial, self.price)

    def _flush(self) -> None:
        self.book(Activity.OVERHEAD)
        self._meter.flush()

    def set_up(self, bench: Workbench) -> None:
        """Books what loading took, and remembers what the study's work consists of."""
        self.book(Activity.LOAD)
        pack = bench.pack
        self._train_rows = len(pack.examples)
        self.pace.setup_s = self._meter.elapsed_us() / 1e6
        retention = bench.retention
        sizes = Sizes(
            row_tokens=sum(map(len, pack.examples)) / len(pack.examples),
            passage_tokens=sum(map(len, pack.replay)) / len(pack.replay) if pack.replay else 0.0,
            rows=len(bench.validation.rows),
            items=retention.sample.items if retention is not None else 0,
            items_in_full=retention.full.items if retention is not None else 0,
            confirmation_rows=len(bench.confirmation.rows) if bench.confirmation is not None else 0,
            test_rows=len(bench.test.rows),
        )
        self._work = Workload(self.pace, sizes)
        pack.before_part = self._check

    def warm_up(self, bench: Workbench) -> None:
        """Answers a few rows by the base where it is not known what scoring takes here.

        Twice: the first forwards of a process are slow for being the first. Evaluations that follow have more rows, so
        that what each adds can be told from what a scoring takes whatever its size.
        """
        if self.pace.rows.is_known:
            return
        few = bench.validation.first(FEW_ROWS).prompts
        bench.score_prompts(few)
        self.book(Activity.LOAD)
        bench.score_prompts(few)
        self.scored(Activity.LOAD, len(few))

    def settle_pack(self, bench: Workbench, memory: MemoryLog, must_stop: Callable[[], bool]) -> None:
        """Settles how many trials train together here, and books what measuring that takes."""
        here = self._pacing.key, self._pacing.pace
        self.pack_size = settled(self._config, bench, memory, self._search, self._events, *here, must_stop)
        self.book(Activity.OVERHEAD)

    def conclude_pack(self, tracker: Tracker, is_lead: bool) -> None:
        """Keeps what training together gave, beside what was promised of it."""
        self.pack_size.conclude(self._pacing.key, self._search, tracker, is_lead)

    def begin_tick(self, kind: RunKind, slots: Sequence[Slot]) -> None:
        self.book(Activity.OVERHEAD)
        self._tokens = {Whose(kind, slot.number): slot.train_tokens for slot in slots}

    def end_tick(self, kind: RunKind, slots: Sequence[Slot]) -> None:
        """Books a tick, split among its slots by their tokens."""
        now = {Whose(kind, slot.number): slot.train_tokens for slot in slots}
        tokens = {whose: count - self._tokens.get(whose, 0) for whose, count in now.items()}
        seconds = self._meter.book(Activity.TRAIN, tokens)
        self._pacing.ticked(sum(tokens.values()), seconds)
        self.pack_size.ticked(list(tokens.values()), seconds)

    def evaluated(self, kind: RunKind, slots: Sequence[Slot], took: Timing | None) -> None:
        """Books an evaluation of slots; `took` is that of its last attempt, which came to its end."""
        assert self._work is not None
        self.book(Activity.EVALUATE, [Whose(kind, slot.number) for slot in slots], self._work.sizes.rows)
        if took is not None and slots:
            self.pace.rows.add(self._work.sizes.rows * len(slots), took.rows_s)
            if self._work.sizes.items:
                self.pace.items.add(self._work.sizes.items * len(slots), took.items_s)

    def scored(self, activity: Activity, rows: int, whose: Sequence[Whose] = ()) -> None:
        """Books the scoring of rows by the base, or by one adapter."""
        seconds = self.book(activity, whose, rows)
        if rows:
            self.pace.rows.add(rows, seconds)

    def scored_suite(self, activity: Activity, items: int, whose: Sequence[Whose] = ()) -> None:
        """Books the scoring of retention items by the base, or by one adapter."""
        seconds = self.book(activity, whose)
        if items:
            self.pace.items.add(items, seconds)

    def record(self, slot: Slot | None = None) -> dict[str, Any]:
        """What a trial is told with: what it would take alone, and what the study has spent until then."""
        spent = self.spent()
        found: dict[str, Any] = {"spent_s": round(spent.seconds, 6), "spent_usd": spent.usd}
        if slot is not None:
            found |= {"steps": slot.step, "train_tokens": slot.train_tokens, "solo_s": self._solo_s(slot)}
        return found

    def _solo_s(self, slot: Slot) -> float | None:
        if self._work is None or not self.pace.is_known:
            return None
        sizes, count = self._work.sizes, len(slot.evaluations)
        trained = self.pace.training_s(slot.step, slot.train_tokens)
        return trained + self.pace.scoring_s(sizes.rows * count, sizes.items * count, count)

    def _keep_pace(self) -> None:
        if self.pace.is_known:
            self._pacing.keep()
            self._search.remember("pace", self.pace.as_dict())

    # The budget

    def spent(self) -> Spent:
        """What the study has taken until this moment, all its workers together."""
        usd_per_s = self._beside.usd_per_s if self.price is not None else None
        return self._beside.spent.plus(self._meter.elapsed_us() / 1e6, usd_per_s)

    def _look(self) -> None:
        """Reads what other sessions have taken, and ends those that are silent; tells whoever watches."""
        self._looked_at = time.monotonic()
        self.ledger.settle(self._config.search.lease_s)
        self._look_beside()
        spent = self.spent()
        self._events.write("spent", usd=spent.usd, device_s=spent.seconds, usd_per_s=self._beside.usd_per_s_ahead)

    def _look_beside(self) -> None:
        self._beside = beside_session(self.ledger, self._config.study.name, self._meter.session, bool(self.price))

    def hold_back(self, seconds: float) -> None:
        """Keeps so much for what must come afterwards."""
        self._held_back_s = seconds

    def over(self) -> str | None:
        """The limit that is reached, with what is held back; None where there is something left."""
        if not self.is_limited:
            return None
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._look()
        return exceeded(self._config.budget, self.spent().plus(self._held_back_s, self._beside.usd_per_s_ahead))

    def _check(self) -> None:
        """Before each part of a scoring, which may be long."""
        if self.over() is not None:
            raise BudgetSpent

    @property
    def is_limited(self) -> bool:
        """Whether seconds or dollars are."""
        return self._config.budget.usd is not None or self._config.budget.hours is not None

    @property
    def can_foretell(self) -> bool:
        """Whether it is known what a trial takes."""
        return self._work is not None and self.pace.is_known

    def refusal(self, asked: Asked | None, others: Sequence[int], slots: Sequence[Slot]) -> Ended | None:
        """Why another trial cannot be paid to its end, with all that must come after it; None where it can.

        Args:
            asked: the trial; None: the shortest that there may be.
            others: the trials in flight beside it, which have the first claim.
            slots: those of them that train.
        """
        with self._search.in_turn:
            return self._refusal(self._search.seen(), asked, others, slots)

    def _refusal(
        self, seen: StudyView, asked: Asked | None, others: Sequence[int], slots: Sequence[Slot]
    ) -> Ended | None:
        budget = self._config.budget
        trained = [t for t in seen.trials if t.counts and t.same_as is None and t.examples_seen]
        flying = [t for t in seen.trials if t.state == "RUNNING"]
        if asked is not None:  # of two that are asked at once, the earlier one has the last place
            flying = [t for t in flying if t.number < asked.number or (t.curve and t.number != asked.number)]
        if budget.trials is not None and len(trained) + len(flying) >= budget.trials:
            return Ended(
                "budget.trials",
                f"{budget.trials} trials are trained, which is all that budget.trials allows",
                {"trials": len(trained)},
            )
        if not self.is_limited or not self.can_foretell:
            return None
        together = float(min(self.pack_size.slots, len(others) + 1))
        own = next(trial for trial in seen.trials if trial.number == asked.number) if asked is not None else None
        need_s = self._trial_s(own, together)
        sampled = asked.params if asked is not None else self._shortest()
        coming = [*(trial.params for trial in seen.trials if trial.number in others), sampled]
        claims_s = sum(self._left_s(slot, together) for slot in slots)
        waiting = set(others) - {slot.number for slot in slots}  # for memory, or to be told
        claims_s += sum(self._trial_s(trial, together) for trial in seen.trials if trial.number in waiting)
        after_s = self.finishing_s(seen, coming)
        others_s = sum(us for one, us in self.ledger.reserved_us(seen.name).items() if one != self._meter.session) / 1e6
        self._look_beside()  # as late as that: what they do is either spent, or reserved
        whole_s = (need_s + claims_s) * SAFETY + after_s + others_s
        key = exceeded(budget, self.spent().plus(whole_s, self._beside.usd_per_s_ahead))
        ahead_s = (claims_s if key is not None else need_s + claims_s) * SAFETY
        self.ledger.reserve(self._meter.session, self._meter.elapsed_us() + round(ahead_s * 1e6))
        if key is None:
            return None
        spent = self.spent()
        rest = Spent(0.0, 0.0 if self.price is not None else None)
        one, after = (rest.plus(seconds, self._beside.usd_per_s_ahead) for seconds in (need_s, after_s))
        words = [f"${each.usd:.4g}" if key == "budget.usd" else f"{each.seconds / 3600:.3g} h" for each in (one, after)]
        return Ended(
            key,
            f"{in_words(budget, key, spent)} is spent, and another trial (about {words[0]}) with what comes after it "
            f"(confirmation and test, about {words[1]}) does not fit into the rest",
            {"spent_usd": spent.usd, "spent_s": spent.seconds, "trial_s": need_s, "after_s": after_s},
        )

    def reached(self) -> Ended:
        """The limit that is reached, in words."""
        budget, spent = self._config.budget, self.spent()
        key = self.over() or ("budget.usd" if budget.usd is not None else "budget.hours")
        held = f", with {self._held_back_s:.0f} s held back for what comes after" if self._held_back_s else ""
        return Ended(
            key,
            f"{in_words(budget, key, spent)} is spent{held}",
            {"spent_usd": spent.usd, "spent_s": spent.seconds, "held_back_s": self._held_back_s},
        )

    def finishing_s(self, seen: StudyView, coming: Sequence[dict[str, Any]] = ()) -> float:
        """What confirming the best and scoring the test split takes.

        Args:
            coming: the configurations that may be among the best by then, beside those that are now.
        """
        if self._work is None or not self.pace.is_known:
            return 0.0
        top = self._config.confirmation.top if self._work.sizes.confirmation_rows else 0
        best = [*(trial.params for trial in seen.finalists(max(top, 1))), *coming]
        seeds = self._config.confirmation.seeds
        together = float(min(self.pack_size.slots, max(1, len(best[:top]) * seeds)))
        each = [self._work.confirming_s(*self._shape(sampled), seeds, together) for sampled in best[:top]]
        return sum(each) + self.testing_s() if best else 0.0

    def testing_s(self) -> float:
        """What the test split takes; 0 before anything is known."""
        return self._work.testing_s() if self._work is not None and self.pace.rows.is_known else 0.0

    def _trial_s(self, trial: TrialView | None, together: float) -> float:
        """What is left of a trial that does not train yet; None: the shortest that there may be."""
        assert self._work is not None
        sampled, done = (trial.params, len(trial.curve)) if trial is not None else (self._shortest(), 0)
        return self._work.trial_s(*self._shape(sampled), done, together)

    def _shortest(self) -> dict[str, Any]:
        """What a trial is sampled as that takes the fewest steps."""
        searched = self._config.search.space.get("epochs")
        if searched is None or self._config.train.examples is not None:
            return {}
        return {"epochs": bounds(searched)[0]}

    def _left_s(self, slot: Slot, together: float) -> float:
        assert self._work is not None
        whole = self._work.trial_s(slot.params, slot.rhythm, len(slot.evaluations), together)
        done = slot.step - len(slot.evaluations) * slot.rhythm.steps_per_interval
        tokens = done * slot.rhythm.batch_size * self._work.sizes.row_tokens
        return max(0.0, whole - self.pace.training_s(done / together, tokens))

    def _shape(self, sampled: dict[str, Any]) -> tuple[TrialParams, Rhythm]:
        params = self._config.trial_params(sampled)
        return params, self._config.rhythm(params, self._train_rows)

    # The end

    def reconsider(self) -> None:
        """Forgets an earlier end that holds no more: its limit was raised."""
        ended = self._search.attributes.get(ENDED)
        if ended is not None and not holds(ended, self._config):
            self._search.remember(ENDED, None)

    def end(self, ended: Ended, is_closed: bool = False) -> None:
        """Remembers why the search has ended, and says it."""
        self._search.remember(ENDED, ended.kept(self._config, is_closed))
        self._events.write("ended", key=ended.key, message=ended.message)

    def close(self) -> None:
        """Everything that could still be paid has been done."""
        ended = self._search.attributes.get(ENDED)
        if ended is not None:
            self._search.remember(ENDED, {**ended, "is_closed": True})
