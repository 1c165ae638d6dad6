"""Shell completion: `sweeper completion SHELL` prints the script, which asks this module at each press of Tab.

Commands and options are click's own. Studies are the folders of the store; settings of a launch are the groups with
their options and the keys of the schema, found without Hydra and whatever else would take a second to import.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from sweeper.paths import Home

VARIABLE = "_SWEEPER_COMPLETE"  # click makes it of the command's name
# Hydra's flags, and the values of those that have some.
FLAGS = {
    "--json": (),
    "--help": (),
    "--cfg": ("job",),
    "--info": ("all", "config", "defaults", "defaults-tree", "searchpath"),
    "--config-dir": (),
}
_PATHS = ("data.path", "model.path", "store.home")  # keys whose value the shell completes by itself
Item = CompletionItem[str]


class Overriding(click.Command):
    """A command whose arguments are a launch's: of options it has Hydra's."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Item]:
        own = super().shell_complete(ctx, incomplete)
        named = {item.value for item in own}
        return [*own, *_items((flag for flag in FLAGS if flag not in named), incomplete)]


def study_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """The studies of the store, but for those that are there already."""
    given = ctx.params.get(parameter.name or "") or ()
    try:
        names = sorted(folder.parent.name for folder in Home.from_environment().studies.glob("*/config.yaml"))
    except OSError:
        return []
    return _items((name for name in names if name not in (given if isinstance(given, tuple) else ())), incomplete)


def studies_or_folders(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """The studies of the store; where none begins like that, folders."""
    return study_names(ctx, parameter, incomplete) or [CompletionItem(incomplete, type="dir")]


def studies_or_settings(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """The studies of the store, and settings of a launch."""
    return [*study_names(ctx, parameter, incomplete), *settings(ctx, parameter, incomplete)]


def files_or_settings(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """Settings of a launch; where none begins like that, files."""
    return settings(ctx, parameter, incomplete) or [CompletionItem(incomplete, type="file")]


def settings(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """What a launch may be told: `GROUP=OPTION`, `KEY=VALUE`, and a key's beginning up to its next dot."""
    before = ctx.params.get(parameter.name or "") or ()
    if before and FLAGS.get(before[-1]):
        return _items(FLAGS[before[-1]], incomplete)
    if before and before[-1] == "--config-dir":
        return [CompletionItem(incomplete, type="dir")]
    key, sign, value = incomplete.partition("=")
    mark = key[: len(key) - len(key.lstrip("+~"))]  # Hydra's, to add a key or to take one out
    if not sign:
        return _items((f"{mark}{name}" for name in _keys(key.removeprefix(mark))), incomplete)
    if key == "study" and value.startswith(("/", ".", "~")):
        return [CompletionItem(value, type="dir")]
    if key in _PATHS:
        return [CompletionItem(value, type="file")]
    return _items((f"{key}={word}" for word in _words(key.removeprefix(mark))), incomplete)


def options_of(group: str) -> Any:
    """Completes the options of one group of conf/."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
        from sweeper.config.groups import option_names

        return _items(option_names(group), incomplete)

    return complete


def _items(words: Iterable[str], incomplete: str) -> list[Item]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _keys(begun: str) -> list[str]:
    """Groups, sections and keys at the top; below, the keys of the section that is begun."""
    from sweeper.config.groups import GROUPS
    from sweeper.config.keys import known_keys
    from sweeper.config.space import PARAMETERS

    known = known_keys() | {f"search.space.{name}" for name in PARAMETERS}
    sections = {key.rpartition(".")[0] for key in known}
    leaves = sorted(known - sections)
    if "." in begun:
        return [f"{key}=" for key in leaves if "." in key]
    tops = sorted({key.partition(".")[0] for key in known if "." in key})
    return [
        *(f"{group}=" for group in GROUPS),
        *(f"{top}." for top in tops),
        *(f"{key}=" for key in leaves if "." not in key),
    ]


def _words(key: str) -> list[str]:
    """The values of a group or a key that can be named."""
    from sweeper.config.groups import GROUPS, option_names
    from sweeper.config.keys import fields, words

    if key == "study":  # of one's own those that `sweeper init` drafts
        return [*option_names(key), *sorted(str(file.parent) for file in Path("studies").glob("*/config.yaml"))]
    if key in GROUPS:
        return option_names(key)
    return list(dict.fromkeys(word for field in fields().get(key, []) for word in words(field)))


@add_completion_class
class Bash(BashComplete):
    """Bash takes `study=demo` for three words, of which only the last is to be completed."""

    # No space behind what goes on.
    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *[=.] ]] && compopt -o nospace"
    )
    _begun = ""  # of the word, what Bash does not replace

    def get_completion_args(self) -> tuple[list[str], str]:
        words: list[str] = []
        is_value = False
        for word in split_arg_string(os.environ["COMP_WORDS"])[: int(os.environ["COMP_CWORD"]) + 1]:
            if words and (word == "=" or is_value):
                words[-1] += word
                is_value = word == "="
            else:
                words.append(word)
        count = int(os.environ["COMP_CWORD"]) + 1
        is_new = len(split_arg_string(os.environ["COMP_WORDS"])) < count and not is_value
        incomplete = "" if is_new or len(words) < 2 else words.pop()
        self._begun = incomplete[: incomplete.rfind("=") + 1]
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value.removeprefix(self._begun)}"


@add_completion_class
class Zsh(ZshComplete):
    """As click's, but with no space behind what goes on."""

    source_template = ZshComplete.source_template.replace(
        "        compadd -U -V unsorted -a completions\n",
        """        local -a begun
        begun=(${(M)completions:#*[=.]})
        completions=(${completions:#*[=.]})
        [ -n "$begun" ] && compadd -U -S '' -V unsorted -a begun
        [ -n "$completions" ] && compadd -U -V unsorted -a completions
""",
    )


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes at Tab.

    Commands, options, studies of the store, and settings of a launch with their values. What puts it in place, in the
    shell of that name:

    \b
      echo 'eval "$(sweeper completion bash)"' >> ~/.bashrc
      echo 'eval "$(sweeper completion zsh)"' >> ~/.zshrc       (behind compinit)
      sweeper completion fish > ~/.config/fish/completions/sweeper.fish

    bash must be 4.4 or newer. It takes effect in the next shell.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "sweeper", VARIABLE).source(), nl=False)
