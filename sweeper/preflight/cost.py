"""What a study will take in seconds and dollars, before a cent is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.teaching import METRICS
from sweeper.errors import SweeperError
from sweeper.learning.curve import FRACTIONS
from sweeper.models import origin
from sweeper.money import pace as paces
from sweeper.money.account import statement
from sweeper.money.bill import Bill
from sweeper.money.budget import TESTED
from sweeper.money.packing import Packing
from sweeper.money.price import HOUR_S, Price, advice, required
from sweeper.paths import Home
from sweeper.preflight.architecture import Widths, model_config
from sweeper.preflight.card import Card, dtype_of, pick_card
from sweeper.preflight.pruning import WHOLE, kept, records
from sweeper.preflight.speed import Speed, measured, of_data_sheet, training_flops
from sweeper.preflight.trainings import Training, adapter_values, trainings, trials_left
from sweeper.preflight.volume import Reading, Volume, read
from sweeper.search.storage import open_storage
from sweeper.search.views import StudyView, begun, is_finished
from sweeper.span import ZERO, Span
from sweeper.units import time_text, usd_text

BOOT, TRIALS = "boot", "trials"
UNCONFIRMED = 2  # places that are held to the whole retention suite where nothing is confirmed
CURVE_SEEDS = 3  # of a learning curve, where the metric has no standard error by itself


@dataclass(frozen=True)
class Part:
    """A part of a study; `usd` is None where there is no price."""

    name: str
    seconds: Span
    usd: Span | None


@dataclass(frozen=True)
class Bought:
    """How many trials a limit pays for, beside what is not theirs: set-up, confirmation, test."""

    key: str
    limit: float
    trials: Span


@dataclass(frozen=True)
class CostEstimate:
    """What a study, or what is left of one, will take.

    Attributes:
        basis: where the figures come from, or why there are none.
        price: what an hour costs, or that there is no price.
        source: `measured`, `data sheet`, or None where there are no figures.
        is_rest: whether it is what is left of a study that has begun.
        trial: one that runs to its end, alone.
        trials: how many are trained.
        trained_share: of its length, that a trial is trained for in the mean.
        trial_tokens: that a trial trains on if it runs to its end, in the mean.
        trial_training_s: what that takes alone, without its evaluations.
        flops_per_token: of training, by the book.
        bought: what the budgets pay for.
        slots: trials that train together.
        packing: what that gains; None where no step was measured.
    """

    basis: str
    price: str
    source: str | None = None
    is_rest: bool = False
    trial: Part | None = None
    trials: Span = ZERO
    trained_share: float = 1.0
    parts: tuple[Part, ...] = ()
    trial_tokens: float = 0.0
    trial_training_s: float = 0.0
    flops_per_token: float = 0.0
    bought: tuple[Bought, ...] = ()
    slots: int = 0
    packing: Packing | None = None

    @property
    def total(self) -> Part:
        """All parts."""
        usd = [part.usd for part in self.parts if part.usd is not None]
        seconds = sum((part.seconds for part in self.parts), ZERO)
        return Part("all", seconds, sum(usd, ZERO) if usd else None)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": asdict(self.total) if self.parts else None}


def pace_key(config: Config, card: Card) -> str:
    """What the pace of a study on a card is kept as."""
    return paces.key(
        model=config.model.name,
        dtype=dtype_of(config, card),
        quant=config.model.quant,
        device=card.name if card.is_cuda else "cpu",
        threads=None if card.is_cuda else config.engine.threads or _threads(),
        task=config.task.name,
    )


def _threads() -> int:
    """What a worker here would take of itself."""
    import torch  # cores and the environment decide, and only it knows how

    return torch.get_num_threads()


def summary(config: Config, home: Home) -> list[str]:
    """What a launch says of its cost, in four lines at the most; why there is no estimate where there is none."""
    try:
        base = origin.pinned(config.model, origin.kept(home.study(config.study.name)))  # that the study was begun with
        return lines(estimate(config.model_copy(update={"model": base}), home))
    except SweeperError as error:
        return [f"no estimate of its cost: {error}"]


def estimate(config: Config, home: Home, reading: Reading | None = None) -> CostEstimate:
    """Estimates what a study will take.

    Args:
        reading: what is known of what it reads, where that is known already.

    Raises:
        ConfigError: if dollars are to be counted, and there is no price.
        DataError, PromptError, ModelError: what a launch would say.
    """
    price = required(config)
    card = pick_card(config)
    words = _price(config, price, card)
    reading = reading or read(config, home)
    volume = reading.volume
    if volume is None:
        return CostEstimate("the rows are not on this machine, so they cannot be counted", words)
    widths = Widths.of(model_config(config, home))
    adapter = adapter_values(config, widths)
    speed = _speed(config, home, card, volume, widths, adapter)
    if speed is None:
        return CostEstimate(_unmeasured(config, card), words)
    before = begun(home, config.study.name)
    made = _Estimate(config, price, volume, speed, before)
    is_done = before is not None and is_finished(before, config)
    spent = statement(open_storage(home).engine, before, price).bill if before is not None else Bill(())
    return CostEstimate(
        basis=_basis(config, card, speed, reading),
        price=words,
        source=speed.source,
        is_rest=before is not None,
        trial=made.priced("one trial", made.trained(1, WHOLE.trained)),
        trials=made.trials,
        trained_share=made.kept.trained,
        trial_tokens=made.training.tokens,
        trial_training_s=made.training_s(made.training, 1),
        flops_per_token=training_flops(config, widths, adapter),
        parts=tuple(part for part in made.parts if part.seconds.high > 0 and not is_done),
        bought=tuple(made.bought(spent)),
        slots=made.slots,
        packing=made.packing,
    )


class _Estimate:
    """The parts of one study, in the order in which they are spent."""

    def __init__(
        self, config: Config, price: Price | None, volume: Volume, speed: Speed, before: StudyView | None
    ) -> None:
        self._config, self._price, self._volume, self._speed = config, price, volume, speed
        self._attributes = before.attributes if before is not None else {}
        every = Training.mean(trainings(config, volume))
        self.packing = _packing(speed, every.tokens / every.steps)
        slots = config.engine.slots
        most = config.most_slots
        self.slots = slots if slots != "auto" else self.packing.best(most) if self.packing is not None else most
        lengths = sorted(trainings(config, volume), key=self._seconds)
        # The shortest, the mean, the longest that the space allows.
        self._kinds = lengths[0], Training.mean(lengths), lengths[-1]
        self.trials = trials_left(config, before)
        told = sum(one.counts for one in before.trials) if before is not None else 0
        self._all = told + self.trials.high
        self.kept = kept(config, told + self.trials.likely, self.training.evaluations)
        self.parts = [self.priced(name, seconds) for name, seconds in self._parts()]

    @property
    def training(self) -> Training:
        """The mean one."""
        return self._kinds[1]

    def training_s(self, one: Training, together: float) -> float:
        """Of the steps of one of so many that train together: they share what a step takes whatever its size."""
        return self._speed.pace.tick.seconds(one.tokens, one.steps / together)

    def _seconds(self, one: Training, together: float = 1.0) -> float:
        """Of one of so many that train together, with its evaluations."""
        pace, volume = self._speed.pace, self._volume
        scoring = pace.rows.seconds(volume.scored_rows * one.evaluations, one.evaluations / together)
        if volume.sample_items and pace.items.is_known:
            scoring += pace.items.seconds(volume.sample_items * one.evaluations, one.evaluations / together)
        return self.training_s(one, together) + scoring

    def _spread(self, likely: Callable[[int], float]) -> Span:
        return Span(self._speed.low * likely(0), likely(1), self._speed.high * likely(2))

    def trained(self, together: float, share: float) -> Span:
        """Of one, in the company of others; `share` is of its length, and nothing is stopped in the high figure."""
        together = max(1.0, min(self.slots, together))
        shares, kinds = (share, share, WHOLE.trained), self._kinds
        return self._spread(lambda place: self._seconds(kinds[place], together) * shares[place])

    def _scoring(self, rows: float, items: float = 0.0, times: float = 1.0) -> Span:
        pace = self._speed.pace
        seconds = times * (pace.scoring_s(rows, items) if rows or items else 0.0)
        return self._spread(lambda _: seconds)

    def _parts(self) -> Iterator[tuple[str, Span]]:
        config, volume = self._config, self._volume
        boot_s = self._price.boot_s if self._price is not None else 0.0
        yield BOOT, Span(boot_s, boot_s, boot_s)
        yield "set-up", self._spread(lambda _: self._speed.setup_s)
        if "baseline" not in self._attributes:
            yield "untuned base", self._scoring(volume.scored_rows, volume.suite_items)
        if config.preflight.learning_curve and "learning_curve" not in self._attributes:
            has_error = config.objective.metric_name in METRICS[config.task.name]
            count = len(FRACTIONS) * (1 if has_error else CURVE_SEEDS)
            yield "learning curve", self.trained(count, WHOLE.trained).each(lambda seconds: seconds * count)
        yield TRIALS, self._trials()
        yield "confirmation", self._confirmation()
        yield "test", self._scoring(volume.test_rows, times=min(TESTED, round(self._all)) + 1)  # and the untuned base

    def _trials(self) -> Span:
        """The trials, and the whole retention suite for those that end as one of the best so far."""
        each, count = self.trained(self.trials.likely, self.kept.trained), self.trials
        trained = Span(each.low * count.low, each.likely * count.likely, each.high * count.high)
        places = self._config.confirmation.top or UNCONFIRMED
        likely = records(count.likely * self.kept.complete, places)
        times = Span(min(likely, places), likely, count.high)
        suite = self._scoring(0, self._volume.suite_items)
        return trained + Span(suite.low * times.low, suite.likely * times.likely, suite.high * times.high)

    def _confirmation(self) -> Span:
        config, rows = self._config, self._volume.confirmation_rows
        if not rows or not config.confirmation.top:
            return ZERO
        finalists = min(config.confirmation.top, round(self._all))
        count = finalists * config.confirmation.seeds
        trained = self.trained(count, WHOLE.trained).each(lambda seconds: seconds * count)
        return trained + self._scoring(rows, times=count + finalists)

    def priced(self, name: str, seconds: Span) -> Part:
        price, watts = self._price, self._config.gpu.watts
        if price is None:
            return Part(name, seconds, None)
        if name == BOOT:
            watts = None  # nothing meters it
        return Part(name, seconds, seconds.each(lambda one: price.usd(one, watts)))

    def bought(self, spent: Bill) -> Iterator[Bought]:
        """What each limit pays for, of which something may be spent already."""
        budget = self._config.budget
        trials = next(part for part in self.parts if part.name == TRIALS)
        others = [part for part in self.parts if part is not trials]
        if budget.usd is not None and trials.usd is not None:
            rest = sum((part.usd for part in others if part.usd is not None), ZERO)
            yield Bought("budget.usd", budget.usd, self._pays(budget.usd - (spent.usd or 0), rest, trials.usd))
        if budget.hours is not None:
            rest = sum((part.seconds for part in others if part.name != BOOT), ZERO)  # workers begin after it
            left = budget.hours * HOUR_S - spent.worked_s
            yield Bought("budget.hours", budget.hours, self._pays(left, rest, trials.seconds))

    def _pays(self, left: float, rest: Span, trials: Span) -> Span:
        """How many trials fit into what is left beside the rest; the fewest where all is dear."""

        def fitting(rest: float, trials: float, count: float) -> float:
            return float(max(0, int((left - rest) / (trials / count) + 1e-9))) if trials and count else 0.0

        return Span(
            fitting(rest.high, trials.high, self.trials.high),
            fitting(rest.likely, trials.likely, self.trials.likely),
            fitting(rest.low, trials.low, self.trials.low),
        )


def _speed(config: Config, home: Home, card: Card, volume: Volume, widths: Widths, adapter: float) -> Speed | None:
    keys = [pace_key(config, card)]
    if card.is_cuda and config.model.dtype == "auto":  # a card without bfloat16
        other = config.model.model_copy(update={"dtype": "float16"})
        keys.append(pace_key(config.model_copy(update={"model": other}), card))
    for key in keys:
        known = paces.known_pace(home.pace, key)
        if known is not None and known.is_known:
            return measured(known, volume, widths)
    return of_data_sheet(config, volume, widths, adapter) if card.is_cuda else None


def _packing(speed: Speed, tokens: float) -> Packing | None:
    """What a step takes, where that was measured."""
    if speed.source != "measured":
        return None
    fixed_s, token_s = speed.pace.step or speed.pace.tick.line()
    return Packing(fixed_s, token_s, tokens)


def _price(config: Config, price: Price | None, card: Card) -> str:
    if price is None:
        known = advice(card.name if card.is_cuda else None)
        return f"no dollars, for gpu={config.gpu.name} has no price; {known}"
    is_dark = price.tariff_usd_per_kwh is not None and config.gpu.watts is None
    return f"at {price.in_words()}" + ("; electricity comes on top, for gpu.watts is not given" if is_dark else "")


def _basis(config: Config, card: Card, speed: Speed, reading: Reading) -> str:
    most = (
        "" if reading.are_measured else f"; rows are taken to have prompt.max_tokens={config.prompt.max_tokens} tokens"
    )
    if speed.source == "measured":
        return f"as measured with {config.model.name} on {_where(card)}{most}"
    return (
        f"an estimate from the data sheet of {card.name} ({config.gpu.bf16_tflops:g} TFLOPS, of which a quarter is "
        f"taken to be reached, a tenth to two fifths); one trial on it measures it{most}"
    )


def _unmeasured(config: Config, card: Card) -> str:
    sheet = ", and gpu.bf16_tflops, from which to estimate it, is not given" if card.is_cuda else ""
    return (
        f"nothing has been measured with {config.model.name} and task={config.task.name} on {_where(card)} yet{sheet}. "
        "One trial measures it: launch the same with search.trials=1 study.name=NEW, and plan again"
    )


def _where(card: Card) -> str:
    return card.name if card.is_cuda else "this machine's processor"


def lines(estimated: CostEstimate) -> list[str]:
    """An estimate in four lines at the most."""
    if estimated.source is None:
        return [f"cost: {estimated.basis}", f"price: {estimated.price}"]
    if not estimated.parts:
        return ["cost: nothing is left of it"]
    total = estimated.total
    usd = f", {total.usd.in_words(usd_text)}" if total.usd is not None else ""
    what = "what is left of it" if estimated.is_rest else "all of it"
    found = [f"cost of {what}: {total.seconds.in_words(time_text)}{usd}; {estimated.price}"]
    parts = ", ".join(f"{part.name} {time_text(part.seconds.likely)}" for part in estimated.parts)
    one = f"; one trial {estimated.trial.seconds.in_words(time_text)}" if estimated.trial is not None else ""
    found.append(f"of it {parts}{one}")
    if estimated.bought:
        found.append("; ".join(bought_in_words(one, estimated.trials) for one in estimated.bought))
    return [*found, f"these are {estimated.basis}" if estimated.source == "data sheet" else estimated.basis]


def bought_in_words(one: Bought, trials: Span) -> str:
    """What a limit pays for, in a clause."""
    counts = one.trials.each(lambda count: min(count, trials.high))
    limit = f"{one.key}={one.limit:g}"
    if counts.low >= trials.high:
        return f"{limit} pays for all {trials.high:.0f} trials"
    few = f"{counts.likely:.0f} ({counts.low:.0f} to {counts.high:.0f}) of {trials.high:.0f} trials"
    return f"{limit} pays for {few}, beside what confirmation and test take"
