from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console, RenderableType

from sweeper.config.schema import Config
from sweeper.launching.tables import answer, study_json, study_table
from sweeper.report.sentences import plus_minus
from sweeper.search.looks import Looks
from sweeper.search.views import StudyView, TrialView


def text(rendered: RenderableType) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(rendered)
    return captured.get()


def scored(value: float, error: float = 0.02) -> dict[str, float]:
    return {"accuracy": value, "macro_f1": value, "accuracy_se": error, "macro_f1_se": error}


def trial(number: int, value: float | None, **changes: Any) -> TrialView:
    made = TrialView(
        number=number,
        state="PRUNED" if value is None else "COMPLETE",
        params={"rank": 8},
        value=value,
        metrics={} if value is None else scored(value),
        curve=() if value is None else ({"examples": 16.0, **scored(value)},),
        duration_s=3.0,
        reason=None,
        detail=None,
        examples_seen=16,
        is_informed=False,
        evaluations=() if value is None else (value,),
        constraints={},
        same_as=None,
        start=None,
        company=[],
    )
    return replace(made, **changes)


ATTRIBUTES = {
    "baseline": scored(0.1),
    "test": {"trial": 1, "rows": 100, "winner": scored(0.7), "base": scored(0.1), "majority": scored(0.05)},
}
STUDY = StudyView(
    "demo",
    [
        trial(0, 0.79),
        trial(1, 0.80),
        trial(2, 0.77),  # 0.03 below: no tie, though twice one error is more
        trial(3, None, reason="infeasible", curve=(), examples_seen=0, constraints={"vram": 0.4}),
        trial(4, None, reason="pruner"),
        trial(5, 0.80, same_as=1),
        trial(6, 0.95, constraints={"retention": 0.1}),
        trial(7, None, reason="diverged"),
    ],
    ATTRIBUTES,
)


def test_scores_come_with_their_standard_error(composed: Callable[..., Config]) -> None:
    said = text(answer(STUDY, composed("study=demo")))
    assert plus_minus(scored(0.8), "accuracy") == "0.800 ± 0.020"
    assert "Best: trial 1 (rank 8), validation accuracy 0.800 ± 0.020; untuned base 0.100 ± 0.020" in said
    assert "Test accuracy over 100 rows: winner 0.700 ± 0.020, untuned base 0.100 ± 0.020, majority" in said
    used = Looks(2, (0, 1), False, (("trial 0", "trial 1"),))
    said = " ".join(text(answer(STUDY, composed("study=demo"), used)).split())
    assert "was scored 2 times (trials 0, 1 and the untuned base), and 1 pair was compared on it. Each choice" in said


def test_a_tie_is_said(composed: Callable[..., Config]) -> None:
    """One standard error of the difference is 0.028; the winner's own repetition is no tie."""
    config = composed("study=demo")
    assert "one standard error of the difference): trial 0." in " ".join(text(answer(STUDY, config)).split())
    clear = StudyView("demo", [trial(0, 0.7), trial(1, 0.8)], ATTRIBUTES)
    assert "noise" not in text(answer(clear, config))
    many = StudyView("demo", [trial(number, 0.8) for number in range(12)], ATTRIBUTES)
    assert "trials 1, 2, 3, 4, 5, 6, 7, 8, …" in text(answer(many, config))


def test_the_table_says_why_a_trial_is_not_what_it_seems(composed: Callable[..., Config]) -> None:
    said = text(study_table(STUDY, composed("study=demo")))
    for words in (
        "pruned (infeasible)",
        "complete (as 1)",
        "complete (forgets too much)",
        "pruned (diverged)",
        "0.790 ± 0.020",
    ):
        assert words in said
    assert "5 complete, 2 pruned, 1 infeasible, not trained; total 16" in said


SAMPLED = {"retention/perplexity": 12.0, "retention/drop": 0.167, "retention/drop_se": 0.02}
MEASURED = {
    "constrains": "perplexity",
    "perplexity": 11.0,
    "tolerance": 0.3,
    "sample": {"perplexity": 10.0, "tolerance": 0.5},
}


def test_what_the_winner_keeps_of_the_base_is_said(composed: Callable[..., Config]) -> None:
    config = composed("study=demo")
    trials = [replace(trial(1, 0.8), metrics={**scored(0.8), **SAMPLED}), trial(2, 0.9, constraints={"retention": 0.1})]
    seen = StudyView("demo", trials, {**ATTRIBUTES, "retention": MEASURED})
    said = " ".join(text(answer(seen, config)).split())
    assert "Retention on the sample: perplexity 12 (base 10), drop +0.167 ± 0.020" in said
    assert "in perplexity, tolerated 0.500; 1 trial lost more" in said
    assert study_json(seen, config)["retention"]["violating"] == [2]
    full = {"retention/full_perplexity": 13.0, "retention/full_drop": 0.154, "retention/full_drop_se": 0.01}
    trials[0] = replace(trials[0], metrics={**trials[0].metrics, **full})
    said = " ".join(text(answer(seen, config)).split())
    assert "Retention in full: perplexity 13 (base 11), drop +0.154 ± 0.010 in perplexity, tolerated 0.300" in said
    assert study_json(seen, config)["retention"]["in_full"] == {1: {"perplexity": 13.0, "drop": 0.154, "drop_se": 0.01}}
    assert study_json(STUDY, config)["retention"] is None
    assert "Retention" not in text(answer(STUDY, config))


def test_status_as_json(composed: Callable[..., Config]) -> None:
    said = study_json(STUDY, composed("study=demo"))
    assert (said["best"], said["ties"], said["rejected"], said["trained"]) == (1, [0], 1, 6)
    assert said["trials"][3]["constraints"] == {"vram": 0.4}
    assert said["trials"][5]["same_as"] == 1
    assert said["trials"][6]["is_feasible"] is False
    assert said["trials"][0]["curve"] == [{"examples": 16.0, **scored(0.79)}]


def test_where_less_is_better_the_lowest_is_first_and_ties_are_above_it() -> None:
    values = {0: 0.79, 1: 0.80, 2: 0.77, 3: 0.90}
    seen = StudyView("demo", [trial(number, value, is_minimized=True) for number, value in values.items()], {})
    assert seen.best is not None
    assert seen.best.number == 2
    assert [tie.number for tie in seen.ties("accuracy")] == [0]  # 0.02 above; 0.03 is more than both errors
    bare = [replace(t, metrics={"accuracy": values[t.number]}) for t in seen.trials]
    assert StudyView("demo", bare, {}).ties("accuracy") == []


def test_a_score_of_any_size_with_or_without_its_error() -> None:
    assert plus_minus({"cost": 1234.5}, "cost") == "1234.5"
    assert plus_minus({"cost": 0.00012, "cost_se": 0.00001}, "cost") == "0.00012 ± 1e-05"
    assert plus_minus({"cost": 0.0, "cost_se": 0.0}, "cost") == "0.000 ± 0.000"


def confirmed(chosen: int, tied: list[int]) -> dict[str, Any]:
    versus = {"trial": 0, "difference": 0.05, "low": 0.02, "high": 0.08, "probability": 0.995, "is_tied": bool(tied)}
    return {
        "top": 2,
        "finalists": [1, 0],
        "seeds": [5, 6],
        "rows": 240,
        "metric": "accuracy",
        "leader": 1,
        "chosen": chosen,
        "tied": tied,
        "versus": [versus],
        "candidates": [
            {"trial": 1, "mean": 0.75, "spread": 0.01, "failures": []},
            {"trial": 0, "mean": 0.70, "spread": 0.02, "failures": ["diverged"]},
        ],
    }


def test_a_confirmed_winner_and_a_tie_are_said(composed: Callable[..., Config]) -> None:
    config, trials = composed("study=demo"), [trial(0, 0.79, params={"rank": 4}), trial(1, 0.80)]
    test = {**ATTRIBUTES["test"], "runner_up": {"trial": 0, "scores": scored(0.6)}, "optimism": 0.1}
    winner = StudyView("demo", trials, {**ATTRIBUTES, "confirmation": confirmed(1, []), "test": test})
    said = " ".join(text(answer(winner, config)).split())
    assert "accuracy trial 1 0.750 ± 0.010, trial 0 0.700 ± 0.020 (diverged) (± over seeds)" in said
    assert "The winner: better than trial 0 by 0.050 (95 %: 0.020 to 0.080), with a probability of 99.5%" in said
    assert "winner 0.700 ± 0.020, runner-up (trial 0) 0.600 ± 0.020, untuned base" in said
    assert "validation accuracy is 0.100 better than what the same adapter has on the test split" in said
    assert "noise" not in said  # what was confirmed is not guessed at from the search's own rows
    tie = StudyView("demo", trials, {**ATTRIBUTES, "confirmation": confirmed(0, [1])})
    said = " ".join(text(answer(tie, config)).split())
    assert "Best: trial 0 (rank 4)" in said
    assert "cannot tell it from trial 1; it is the cheapest within a standard error of the best mean." in said
    # Where another trial is among the best by now, what was confirmed says nothing of it.
    more = StudyView("demo", [*trials, trial(2, 0.81, params={"rank": 16})], tie.attributes)
    assert (more.best.number if more.best else None, more.confirmation) == (2, None)


def test_of_a_large_study_the_best_and_those_in_flight_are_shown(composed: Callable[..., Config]) -> None:
    config = composed("study=demo")
    trials = [trial(number, 0.3 + number / 100) for number in range(24)]
    large = StudyView("demo", [*trials, trial(24, None, state="RUNNING"), trial(25, None, reason="diverged")], {})
    said = text(study_table(large, config, shown=20))
    assert ("0.530" in said, "0.340" in said, "0.330" in said) == (True, True, False)
    assert "running" in said
    assert "diverged" not in said
    assert "… 5 trials more: sweeper status demo --all" in said
    every = text(study_table(large, config))
    assert ("0.300" in every, "diverged" in every, "--all" in every) == (True, True, False)
