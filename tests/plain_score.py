"""Scores an exported adapter the way a stranger would: transformers, peft and bitsandbytes, nothing of sweeper.

    python tests/plain_score.py FOLDER ROWS.jsonl [ROWS.jsonl is one JSON object a line, with `text` and `label`]

Prints the accuracy. Greedy decoding among the labels' tokens, the rows of a batch padded on the right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

BATCH_ROWS = 32


def load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4, dtype=dtype)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # Otherwise bitsandbytes 0.50 computes a float32 model in bfloat16 on CPUs with AVX512-BF16.
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(model, str(folder)).eval(), AutoTokenizer.from_pretrained(str(folder))


@torch.no_grad()
def best_tokens(model: Any, sequences: list[list[int]], allowed: list[list[int]]) -> list[int]:
    """The likeliest allowed token behind each sequence."""
    chosen: dict[int, int] = {}
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    for start in range(0, len(order), BATCH_ROWS):
        batch = order[start : start + BATCH_ROWS]
        longest = max(len(sequences[index]) for index in batch)
        tokens = torch.tensor([sequences[index] + [0] * (longest - len(sequences[index])) for index in batch])
        lengths = torch.tensor([len(sequences[index]) for index in batch])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        logits = model(input_ids=tokens, attention_mask=mask).logits[torch.arange(len(batch)), lengths - 1]
        for index, row in zip(batch, logits, strict=True):
            chosen[index] = allowed[index][int(row[allowed[index]].argmax())]
    return [chosen[index] for index in range(len(sequences))]


def predictions(model: Any, prompts: list[list[int]], answers: dict[tuple[int, ...], str]) -> list[str]:
    def next_tokens(path: tuple[int, ...]) -> list[int]:
        return sorted(
            {answer[len(path)] for answer in answers if answer[: len(path)] == path and len(answer) > len(path)}
        )

    paths: list[tuple[int, ...]] = [() for _ in prompts]
    while open_rows := [row for row, path in enumerate(paths) if path not in answers]:
        allowed = [next_tokens(paths[row]) for row in open_rows]
        asked = [index for index, tokens in enumerate(allowed) if len(tokens) > 1]
        chosen = best_tokens(
            model, [prompts[open_rows[i]] + list(paths[open_rows[i]]) for i in asked], [allowed[i] for i in asked]
        )
        decided = dict(zip(asked, chosen, strict=True))
        for index, row in enumerate(open_rows):
            paths[row] = (*paths[row], decided.get(index, allowed[index][0]))
    return [answers[path] for path in paths]


def main() -> None:
    folder, file = Path(sys.argv[1]), Path(sys.argv[2])
    manifest = json.loads((folder / "sweeper.json").read_text())
    dtype = torch.bfloat16 if manifest["model"]["dtype"] == "bfloat16" else torch.float32
    model, tokenizer = load(folder, dtype)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    prompts = []
    for row in rows:
        message = manifest["prompt"]["template"].replace("{{ text }}", row["text"])
        chat = [{"role": "user", "content": message}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    answers = {(*tokenizer(label, add_special_tokens=False)["input_ids"], end): label for label in manifest["labels"]}
    labels = predictions(model, prompts, answers)
    assert not any(name.split(".")[0] == "sweeper" for name in sys.modules)
    print(sum(label == row["label"] for label, row in zip(labels, rows, strict=True)) / len(rows))


if __name__ == "__main__":
    main()
