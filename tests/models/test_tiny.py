from __future__ import annotations

from sweeper.data import tickets
from sweeper.models.tiny import build


def test_the_base_has_never_seen_a_split_or_an_answer() -> None:
    conversations = build.conversations(3000)
    held_out = {row["text"] for rows in tickets.splits().values() for row in rows}
    for conversation in conversations:
        user, _, reply = conversation.removeprefix("<|user|>\n").partition("<|end|>\n<|assistant|>\n")
        assert user not in held_out
        assert not any(label in reply.lower() for label in tickets.labels())
    assert len(set(conversations)) > 2900


def test_every_category_has_replies() -> None:
    assert set(build.REPLIES) == set(tickets.labels())


def test_the_standard_library_gives_text() -> None:
    texts = build.standard_library_text()
    assert len(texts) > 1000
    assert sum(map(len, texts)) > 1_000_000
