from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest

from sweeper.config.schema import Config
from sweeper.errors import ConfigError, StoreError
from sweeper.paths import Home
from sweeper.search import study as study_module
from sweeper.search.study import Search
from sweeper.search.views import begun, ranked, view
from sweeper.trial import Reason
from tests.search.conftest import RECORD, ask, complete, curve

Compose = Callable[..., Config]


def test_the_total_is_exact_and_in_flight_counts(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=3"))
    first, second, third = ask(search), ask(search), ask(search)
    assert search.ask() is None
    search.complete(first.number, 0.5, RECORD, {})
    assert search.ask() is None
    search.prune(second.number, Reason.DIVERGED, RECORD, {})
    search.fail(third.number, "trace", {})
    assert search.ask() is None
    seen = view(home, "demo")
    assert seen.counts() == {"COMPLETE": 1, "FAIL": 1, "PRUNED": 1}
    assert [trial.reason for trial in seen.trials] == [None, "diverged", "defect"]
    assert seen.best is not None
    assert (seen.best.number, seen.best.value, seen.best.metrics) == (0, 0.5, {"accuracy": 0.5})


def test_an_interrupted_trial_comes_back_first_and_under_its_number(composed: Compose, home: Home) -> None:
    config = composed("study=demo", "search.trials=4")
    search = Search(home, config)
    first, second = ask(search), ask(search)
    search.report(first.number, curve(0.1), may_prune=False)
    search.requeue(first.number, has_crashed=True)
    search.requeue(second.number, has_crashed=False)
    assert view(home, "demo").counts() == {"WAITING": 2}

    search = Search(home, config)  # as a new process has it
    again = [ask(search), ask(search)]
    assert [(asked.number, asked.params) for asked in again] == [(a.number, a.params) for a in (first, second)]
    assert [asked.crashes for asked in again] == [1, 0]
    assert ask(search).number == 2
    search.report(first.number, curve(0.9), may_prune=False)  # repeated after the resume: skipped
    search.complete(first.number, 0.1, RECORD, {})
    assert view(home, "demo").trials[0].evaluations == (0.1,)


def test_a_step_is_the_number_of_the_evaluation(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=1"))
    complete(search, ask(search).number, 0.2, 0.4)
    [trial] = optuna.load_study(study_name="demo", storage=home.optuna_url).trials
    assert trial.intermediate_values == {1: 0.2, 2: 0.4}
    assert view(home, "demo").trials[0].curve == tuple(curve(0.2, 0.4))


def test_the_curve_of_a_trial_in_flight_is_in_the_storage(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo"))
    search.report(ask(search).number, curve(0.2), may_prune=True)
    assert view(home, "demo").trials[0].curve == tuple(curve(0.2))


@pytest.mark.parametrize(("sampler", "informed"), [("tpe", 4), ("gp", 4), ("nsgaii", 0), ("random", 0), ("qmc", 0)])
def test_asks_say_whether_the_sampler_was_informed(composed: Compose, home: Home, sampler: str, informed: int) -> None:
    search = Search(home, composed("study=demo", f"sampler={sampler}", "search.trials=10"))
    for _ in range(10):
        asked = ask(search)
        search.complete(asked.number, 0.1, RECORD, {})
    assert sum(trial.is_informed for trial in view(home, "demo").trials) == informed


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc", "nsgaii", "cmaes", "grid"])
def test_the_seed_decides_the_asks_and_an_interruption_does_not(
    composed: Compose, tmp_path_factory: pytest.TempPathFactory, sampler: str
) -> None:
    space = ["+search.space.dropout={low:0.0,high:0.3}"] if sampler == "cmaes" else []

    def params(seed: int, is_interrupted: bool) -> list[dict[str, object]]:
        home = Home(tmp_path_factory.mktemp("store"))
        config = composed("study=demo", f"sampler={sampler}", f"search.seed={seed}", "search.trials=9", *space)
        search = Search(home, config)
        for index in range(9):
            asked = ask(search)
            if is_interrupted:
                search.requeue(asked.number, has_crashed=False)
                search = Search(home, config)
                assert ask(search) == asked
            complete(search, asked.number, 0.1 + 0.05 * index)
        return [trial.params for trial in view(home, "demo").trials]

    assert params(1, False) == params(1, True)
    assert params(1, False) != params(2, False)


def test_the_earlier_of_equals_is_best(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo"))
    for value in (0.5, 0.7, 0.7):
        search.complete(ask(search).number, value, RECORD, {})
    best = search.seen().best
    assert best is not None
    assert best.number == 1


def test_trials_within_noise_of_the_best_are_ties(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo"))
    for value in (0.70, 0.71, 0.69, 0.50):  # each with a standard error of 0.01: differences below 0.0141 are noise
        complete(search, ask(search).number, value)
    assert [trial.number for trial in view(home, "demo").ties("accuracy")] == [0]


def test_every_trial_has_the_studys_constraints_once(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=3"), ["vram"])
    numbers = [ask(search).number for _ in range(3)]
    search.complete(numbers[0], 0.9, RECORD, {"vram": 0.5})
    search.complete(numbers[1], 0.5, RECORD, {"vram": -0.5})
    with pytest.raises(ValueError, match="constraints must be"):
        search.fail(numbers[2], "trace", {})
    search.fail(numbers[2], "trace", {"vram": -0.1})
    seen = view(home, "demo")
    assert [trial.constraints for trial in seen.trials] == [{"vram": 0.5}, {"vram": -0.5}, {"vram": -0.1}]
    assert seen.best is not None
    assert seen.best.number == 1  # the feasible one
    with pytest.raises(ConfigError, match=r"was begun with .'vram'. and now has"):
        Search(home, composed("study=demo"), ["price"])


def test_a_worker_that_died_before_it_told_does_not_set_a_constraint_twice(composed: Compose, home: Home) -> None:
    config = composed("study=demo", "search.trials=1")
    search = Search(home, config, ["vram"])
    number = ask(search).number
    search._running[number].set_constraint("vram", -0.5)  # and dies
    search.requeue(number, has_crashed=False)
    search = Search(home, config, ["vram"])
    search.complete(ask(search).number, 0.5, RECORD, {"vram": -0.5})  # warnings are errors here
    assert view(home, "demo").trials[0].constraints == {"vram": -0.5}


def test_rejected_asks_come_on_top_of_the_total_until_there_are_too_many(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.trials=2", "search.max_rejections=3"), ["vram"])
    rejected = {"duration_s": 0.0, "examples_seen": 0, "detail": "not trained: vram"}
    for _ in range(3):
        search.prune(ask(search).number, Reason.INFEASIBLE, rejected, {"vram": 1.0})
    search.complete(ask(search).number, 0.5, RECORD, {"vram": -1.0})
    search.prune(ask(search).number, Reason.INFEASIBLE, rejected, {"vram": 1.0})
    with pytest.raises(ConfigError, match=r"at most 3 asks .* but 4 were, and 1 trials trained.*search.trials=1"):
        search.ask()
    seen = view(home, "demo")
    assert (seen.rejections, seen.summary()) == (4, "1 complete, 4 infeasible, not trained")
    assert [trial.counts for trial in seen.trials] == [False] * 3 + [True, False]


def test_a_repeated_question_gets_the_earlier_answer(composed: Compose, home: Home) -> None:
    one = ["search.space.rank=[8]", "search.space.alpha_ratio=[1.0]", "~search.space.learning_rate", "search.trials=4"]
    search = Search(home, composed("study=demo", *one))
    first, second = ask(search), ask(search)
    assert search.earlier(first) is None  # the other is in flight too, and has no answer yet
    complete(search, first.number, 0.3, 0.6)
    earlier = search.earlier(second)
    assert earlier is not None
    search.repeat(second.number, earlier, {})
    third = ask(search)
    earlier = search.earlier(third)
    assert earlier is not None
    search.repeat(third.number, earlier, {})
    for trial in view(home, "demo").trials[1:]:
        assert (trial.value, trial.evaluations, trial.same_as, trial.counts) == (0.6, (0.3, 0.6), 0, True)
    search = Search(home, composed("study=demo", *one, "search.duplicates=train"))
    assert search.earlier(ask(search)) is None


def test_a_failed_trial_answers_no_question(composed: Compose, home: Home) -> None:
    one = ["search.space.rank=[8]", "search.space.alpha_ratio=[1.0]", "~search.space.learning_rate"]
    search = Search(home, composed("study=demo", *one))
    search.fail(ask(search).number, "trace", {})
    assert search.earlier(ask(search)) is None


def test_enqueued_configurations_come_first_and_once(composed: Compose, home: Home) -> None:
    starts = "search.enqueue=[{rank:16,alpha_ratio:2.0,learning_rate:0.002},{rank:8}]"
    config = composed("study=demo", starts)
    search = Search(home, config)
    assert search.enqueue_starts() == []
    Search(home, config).enqueue_starts()  # a worker that was killed between them
    first, second, third = ask(search), ask(search), ask(search)
    assert (first.params, first.start) == ({"rank": 16, "alpha_ratio": 2.0, "learning_rate": 0.002}, "enqueue[0]")
    assert (second.params["rank"], second.start) == (8, "enqueue[1]")  # what it leaves open is drawn
    assert set(second.params) == {"rank", "alpha_ratio", "learning_rate"}
    assert (third.number, third.start, third.is_informed) == (2, None, False)


def test_a_warm_start_tries_another_studys_best_first(composed: Compose, home: Home) -> None:
    before = Search(home, composed("study=demo", "study.name=before", "search.seed=5"))
    for value in (0.1, 0.9, 0.5, 0.8):
        search_number = ask(before).number
        before.complete(search_number, value, RECORD, {})
    old = {trial.number: trial.params for trial in view(home, "before").trials}
    narrow = f"search.space.rank=[{old[1]['rank']}]"
    config = composed("study=demo", narrow, "search.warm_start=before", "search.warm_start_trials=2")
    search = Search(home, config)
    left_out = search.enqueue_starts()
    assert ask(search).params == old[1]
    if old[3]["rank"] == old[1]["rank"]:
        assert left_out == []
    else:
        assert left_out == [f"before, trial 3: rank={old[3]['rank']} is outside search.space"]
    assert view(home, "demo").trials[0].start == "before, trial 1"


def test_an_unknown_study_lists_the_known_ones(composed: Compose, home: Home) -> None:
    with pytest.raises(StoreError, match=r"no study in .* has asked for a trial yet"):
        view(home, "demo")
    Search(home, composed("study=demo"))
    with pytest.raises(StoreError, match="unknown study `dmo`; did you mean `demo`"):
        view(home, "dmo")


def test_a_study_has_begun_once_something_is_measured(composed: Compose, home: Home) -> None:
    assert begun(home, "demo") is None
    search = Search(home, composed("study=demo"))
    assert begun(home, "demo") is None
    assert begun(home, "other") is None
    search.remember("baseline", {"accuracy": 0.1})
    seen = begun(home, "demo")
    assert seen is not None
    assert seen.trials == []
    ask(Search(home, composed("study=demo", "study.name=asked")))
    seen = begun(home, "asked")
    assert seen is not None
    assert len(seen.trials) == 1


def test_a_repetition_with_a_lower_number_is_not_best(composed: Compose, home: Home) -> None:
    """Two of one configuration in flight, the later one told first: the earlier is trained all the same."""
    one = ["search.space.rank=[8]", "search.space.alpha_ratio=[1.0]", "~search.space.learning_rate"]
    search = Search(home, composed("study=demo", *one))
    first, second = ask(search), ask(search)
    complete(search, second.number, 0.6)
    search.requeue(first.number, has_crashed=False)
    assert search.earlier(ask(search)) is None
    complete(search, first.number, 0.6)
    third = ask(search)
    earlier = search.earlier(third)
    assert earlier is not None
    search.repeat(third.number, earlier, {})
    assert [trial.number for trial in ranked(search.views())] == [0, 1, 2]
    assert search.views()[2].same_as == 0


def test_a_pruned_answer_is_an_answer_too(composed: Compose, home: Home) -> None:
    one = ["search.space.rank=[8]", "search.space.alpha_ratio=[1.0]", "~search.space.learning_rate"]
    search = Search(home, composed("study=demo", *one))
    number = ask(search).number
    search.report(number, curve(0.2), may_prune=True)
    search.prune(number, Reason.PRUNER, {**RECORD, "curve": curve(0.2)}, {})
    again = ask(search)
    earlier = search.earlier(again)
    assert earlier is not None
    search.repeat(again.number, earlier, {})
    trial = search.views()[again.number]
    assert (trial.state, trial.reason, trial.evaluations, trial.same_as) == ("PRUNED", "pruner", (0.2,), 0)


def test_an_attempt_that_was_killed_before_it_told_leaves_no_mark(composed: Compose, home: Home) -> None:
    """Its reason was written, the trial goes on from its checkpoint, and this time it comes to its end."""
    config = composed("study=demo")
    search = Search(home, config)
    number = ask(search).number
    for key, value in {"reason": "pruner", "detail": "x", "same_as": 3}.items():
        search._running[number].set_user_attr(key, value)
    search.requeue(number, has_crashed=False)
    search = Search(home, config)
    assert search.earlier(ask(search)) is None
    complete(search, number, 0.9)
    trial = search.views()[number]
    assert (trial.state, trial.value, trial.reason, trial.detail, trial.same_as) == ("COMPLETE", 0.9, None, None, None)


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "qmc", "cmaes", "nsgaii", "grid"])
@pytest.mark.parametrize("told", [0, 8])
def test_a_kill_between_two_parameters_changes_neither(
    composed: Compose,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    told: int,
) -> None:
    settings = ("+search.space.dropout={low:0.0,high:0.3}", "+search.space.weight_decay={low:0.0,high:0.3}")
    suggest = study_module.suggest

    def drawn(cut: int | None) -> dict[str, object]:
        home = Home(tmp_path_factory.mktemp("store"))
        config = composed("study=demo", f"sampler={sampler}", *settings)
        search = Search(home, config)
        for index in range(told):
            complete(search, ask(search).number, 0.1 * index)
        with monkeypatch.context() as patched:
            left = iter(range(cut)) if cut is not None else iter(range(100))

            def killed(*arguments: object) -> object:
                next(left)
                return suggest(*arguments)  # type: ignore[arg-type]

            patched.setattr(study_module, "suggest", killed)
            if cut is not None:
                with pytest.raises(StopIteration):
                    search.ask()
                search.requeue(search.in_flight[0], has_crashed=False)
                search = Search(home, config)
        return ask(search).params

    assert drawn(1) == drawn(3) == drawn(None)


def test_each_ask_has_a_seed_of_its_own(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "sampler=random", "search.trials=30"))
    rates = [ask(search).params["learning_rate"] for _ in range(30)]
    assert len(set(rates)) == 30


def test_a_trial_that_is_being_told_does_not_disturb_who_looks(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo"), ["vram"])
    search._running[ask(search).number].set_user_attr("reason", "infeasible")
    assert view(home, "demo").summary() == "1 running"


def test_trials_in_flight_come_to_their_end_where_the_search_gives_up(composed: Compose, home: Home) -> None:
    search = Search(home, composed("study=demo", "search.max_rejections=0"), ["vram"])
    going, rejected = ask(search), ask(search)
    search.prune(rejected.number, Reason.INFEASIBLE, {"examples_seen": 0}, {"vram": 1.0})
    assert search.ask() is None
    search.requeue(going.number, has_crashed=False)
    assert ask(search).number == going.number
    search.complete(going.number, 0.5, RECORD, {"vram": -1.0})
    with pytest.raises(ConfigError, match="at most 0 asks may be infeasible"):
        search.ask()


def test_a_warm_start_leaves_room_for_no_more_than_the_total(composed: Compose, home: Home) -> None:
    before = Search(home, composed("study=demo", "study.name=before"))
    for value in (0.1, 0.9, 0.5):
        before.complete(ask(before).number, value, RECORD, {})
    config = composed("study=demo", "search.warm_start=before", "search.trials=2", "search.enqueue=[{rank:8}]")
    Search(home, config).enqueue_starts()
    assert [trial.start for trial in view(home, "demo").trials] == ["enqueue[0]", "before, trial 1"]
