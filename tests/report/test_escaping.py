"""Whatever a person calls things, a report shows it as text."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest

from sweeper.report.again import quoted
from sweeper.report.content import Table
from sweeper.report.html import html
from sweeper.report.markdown import escaped, fenced, inline, markdown, table
from sweeper.report.note import note
from sweeper.report.report import content
from sweeper.report.text import plain
from tests.launch.test_tables import trial
from tests.report.conftest import MakeFacts
from tests.report.test_report import Page

NASTY = "<script>alert('1')</script> \"a\" & b | `c` ` [x](javascript:y) ![i](z) $1 *d* _e_ \x1b[31m\u202eend\n# head"
TOKEN = "hf_" + "Zq7" * 11


def test_everything_a_person_has_named(facts: MakeFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "kestrel <over> moorland")
    found = facts(f"study.description={TOKEN[:3]}", "search.enqueue=[]")
    config = found.config.model_copy(
        update={
            "study": found.config.study.model_copy(update={"description": f"{NASTY} {TOKEN}"}),
            "lora": found.config.lora.model_copy(update={"target_modules": NASTY}),
        }
    )
    trials = [
        trial(0, 0.8, params={NASTY: NASTY, "rank": 8}),
        trial(1, None, state="FAIL", detail=f"{NASTY} {TOKEN} kestrel <over> moorland"),
        trial(2, None, reason="wrecked", detail=NASTY),
    ]
    found = replace(found, config=config, seen=replace(found.seen, trials=trials))
    found.paths.data.write_text('{"labels": {"<b>": 1}, "splits": {}, "findings": []}')
    made = content(found)
    page = Page(html(made))
    assert not page.all("script")
    assert not page.all("b")
    assert "<script>alert('1')</script>" in page.text
    texts = html(made), markdown(made), note(found, 8000)
    for text in texts:
        assert TOKEN not in text
        assert "kestrel" not in text
        assert "\x1b" not in text
    own = re.sub(r"```.*?```", "", markdown(made), flags=re.DOTALL)  # commands are between fences
    own = re.sub(r"`[^`\n]+`", "", own)  # and names between backticks
    assert "<script" not in own
    assert "](javascript" not in own
    rows = [line for line in own.splitlines() if line.startswith("|")]
    for before, line in pairwise(rows):
        if "---" in line:
            assert before.count("|") == line.count("|")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a&#124;b"),
        ("<b>", "&#60;b&#62;"),
        ("learning_rate", "learning_rate"),
        ("_a_", "&#95;a&#95;"),
        ("- a", "&#45; a"),
        ("1. a", "&#49;. a"),
        ("0.5 ± 0.1", "0.5 ± 0.1"),
        ("# a", "&#35; a"),
        ("$1 to $2", "&#36;1 to &#36;2"),
        ("a\n\n# b", "a &#35; b"),
        ("back\\slash ` tick", "back&#92;slash &#96; tick"),
    ],
)
def test_markdown_is_text(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_names_and_commands_are_code() -> None:
    assert inline("see `sweeper errors a|b` and a|b") == "see `sweeper errors a|b` and a&#124;b"
    assert table(Table("", ("a|b",), (("`c|d`",),), strong=0)) == "| a&#124;b |\n| --- |\n| **`c\\|d`** |"
    assert fenced("echo ```") == "````sh\necho ```\n````"


def test_a_text_is_one_line_without_what_steers_a_terminal() -> None:
    assert plain("a\x1b[31m\n\tb\u202e c") == "a [31m b c"


def test_a_description_keeps_within_its_limit(facts: MakeFacts) -> None:
    found = facts()
    section = found.config.study.model_copy(update={"description": "# My study\n\n" + "long " * 4000})
    long = replace(found, config=found.config.model_copy(update={"study": section}))
    text = note(long, 8000)
    assert len(text) == 8000
    assert text.startswith("# My study\n\nlong ")  # a person's Markdown is theirs
    assert "… (cut)\n\n**So far the best is trial 1" in text
    assert text.endswith("sweeper export demo --to my-adapter\n```")
    wide = [trial(number, 0.8, params={"target_modules": "m" * 3000}) for number in range(5)]
    text = note(replace(long, seen=replace(long.seen, trials=wide)), 8000)
    assert len(text) <= 8000
    assert "The best trials have parameters too long to be shown here." in text


def test_a_command_hides_nothing() -> None:
    word = "key=a\x1b[31m'\\\u202e\n"
    assert quoted("a b") == "'a b'"
    assert quoted(word).isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True).stdout
    assert said.decode() == word
