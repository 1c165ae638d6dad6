"""No token or password passes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sweeper.redaction import HIDDEN, RedactedStream, redacted, secret_keys

TOKEN = "hf_" + "Ab1" * 11


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"401 for {TOKEN}.", f"401 for {HIDDEN}."),
        ("postgresql://ann:pa55@db:5432/x", f"postgresql://ann:{HIDDEN}@db:5432/x"),
        ("https://ann:p@55@host/x, https://host/a@b", f"https://ann:{HIDDEN}@host/x, https://host/a@b"),
        ("mlflow at http://127.0.0.1:5000 by user:group", "mlflow at http://127.0.0.1:5000 by user:group"),
        ("a row about hf_models and sk-learn", "a row about hf_models and sk-learn"),
    ],
)
def test_what_has_the_form_of_a_secret(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_the_environments_secrets_wherever_they_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:battery@host")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    (tmp_path / "token").write_text("an-odd-login-token\n", encoding="utf-8")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    text = "correct horse, battery, an-odd-login-token, parallel"
    assert redacted(text) == f"{HIDDEN}, {HIDDEN}, {HIDDEN}, parallel"


@pytest.mark.parametrize("value", ["false", "short"])
def test_a_value_that_is_no_secret_is_not_looked_for(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", value)
    assert redacted(f"it is {value}") == f"it is {value}"


def test_values_within_values() -> None:
    values = {"model": {"path": TOKEN, "rank": 8}, "list": [1, f"a {TOKEN}"]}
    assert list(secret_keys(values)) == ["model.path", "list[1]"]


def test_a_key_is_one_whose_whole_text_is_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "password")
    values = {"prompt": "which password?", "data": {"path": "password"}, "url": "http://ann:secret@host"}
    assert list(secret_keys(values)) == ["data.path", "url"]


def test_a_secret_that_is_written_in_pieces_is_redacted() -> None:
    out = io.StringIO()
    stream = RedactedStream(out)
    for piece in ("one ", TOKEN[:9], TOKEN[9:], " two\nthree ", TOKEN[:20]):
        stream.write(piece)
        stream.flush()
    assert out.getvalue() == f"one {HIDDEN} two\n"
    stream.write(TOKEN[20:])
    stream.finish()
    assert out.getvalue() == f"one {HIDDEN} two\nthree {HIDDEN}\n"
