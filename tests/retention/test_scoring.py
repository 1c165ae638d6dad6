"""Scores against plain forwards of transformers, and what is read of an item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper.config import compose
from sweeper.config.schema import Config
from sweeper.engine.batches import Chunk, Item
from sweeper.engine.pack import Pack
from sweeper.errors import DataError, StoreError
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home
from sweeper.retention.scoring import Encoded, score
from sweeper.retention.suite import load
from sweeper.retention.watch import Watch, in_words
from sweeper.trial import Rhythm
from tests.conftest import random_examples, small_model, trial_params
from tests.retention.conftest import CHOICES, PASSAGES, section


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    configs: list[Config] = []
    compose.main(["study=demo"], configs.append)
    return load_tokenizer(configs[0].model, Home(tmp_path_factory.mktemp("store")))


def pack_of(ranks: list[int], **settings: Any) -> Pack:
    """A small model with adapters that do something."""
    pack = Pack(
        small_model(vocab_size=2048, max_position_embeddings=256),
        ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"],
        random_examples(4),
        pad=0,
        dtype=torch.float64,
        **{"chunk_tokens": 100, **settings},
    )
    for number, rank in enumerate(ranks):
        rhythm = Rhythm(interval_examples=4, evaluations=1, batch_size=4)
        params = trial_params(rank=rank, target_modules=("q_proj", "down_proj"))
        slot, state = pack.new_slot(number, params, rhythm, seed=number)
        for name, tensor in state.tensors["weight"].items():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(tensor, std=0.5, generator=torch.Generator().manual_seed(number))
        pack.admit(slot, state)
    return pack


def plain(model: Any, tokens: list[int], start: int) -> float:
    """The log-likelihood of the tokens from `start` on, by the model's own forward."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return float(sum(logits[place - 1, tokens[place]] for place in range(start, len(tokens))))


def test_scores_are_those_of_the_models_own_forward(files: tuple[Path, Path], tokenizer: Any) -> None:
    encoded = Encoded.of(load(section(*files)), tokenizer, 200)
    pack = pack_of([])
    [found] = score(pack, [0], encoded, with_adapters=False)
    correct = []
    for question, choices, answer in CHOICES:
        asked = f"Question: {question}\nAnswer:"
        start = len(tokenizer(asked)["input_ids"])
        each = [plain(pack.model, tokenizer(f"{asked} {c}")["input_ids"], start) / len(c) for c in choices]
        correct.append(float(int(np.argmax(each)) == answer))
    assert found.correct.tolist() == correct
    tokens = [tokenizer(text)["input_ids"] for text in PASSAGES]
    assert found.nll == pytest.approx([-plain(pack.model, row, 1) for row in tokens], rel=1e-9)
    assert found.tokens.tolist() == [len(row) - 1 for row in tokens]


def test_adapters_score_together_as_alone(files: tuple[Path, Path], tokenizer: Any) -> None:
    encoded = Encoded.of(load(section(*files)), tokenizer, 200)
    ranks = [4, 8, 32]
    together = score(pack_of(ranks), [0, 1, 2], encoded)
    assert len({float(found.nll.sum()) for found in together}) == 3
    for index in range(len(ranks)):  # of the whole pack, the one alone, in other parts
        pack = pack_of(ranks, chunk_tokens=10_000)
        [alone] = score(pack, [index], encoded)
        assert alone.nll == pytest.approx(together[index].nll, rel=1e-9)
        assert alone.correct.tolist() == together[index].correct.tolist()
    [untuned] = score(pack_of(ranks), [0], encoded, with_adapters=False)
    [bare] = score(pack_of([]), [0], encoded, with_adapters=False)
    assert untuned.nll == pytest.approx(bare.nll, rel=1e-9)


def test_no_more_positions_than_rows_go_through_the_head_at_once(
    files: tuple[Path, Path], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of scoring is foretold with one position for each row."""
    pack = pack_of([8], chunk_tokens=150)
    hidden, logits = pack.head.hidden, pack.head.logits
    rows: list[int] = []

    def counted_hidden(chunk: Chunk) -> torch.Tensor:
        rows.append(len(chunk.items))
        return hidden(chunk)

    def counted_logits(of: torch.Tensor) -> torch.Tensor:
        assert len(of) <= rows[-1]
        return logits(of)

    monkeypatch.setattr(pack.head, "hidden", counted_hidden)
    monkeypatch.setattr(pack.head, "logits", counted_logits)
    score(pack, [0], Encoded.of(load(section(*files)), tokenizer, 200))
    assert len(rows) > 3
    assert max(rows) > 1


def test_what_is_too_long_is_cut_or_left_out_and_counted(files: tuple[Path, Path], tokenizer: Any) -> None:
    suite = load(section(*files))
    whole = Encoded.of(suite, tokenizer, 500)
    assert (whole.left_out, whole.cut) == (0, 0)
    lengths = sorted(max(len(read.tokens) for read in question.choices) for question in whole.questions)
    short = Encoded.of(suite, tokenizer, lengths[1])
    assert len(short.questions) == sum(length <= lengths[1] for length in lengths)
    assert short.left_out == len(lengths) - len(short.questions)
    assert short.longest <= lengths[1]
    assert short.cut == sum(len(text.read.tokens) > lengths[1] for text in whole.texts) > 0
    for text, before in zip(short.texts, whole.texts, strict=True):
        assert text.read.tokens == before.read.tokens[: lengths[1]]
    with pytest.raises(DataError, match=r"retention.choices: two items or more must be readable in retention.max_tok"):
        Encoded.of(suite, tokenizer, lengths[0] - 1)


def test_a_token_that_the_tokenizer_puts_first_is_there_once(files: tuple[Path, Path], tokenizer: Any) -> None:
    class Beginning:
        bos_token_id = 1

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [1, *tokens] if add_special_tokens else tokens}

    suite = load(section(*files))
    without, begun = Encoded.of(suite, tokenizer, 200), Encoded.of(suite, Beginning(), 200)
    for one, other in zip(without.reads, begun.reads, strict=True):
        assert other.tokens == (1, *one.tokens)
    assert all(read.start == 1 for read in (text.read for text in begun.texts))  # its first word is predicted too


def test_the_bases_answers_are_kept_without_text(files: tuple[Path, Path], tokenizer: Any, tmp_path: Path) -> None:
    watch = Watch(section(*files, sample=3), tokenizer)
    pack = pack_of([8])
    watch.hold(watch.score_base(pack))
    kept = tmp_path / "base" / "retention.jsonl"
    watch.keep(kept)
    again = Watch(section(*files, sample=3), tokenizer)
    again.hold(again.kept(kept))
    assert again.describe() == watch.describe()
    assert again.base.nll.tolist() == watch.base.nll.tolist()
    written = kept.read_text(encoding="utf-8")
    assert not any(word in written for text in PASSAGES for word in (text[:9], text[-9:]))
    assert (len(watch.sample.questions), len(watch.sample.texts)) == (3, 3)
    assert again.sample.reads == watch.sample.reads
    kept.write_text(written.replace("p1", "p9"), encoding="utf-8")
    with pytest.raises(
        StoreError, match=r"the base's answers to the 10 items .* cannot be read \(ValueError\); delete it"
    ):
        again.kept(kept)


def test_a_rehearsal_reads_the_longest_that_fill_a_forward(
    files: tuple[Path, Path], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(section(*files), tokenizer)
    lengths = sorted((len(read.tokens) for read in watch.sample.reads), reverse=True)
    pack = pack_of([8, 4], chunk_tokens=3 * lengths[0])
    asked: list[tuple[int, int]] = []
    likelihoods = pack.likelihoods

    def spied(items: list[Item], *others: Any) -> list[float]:
        asked.extend((item.slot, len(item.tokens)) for item in items)
        return likelihoods(items, *others)

    monkeypatch.setattr(pack, "likelihoods", spied)
    watch.rehearse(pack, [0, 1])
    assert len(lengths) > 3
    assert sorted(asked) == [(slot, length) for slot in (0, 1) for length in sorted(lengths[:3])]


def test_the_sample_is_held_against_the_same_items_of_the_base(files: tuple[Path, Path], tokenizer: Any) -> None:
    watch = Watch(section(*files, sample=2), tokenizer)
    pack = pack_of([8])
    watch.hold(watch.score_base(pack))
    [values] = watch.score(pack, [0])
    [full] = watch.score_full(pack, [0])
    full = {name.replace("full_", ""): value for name, value in full.items()}
    for suite, yardstick, found in ((watch.sample, watch.sampled, values), (watch.full, watch.whole, full)):
        [base_answers] = score(pack, [0], suite, with_adapters=False)
        [adapted] = score(pack, [0], suite)
        assert yardstick.base.perplexity == pytest.approx(base_answers.perplexity)
        assert found["retention/perplexity"] == pytest.approx(adapted.perplexity)
        assert base_answers.perplexity is not None
        expected = 1 - base_answers.perplexity / found["retention/perplexity"]
        assert found["retention/drop"] == pytest.approx(expected)
    assert "perplexity constrains: it may rise by" in in_words(watch.describe())
