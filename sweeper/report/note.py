"""The description of a study's run in MLflow: what its settings say of it, and then the answer, in Markdown."""

from __future__ import annotations

from sweeper.redaction import redacted
from sweeper.report.answer import answer, trial_table
from sweeper.report.facts import Facts
from sweeper.report.markdown import fenced, inline, table

BEST = 5  # trials that it shows
_CUT = "… (cut)"
_NO_ROOM = "The best trials have parameters too long to be shown here."


def note(facts: Facts, limit: int) -> str:
    """The description, of at most `limit` characters.

    Too much is cut where a reader sees it: first of `study.description`, which is Markdown and stays as it is
    written, then the table.
    """
    own = redacted(facts.config.study.description).strip()
    own = "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in own)
    head, tail = f"**{inline(answer(facts))}** {inline(facts.state)}", _commands(facts)
    best = facts.seen.ranked[:BEST]
    shown = [table(trial_table(facts, best, ""))] if best else []
    rest = "\n\n".join([head, *shown, tail])
    if len(rest) > limit:
        rest = "\n\n".join([head, _NO_ROOM, tail])
    room = limit - len(rest) - 2
    if len(own) > room:
        own = own[: max(0, room - len(_CUT))] + _CUT if room > len(_CUT) else ""
    return f"{own}\n\n{rest}"[-limit:] if own else rest[:limit]


def _commands(facts: Facts) -> str:
    lines = [f"sweeper report {facts.name}"]
    if facts.best is not None:
        lines.append(f"sweeper export {facts.name} --to my-adapter")
    return fenced("\n".join(lines))
