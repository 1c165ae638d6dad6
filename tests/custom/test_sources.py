"""Which files a study's own code is, and what of the interpreter it touches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweeper.custom.code import Code
from sweeper.custom.sources import Sources, kept_sha256
from sweeper.errors import ConfigError, CustomCodeError

KEY = "objective.metric._target_"


def write(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def found(folder: Path, target: str = "scoring.cost") -> Sources:
    return Sources.of(folder, {KEY: target})


def test_what_a_module_reaches_is_hashed_and_nothing_else(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        scoring="import json, prices\ndef cost():\n    from parts import late\n    return late.VALUE + prices.VALUE",
        prices="VALUE = 1",
        parts__init="",
        parts__late="from . import deep\nVALUE = deep.VALUE",
        parts__deep="VALUE = 2",
        unrelated="VALUE = 3",
    )
    (folder / "parts/init.py").rename(folder / "parts/__init__.py")
    sources = found(folder)
    assert set(sources.files) == {"scoring.py", "prices.py", "parts/__init__.py", "parts/late.py", "parts/deep.py"}
    code = Code(sources)
    assert code.call("cost", code.find("scoring.cost")) == 3
    write(folder, unrelated="VALUE = 4")
    assert found(folder).sha256 == sources.sha256
    write(folder, parts__deep="VALUE = 5")
    assert found(folder).sha256 != sources.sha256


def test_a_copy_is_the_same_code_and_says_where_it_came_from(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "own", scoring="import prices\ndef cost():\n    return prices.VALUE / 0", prices="VALUE = 1"
    )
    sources = found(folder)
    sources.keep(tmp_path / "code")
    write(folder, scoring="raise SystemExit", prices="")
    kept = Sources.kept(tmp_path / "code", folder, {KEY: "scoring.cost"})
    assert kept.sha256 == sources.sha256
    code = Code(kept)
    with pytest.raises(CustomCodeError, match=rf'File "{folder}/scoring.py", line 3, in cost'):
        code.call("cost failed", code.find("scoring.cost"))


def test_the_interpreter_is_left_as_it_was(tmp_path: Path) -> None:
    """Two studies may have modules of one name, and a library finds nothing of either."""
    path, before = list(sys.path), set(sys.modules)
    values = []
    for name in ("a", "b"):
        folder = write(tmp_path / name, scoring="import prices\ndef cost():\n    import late\n    return late.VALUE",
                       prices="", late=f"VALUE = {name!r}")  # fmt: skip
        code = Code(found(folder))
        function = code.find("scoring.cost")
        values += [code.call("cost", function), code.call("cost", function)]
    assert values == ["a", "a", "b", "b"]
    assert sys.path == path
    assert not {"scoring", "prices", "late"} & (set(sys.modules) - before)
    assert not list(tmp_path.rglob("__pycache__"))
    with pytest.raises(ModuleNotFoundError):
        __import__("prices")


def test_a_file_never_takes_the_place_of_a_library(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        scoring="import json, yaml\ndef cost():\n    return json.loads(yaml.safe_dump(1).split()[0])",
        yaml="raise RuntimeError",
        json="raise RuntimeError",
    )
    sources = found(folder)
    assert set(sources.files) == {"scoring.py"}
    code = Code(sources)
    assert code.call("cost", code.find("scoring.cost")) == 1
    for name in ("yaml", "json"):
        with pytest.raises(ConfigError, match=rf"_target_: .*{name}\.py has that of `{name}`; rename it"):
            found(folder, f"{name}.cost")


def test_a_module_that_is_nowhere_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    write(tmp_path, scoring="")
    with pytest.raises(ConfigError, match=r"there is no score in .* \(scoring\.py\), nor is it installed"):
        found(tmp_path, "score.cost")
    with pytest.raises(ConfigError, match=r"study\.folder, which is null"):
        Sources.of(None, {KEY: "score.cost"})
    with pytest.raises(CustomCodeError, match=r"scoring\.py: unknown name `cost`"):
        Code(found(tmp_path)).find("scoring.cost")


def test_an_installed_module_is_hashed_where_it_is() -> None:
    sources = found(Path("/nowhere"), "tests.custom.samples.cost")
    assert (dict(sources.files), list(sources.installed)) == ({}, ["tests.custom.samples"])
    assert len(sources.sha256) == 64


def test_a_trace_has_the_users_own_lines_alone(tmp_path: Path) -> None:
    text = "import json\n\ndef cost():\n    return json.loads('[')\n\ndef over():\n    raise SystemExit(3)\n"
    code = Code(found(write(tmp_path, scoring=text)))
    with pytest.raises(CustomCodeError) as caught:
        code.call("the metric failed", code.find("scoring.cost"))
    first, *trace, last = str(caught.value).splitlines()
    assert first == "the metric failed:"
    assert trace[:2] == [f'  File "{tmp_path}/scoring.py", line 4, in cost', "    return json.loads('[')"]
    assert trace[-1].startswith("json.decoder.JSONDecodeError: ")
    assert sum("File" in line for line in trace) == 1
    assert last == "Mend it, and run the same command again"
    with pytest.raises(CustomCodeError, match="SystemExit: 3"):
        code.call("the metric failed", code.find("scoring.over"))
    (tmp_path / "scoring.py").write_text("def cost():\n    return (\n")
    with pytest.raises(CustomCodeError, match=r'could not be imported:\n  File ".*scoring.py", line 2\n'):
        Code(found(tmp_path)).find("scoring.cost")


def test_an_installed_module_that_changes_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = write(tmp_path / "installed", their_scoring="def cost(rows, said): return 1.0\n")
    monkeypatch.syspath_prepend(str(installed))
    found(Path("/nowhere"), "their_scoring.cost").keep(tmp_path / "code")
    assert kept_sha256(tmp_path / "code") == found(Path("/nowhere"), "their_scoring.cost").sha256
    write(installed, their_scoring="def cost(rows, said): return 2.0\n")
    assert kept_sha256(tmp_path / "code") != found(Path("/nowhere"), "their_scoring.cost").sha256
    assert kept_sha256(tmp_path / "nowhere") is None


def test_a_study_may_be_launched_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, scoring="def cost(): return 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Code(found(tmp_path, "scoring.cost")).find("scoring.cost")() == 0.5


def test_a_trace_has_no_text_of_a_row(tmp_path: Path) -> None:
    text = """
def cost(rows):
    try:
        return int(rows[0]["text"])
    except ValueError:
        return rows[1]
"""
    code = Code(found(write(tmp_path, scoring=text)))
    with pytest.raises(CustomCodeError) as caught:
        code.call("the metric failed", code.find("scoring.cost"), [{"text": "a planted sentence"}])
    message = str(caught.value)
    assert "planted" not in message
    assert "ValueError: its message quotes the row and is not shown" in message
    assert "IndexError: list index out of range" in message
    assert 'scoring.py", line 6, in cost' in message
