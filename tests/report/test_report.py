"""What a report says, of studies at every stage."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.reproduce import spoken
from sweeper.report.answer import answer
from sweeper.report.content import Figure, Image
from sweeper.report.facts import Facts
from sweeper.report.html import html
from sweeper.report.markdown import markdown
from sweeper.report.report import content
from sweeper.search.ended import Ended
from tests.launch.test_tables import scored, trial
from tests.money.booked import PRICE
from tests.report.conftest import MakeFacts, nothing_of

VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """The text and the elements of a page; one that is not well-formed is refused."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.words.append(" " if tag in {"td", "th", "li", "p"} else "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(facts: Facts, *figures: Figure) -> Page:
    return Page(html(content(facts, figures)))


def test_a_finished_study_answers_first(facts: MakeFacts) -> None:
    found = facts(retention=None)
    assert answer(found).startswith(
        "So far the best is trial 1 (rank 8) with test accuracy 0.700 ± 0.020 over 100 rows (untuned base 0.100 ± "
        "0.020), not confirmed on fresh seeds. It cost $0.104 in 0.029 device hours."
    )
    text = page_of(found).text
    for words in (
        "Best: trial 1 (rank 8), validation accuracy 0.800 ± 0.020",
        "The best 4 of 8 trials",
        "rank 4, 8, 16, 32, 64",
        "learning_rate 0.0003 to 0.03, logarithmic",
        "winner, trial 1 0.700 ± 0.020",
        "pruner 1 behind at the same evaluation, by the rule of the median pruner",
        "diverged 1 its loss",
        "infeasible, not trained 1",
        "breaks a constraint 1 came to its end, and is above the limit of retention, vram",
        "repeated 1",
        "sweeper export demo --to my-adapter",
        "SWEEPER_HOME=another-store sweeper launch study=demo",
        "sweeper rerun demo --trial 1",
        "No budget was set",
    ):
        assert words in text, words
    order = [attributes["id"] for attributes in page_of(found).all("section")]
    assert order == ["searched", "won", "cost", "stopped", "data", "changes", "next", "export", "reproduce"]


@pytest.mark.parametrize(("quant", "words"), [("nf4", "untuned 4-bit base 0."), ("none", "untuned base 0.")])
def test_the_base_is_said_as_it_is(facts: MakeFacts, quant: str, words: str) -> None:
    text = page_of(facts(f"model.quant={quant}", retention=None)).text
    assert words in text
    assert ("4-bit" in text) == (quant == "nf4")


def test_a_tie_and_a_winner_are_not_the_same_words(facts: MakeFacts) -> None:
    found: dict[str, Any] = {
        "top": 2,
        "finalists": [1, 0],
        "seeds": [1, 2],
        "rows": 359,
        "metric": "accuracy",
        "candidates": [
            {"trial": 1, "mean": 0.8, "spread": 0.01, "failures": []},
            {"trial": 0, "mean": 0.79, "spread": 0.02, "failures": []},
        ],
        "chosen": 1,
        "tied": [0],
        "versus": [{"trial": 0, "difference": 0.01, "low": 0.0, "high": 0.02, "probability": 0.6}],
    }
    trials = [trial(0, 0.79, params={"rank": 16}), trial(1, 0.80)]
    tie = "a tie with trial 0 on 2 fresh seeds; it "
    assert f"{tie}has the best mean, and no cheaper one is within a standard error of it" in answer(
        facts(trials=trials, confirmation={**found, "leader": 1})
    )
    assert f"{tie}is the cheapest within a standard error of the best mean" in answer(
        facts(trials=trials, confirmation={**found, "leader": 0})
    )
    apart = facts(trials=trials, confirmation={**found, "tied": []})
    assert "confirmed as the winner on 2 fresh seeds" in answer(apart)
    assert "0.800 ± 0.010" in page_of(apart).text
    due = facts(trials=trials, confirmation_rows=359)
    assert "not confirmed yet" in answer(due)


def test_a_winner_that_is_none_is_said(facts: MakeFacts) -> None:
    test = {"trial": 1, "rows": 100, "winner": scored(0.1), "base": scored(0.1), "majority": scored(0.1)}
    assert "cannot be told from the untuned base" in answer(facts(test=test))


@pytest.mark.parametrize("is_running", [True, False])
def test_a_study_without_trials(facts: MakeFacts, is_running: bool) -> None:
    found = nothing_of(facts(is_running=is_running))
    page, text = page_of(found), markdown(content(found))
    for said in (page.text, text):
        assert "No trial is complete yet, so there is nothing to say of the best." in said
        assert ("The study is running" if is_running else "The study has no trials yet") in said
    assert "There is no winner to export" in page.text
    assert "rerun" not in page.text


def test_a_study_whose_trials_all_failed(facts: MakeFacts) -> None:
    failed = [trial(number, None, state="FAIL", detail="in flight at 3 crashes of the worker") for number in range(3)]
    text = page_of(facts(trials=failed)).text
    assert "Trials 0, 1, 2 failed: in flight at 3 crashes of the worker." in text
    assert "defect 3 an error that no hyperparameter caused" in text


def test_while_it_runs_and_where_it_ended_early(facts: MakeFacts) -> None:
    found = facts(is_running=True)
    assert re.match(
        r"The study is running: 7 of 16 trials have ended \(.*\), as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+\.",
        found.state,
    )
    assert "has cost" in answer(found)
    assert "so far." in answer(found)
    stopped = facts("budget.usd=0.5")
    ended = Ended("budget.usd", "$0.51 of budget.usd=0.5").kept(stopped.config, is_closed=True)
    stopped = facts("budget.usd=0.5", ended=ended)
    assert "The study ended before its total: $0.51 of budget.usd=0.5." in page_of(stopped).text
    booted = facts("budget.hours=1", price=replace(PRICE, boot_s=3600.0))  # which is no worker's hour
    assert "0.0289 device hours of budget.hours=1" in page_of(booted).text
    assert facts("budget.usd=0.5").state.startswith("The study is not finished, and the same launch goes on with it")


def test_why_the_last_session_ended(facts: MakeFacts) -> None:
    found = facts()
    found.paths.workers.mkdir(parents=True, exist_ok=True)
    found.paths.write_outcome(
        0,
        {
            "pid": 1,
            "status": "error",
            "kind": "DataError",
            "message": "train.csv:17 is empty\nmore",
            "trace": "File /x.py",
        },
    )
    assert "ended with an error. DataError: train.csv:17 is empty" in page_of(found).text
    assert "more" not in str(replace(found).last_error)
    found.paths.write_outcome(
        0, {"pid": 1, "status": "error", "kind": "RuntimeError", "message": "a row", "trace": "File /x.py"}
    )
    text = page_of(replace(found)).text
    assert "RuntimeError: message and trace are in the study's logs/worker-0.log" in text
    assert "/x.py" not in text


def test_what_changed_and_what_was_found_in_the_rows(facts: MakeFacts) -> None:
    found = facts()
    found.paths.changes.write_text(
        "- {time: '2026-11-26 06:00:00', trials: 3, changes: [{key: search.trials, was: 8, now: 16}], "
        "versions: ['torch 2.10.0 → 2.11.0'], defaults: [evaluation.rows]}\n"
    )
    finding = {
        "code": "near-leak-test",
        "severity": "allowed",
        "message": "5 rows are alike",
        "count": 5,
        "places": ["a:1"],
    }
    splits = {"train": {"rows": 2400}, "test": {"rows": 1000}}
    found.paths.data.write_text(
        json.dumps({"sha256": "ab12", "splits": splits, "labels": {"x": 3}, "findings": [finding]})
    )
    text = page_of(found).text
    assert "2026-11-26 06:00:00 3 search.trials 8 16" in text
    assert "version of torch 2.10.0 2.11.0" in text
    assert "evaluation.rows no such setting its default" in text
    assert "near-leak-test, allowed: 5 rows are alike (a:1, …)" in text
    assert "2,400 train, 1,000 test" in text
    assert "ab12" in text


def test_without_a_price_there_are_seconds(facts: MakeFacts) -> None:
    text = page_of(facts(price=None)).text
    assert "without a price" in text
    assert "$" not in text


def test_pictures_are_in_the_page_with_their_sentence(facts: MakeFacts) -> None:
    shown = Figure("memory", "Memory", 'He said "much" & more', Image("svg", b"<svg/>"), Image("png", b"\x89PNG"))
    page = page_of(facts(), shown)
    [image], [dark] = page.all("img"), page.all("source")
    assert image == {"src": "data:image/svg+xml;base64,PHN2Zy8+", "alt": 'He said "much" & more'}
    assert dark == {"media": "screen and (prefers-color-scheme: dark)", "srcset": "data:image/png;base64,iVBORw=="}
    text = markdown(content(facts(), [shown]), "pictures")
    assert '![He said "much" &#38; more](pictures/memory.png)' in text
    assert "pictures/" not in markdown(content(facts(), [shown]))


def test_a_page_needs_nothing_but_itself(facts: MakeFacts) -> None:
    source = html(content(facts()))
    page = Page(source)
    assert not page.all("script")
    assert not re.search(r"(src|href|url)\W{0,3}(https?:)?//", source)
    assert page.all("html") == [{"lang": "en"}]
    assert {attributes["scope"] for attributes in page.all("th")} == {"col", "row"}
    assert len(page.all("caption")) == len(page.all("table"))


def test_many_trials_are_bounded(facts: MakeFacts) -> None:
    many = [trial(number, number / 2000) for number in range(1500)]
    source = html(content(facts(trials=many)))
    assert "The best 1000 of 1500 trials" in source
    assert len(source) < 2_000_000


def test_a_report_that_leaves_home_has_no_folders_of_this_machine(facts: MakeFacts, tmp_path: Path) -> None:
    """In its tables none has; the launch that does it again needs them, as long as it stays where they are."""
    rows, base = tmp_path / "our own rows" / "tickets.jsonl", tmp_path / "our own rows" / "bases" / "small"
    found = facts(f"data.path={spoken(str(rows))}", f"model.path={spoken(str(base))}")
    for made, is_told in ((found, True), (replace(found, leaves_home=True), False)):
        text = page_of(made).text
        assert " (small), quantisation" in text
        assert ", tickets.jsonl " in text
        told = ("our own rows" in text, "…/" not in text, str(tmp_path) in text)
        assert told == (True, is_told, is_told)
        assert str(tmp_path) not in text.partition("Do it again")[0]
    for said in (
        'data.path="…/our own rows/tickets.jsonl"',
        'model.path="…/bases/small"',
        "`sweeper report demo` there",
    ):
        assert said.replace("`", "") in text
