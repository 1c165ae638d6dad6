"""What the project's pages say: their links, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    + [page for folder in ("conf", "docker", "studies", "sweeper") for page in (ROOT / folder).rglob("*.md")]
)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> Iterator[str]:
    """The code of a page in a language, in its order."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        yield found[1]


def commands(page: Path) -> list[str]:
    """The lines for a shell, those that go on joined to one, without comments."""
    lines = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = without_comment(line)
            if words:
                lines.append(words)
    return lines


def without_comment(line: str) -> str:
    """A shell's line up to the `#` that begins a word outside quotes."""
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at].strip()
    return line.strip()


def of_sweeper(command: str) -> list[list[str]]:
    """The arguments of each `sweeper` in a line, wherever its output goes."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    begins, inside = True, False
    words = list(lexer)
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("&&", "||", ";", "|", "do"):
            begins, inside = True, False
        elif word in ("<", ">", ">>") or (inside and after in ("<", ">")):
            inside = inside and word not in ("<", ">", ">>")
            if inside:
                found[-1].append(word)
        elif begins and word == "sweeper":
            found.append([])
            begins, inside = False, True
        elif begins and re.fullmatch(r"[A-Z_]+=.*", word):
            continue
        elif inside:
            found[-1].append(word)
        else:
            begins = False
    return found


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`, as GitHub makes it of a heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
