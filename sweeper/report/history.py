"""What was known of the rows, what changed on the way, and where and with what it ran."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeper import versions
from sweeper.report.content import Block, Section, Table, bullets, paragraphs
from sweeper.report.facts import Facts


def data_section(facts: Facts) -> Section:
    """What the data doctor said."""
    findings = facts.data.get("findings", [])
    if not findings:
        said = "No warnings." if facts.data else "What was found in the rows was not kept."
        return Section("data", "Warnings of the rows", paragraphs([said]))
    return Section("data", "Warnings of the rows", bullets([_in_words(one) for one in findings]))


def _in_words(finding: dict[str, Any]) -> str:
    """A finding and where to look for it; its message has nothing of the rows."""
    places, count = finding["places"], finding["count"]
    more = ", …" if count > len(places) > 0 else ""
    where = f" ({', '.join(map(str, places))}{more})" if places else ""
    allowed = "" if finding["severity"] == "warning" else f", {finding['severity']}"
    return f"`{finding['code']}`{allowed}: {finding['message']}{where}"


def changes_section(facts: Facts) -> Section:
    """What later launches changed, which versions did, and on what it ran."""
    blocks: tuple[Block, ...] = ()
    rows = tuple(_changes(facts))
    if rows:
        columns = ("when", "after trials", "what", "was", "is")
        blocks += (Table("What later launches changed", columns, rows, frozenset({1})),)
    first = facts.seen.attributes.get("versions")
    lines = []
    if first is not None:
        lines.append(f"Begun with {versions.in_words(first)}.")
    devices = dict.fromkeys(session.device for session in facts.cost.sessions)
    if devices:
        lines.append(f"Ran on {', then '.join(devices)}.")
    return Section("changes", "What changed, and on what it ran", (*blocks, *bullets(lines)))


def _changes(facts: Facts) -> Iterator[tuple[str, ...]]:
    for entry in facts.changes:
        when = str(entry["time"]), str(entry["trials"])
        for change in entry["changes"]:
            yield (*when, change["key"], str(change["was"]), str(change["now"]))
        for words in entry.get("versions", []):
            name, _, what = words.partition(" ")
            was, _, now = what.partition(" → ")
            yield (*when, f"version of {name}", was, now)
        for key in entry.get("defaults", []):
            yield (*when, key, "no such setting", "its default")
