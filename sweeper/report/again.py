"""What to do with it: the next steps, the adapter, and the very launch that does it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sweeper.config.reproduce import for_others, launch_of, without_places
from sweeper.report.content import Block, Bullets, Code, Section, bullets, paragraphs
from sweeper.report.facts import Facts
from sweeper.report.verdict import advice

LINE = 100  # characters of a command, beyond which each argument has a line


def next_section(facts: Facts) -> Section:
    """What to try next, and how to take the adapter home."""
    steps = advice(facts.seen, facts.config, facts.paths)
    blocks: tuple[Block, ...] = bullets(steps)
    if not facts.is_finished and not facts.is_running:
        blocks += paragraphs(
            ["The study has not come to its end; the command under “Do it again” goes on in its own store."]
        )
    if not blocks:
        blocks = paragraphs(
            ["Nothing that the study's own evidence says." if facts.is_finished else "It is not over yet."]
        )
    return Section("next", "What to try next", blocks)


def export_section(facts: Facts) -> Section:
    name, best = facts.name, facts.best
    if best is None:
        return Section("export", "Take it home", paragraphs(["There is no winner to export."]))
    lines = (f"export {name} --to my-adapter", "predict my-adapter < rows.jsonl", "serve my-adapter")
    commands = "\n".join(f"sweeper {line}" for line in lines)
    words = (
        "The folder is scored again, as whoever gets it loads it, before it is written. `--format merged` makes a "
        "whole model of it; `--trial N` takes another one that is kept."
    )
    return Section("export", "Take it home", (Code(commands), *paragraphs([words])))


def reproduce_section(facts: Facts) -> Section:
    """The launch that composes the study's settings, in a store of its own; and how to train one trial again."""
    launch = launch_of(facts.config)
    arguments, missed = launch.arguments, tuple(map(str, launch.missed))
    if facts.leaves_home:
        arguments = for_others(arguments, facts.config)
        missed = tuple(without_places(text, facts.config) for text in missed)
    blocks: tuple[Block, ...] = (*paragraphs(["The same search, in another store:"]), Code(command(arguments)))
    if any("…/" in argument for argument in arguments) and arguments != launch.arguments:
        words = f"`…/` stands for folders of the machine that it ran on; `sweeper report {facts.name}` there has them."
        blocks += paragraphs([words])
    if missed:
        blocks += (
            *paragraphs(["It is not quite the same, since these cannot be said on a command line:"]),
            Bullets(missed),
        )
    rerun = [f"sweeper rerun {facts.name} --trial {facts.best.number}"] if facts.best is not None else []
    if rerun:
        blocks += (*paragraphs(["One trial again, as it was, compared with what was recorded:"]), Code(rerun[0]))
    words = f"The settings are whole in the study's `{facts.paths.config.name}`, and among the artifacts of its run."
    return Section("reproduce", "Do it again", (*blocks, *paragraphs([words])))


def command(arguments: Sequence[str]) -> str:
    """The launch as a shell takes it, a line for each argument where it is long."""
    words = ["SWEEPER_HOME=another-store", "sweeper", "launch", *map(quoted, arguments)]
    line = " ".join(words)
    return line if len(line) <= LINE else " ".join(words[:3]) + "".join(f" \\\n  {word}" for word in words[3:])


def quoted(word: str) -> str:
    """A word for a shell; what is not printable, and would be copied unseen, in the escapes of bash and zsh."""
    if word.replace("\n", "").replace("\t", "").isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escape, word)) + "'"


def _escape(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
