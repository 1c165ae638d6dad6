"""Builds the bundled base `model=tiny`: `python -m sweeper.models.tiny.build --to DIR`.

The text is what every Python installation carries (pydoc's topics and the docstrings of the
standard library) and generated support conversations: tickets of other seeds than those of the
`tickets` data, with any text that occurs in one of its splits left out, each followed by a
support agent's reply. No reply is a category name, so the base has never seen the answer that a
study asks it for.

About ten minutes on two cores; seeded, so two builds on one machine agree.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import pydoc_data.topics
import random
import sys
import time
import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from sweeper.data import tickets

SEED = 20240607
VOCABULARY = 2048
CONTEXT = 256
STEPS = 800
BATCH = 32
CONVERSATIONS = 24_000
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
REPLIES = {
    "billing error": ["Sorry about that, we will correct the amount.", "We will look at what was taken and why."],
    "refund status": ["The money is on its way, banks need a few days.", "We will ask our bank where it is."],
    "late delivery": ["Sorry for the wait, we will ask the courier.", "The parcel should reach you soon."],
    "damaged item": ["Sorry that it broke, a new one is on its way.", "Please send us a photo of it."],
    "return request": ["Here is a label for the parcel.", "Of course, you may send it to our warehouse."],
    "login problem": ["We have unlocked it, please try once more.", "We sent you a fresh code."],
    "account change": ["We have updated your profile.", "It is stored, thank you for telling us."],
    "cancellation": ["We are sorry to see you go, it will end this month.", "It will not renew."],
    "app crash": ["Please install the newest version.", "Our developers are looking at the error."],
    "how to": ["Here is a guide for it, step by step.", "The handbook shows it on page four."],
    "payment failed": ["Please try another card.", "Your bank refused it, please ask them."],
    "privacy request": ["We will erase it within a month.", "We will send you what we hold."],
}


def standard_library_text() -> list[str]:
    """The topics of pydoc and the docstrings of the importable standard-library modules."""
    texts = [str(text) for _, text in sorted(pydoc_data.topics.topics.items())]
    left_out = {"antigravity", "this", "idlelib", "turtledemo", "test"}
    with warnings.catch_warnings(action="ignore"):  # deprecated modules and members say so when they are looked at
        for module_info in sorted(pkgutil.iter_modules(), key=lambda info: info.name):
            if module_info.name in sys.stdlib_module_names - left_out:
                texts += _docstrings(module_info.name)
    return list(dict.fromkeys(texts))


def _docstrings(name: str) -> list[str]:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, ValueError):
        return []  # not built on this platform, or needs a display
    members = [module, *(member for _, member in sorted(vars(module).items()))]
    texts = [inspect.getdoc(member) or "" for member in members if getattr(member, "__doc__", None)]
    return [text for text in texts if len(text) > 40]


def conversations(count: int) -> list[str]:
    """`count` support conversations, none of whose tickets occurs in a split of the `tickets` data."""
    held_out = {row["text"] for rows in tickets.splits().values() for row in rows}
    draw = random.Random(SEED)
    texts = []
    for text, label in tickets.tickets(SEED):
        if text not in held_out:
            texts.append(f"<|user|>\n{text}<|end|>\n<|assistant|>\n{draw.choice(REPLIES[label])}<|end|>\n")
        if len(texts) == count:
            return texts
    raise AssertionError("the generator does not end")


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def train(model: LlamaForCausalLM, stream: torch.Tensor, steps: int) -> None:
    """Next-token prediction over windows `(BATCH, CONTEXT)` drawn from `stream` `(tokens,)`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=40, num_training_steps=steps)
    generator = torch.Generator().manual_seed(SEED)
    started = time.monotonic()
    for step in range(steps):
        starts = torch.randint(0, len(stream) - CONTEXT, (BATCH,), generator=generator)
        tokens = torch.stack([stream[start : start + CONTEXT] for start in starts.tolist()])
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.3f} after {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    documents, talks = standard_library_text(), conversations(CONVERSATIONS)
    print(f"{len(documents)} documents, {sum(map(len, documents)):,} characters; {len(talks)} conversations")
    tokenizer = train_tokenizer(documents + talks)
    pieces = [text + "<|end|>\n" for text in documents] + talks
    random.Random(SEED).shuffle(pieces)
    encoded = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
    stream = torch.tensor([token for tokens in encoded for token in tokens])
    print(f"{len(stream):,} tokens")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    print(f"{model.num_parameters():,} parameters")
    train(model, stream, arguments.steps)
    arguments.to.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(arguments.to)
    tokenizer.save_pretrained(arguments.to)


if __name__ == "__main__":
    main()
