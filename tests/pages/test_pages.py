"""Whatever a page names is there: files, headings, commands, options, keys."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from sweeper.cli.main import main
from sweeper.config import compose, groups
from sweeper.config.schema import Config
from tests.pages.written import PAGES, README, ROOT, anchors, commands, named, of_sweeper

# Names that stand for a reader's own, or for one that is made when a program runs.
STANDS_FOR = re.compile(r"NAME|CARD|STUDY|helpdesk|tickets-may|…|\*|\.env$")
COMPOSED = ("launch", "plan")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = page if not file else (page.parent / file).resolve()
        assert found.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(found / "README.md" if found.is_dir() else found), (
            f"{target}: no heading"
        )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file in re.findall(r"`((?:conf|docker|studies|sweeper|tests)/[^`\s]*)`", text):
        assert STANDS_FOR.search(file) or (ROOT / file.partition("::")[0]).exists(), f"{file}: no such file"


def test_every_page_is_linked_from_the_readme() -> None:
    """Or from a page that is."""
    seen, left = set(), [README]
    while left:
        page = left.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            file = (page.parent / target).resolve()
            file = file / "README.md" if file.is_dir() else file
            if file.suffix == ".md" and file.is_file() and file not in seen:
                left.append(file)
    assert sorted(map(named, set(PAGES) - seen)) == []


GIVEN = [
    pytest.param(page, arguments, id=f"{named(page)}: {' '.join(arguments)}"[:110])
    for page in PAGES
    for command in commands(page)
    for arguments in of_sweeper(re.sub(r"\$(seed|trial)\b", "3", command))  # of a loop in the shell
]


@pytest.mark.parametrize(("page", "arguments"), GIVEN)
def test_a_command_is_one(page: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has options and keys that there are: none is run, but what a launch or a plan would go by is composed."""
    monkeypatch.chdir(tmp_path)
    if arguments and arguments[0] in COMPOSED:
        _is_composed(arguments[1:])
    else:
        _is_parsed(main, arguments)


def _is_composed(arguments: list[str]) -> None:
    bundled = groups.bundled_studies()
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "study" and value not in bundled:  # a reader's own
            argument = "study=demo"
        if argument != "--json":
            overrides.append(argument)
    if any(argument in overrides for argument in ("study=banking77", "study=qa-techdoc")):
        overrides = (
            [*overrides] if any("data.path" in argument for argument in overrides) else [*overrides, "data.path=x"]
        )
    configs: list[Config] = []
    compose.main(overrides, configs.append)


def _is_parsed(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    try:
        context = command.make_context(command.name, list(arguments), parent)
    except click.exceptions.Exit:  # after --help
        return
    except click.BadParameter as error:
        if "does not exist" in str(error):  # a file of the reader
            return
        raise
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if rest:
            _is_parsed(command.commands[rest[0]], rest[1:], context)


def test_most_of_the_commands_are_found() -> None:
    """Or the tests above would pass for pages that they do not understand."""
    written = sum(
        line.lstrip().startswith("sweeper ") for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()
    )
    assert len(GIVEN) > 100
    assert len(GIVEN) >= written - 3
