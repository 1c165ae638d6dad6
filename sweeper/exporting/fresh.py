"""Answers with an exported folder as whoever gets it does: with torch, transformers and peft, and nothing else.

The parity check runs this file as a process of its own, which knows nothing of the study but what it is told on
standard input; the champion in MLflow carries a copy of it. So it imports nothing of sweeper.

    python fresh.py < JOB.json > ANSWERS.json

A job says what to load (`Source`), what is asked (`rows`: of each the messages up to the answer) and how it is
answered: among `labels`, or written; `free`, the places of rows that are also answered by plain greedy decoding;
`reads`, sequences of tokens whose likelihood is asked; `is_weighed`, whether the weights are hashed too. The answers
are in the order of the rows.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

Tokens = tuple[int, ...]
Messages = list[dict[str, str]]
Result = TypeVar("Result")
LOGITS_BYTES = 2**30  # of one forward: the tokens of a batch times the vocabulary
MOST_ROWS = 64


@dataclass(frozen=True)
class Source:
    """What is loaded.

    Attributes:
        folder: that was exported, with the tokenizer.
        is_adapter: whether it holds an adapter, whose base its configuration names.
        quant: nf4: an adapter's base is quantised as it was trained on; none: it is as it was published.
        dtype: what the model computes in; auto: what a whole model was saved in.
        gguf: the file in the folder that is the model.
        device: cpu, or a CUDA device; None: the first one that there is.
        trust_remote_code: whether code of the model's repository may run.
    """

    folder: str
    is_adapter: bool = True
    quant: str = "nf4"
    dtype: str = "float32"
    gguf: str | None = None
    device: str | None = None
    trust_remote_code: bool = False


class Loaded:
    """A model with its tokenizer.

    Args:
        end: the token that ends an answer.
        lead: what stands between a prompt and an answer.
    """

    def __init__(self, source: Source, end: int, lead: str = "") -> None:
        self.source, self.end, self.lead = source, end, lead
        self.tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=source.trust_remote_code)
        self.model: Any = _model(source).eval()
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else end
        self._rows = MOST_ROWS

    def prompt(self, messages: Messages) -> Tokens:
        """The tokens of a conversation up to where the answer begins."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def choose(self, prompts: Sequence[Tokens], labels: Sequence[str]) -> list[tuple[str, float]]:
        """One of the labels for each prompt, greedily over their tokens, and its probability among them."""
        answers = {
            (*self.tokenizer(self.lead + label, add_special_tokens=False)["input_ids"], self.end): label
            for label in labels
        }
        children: dict[Tokens, list[int]] = {}
        for answer in answers:
            for depth, token in enumerate(answer):
                known = children.setdefault(answer[:depth], [])
                if token not in known:
                    known.append(token)
        paths: list[Tokens] = [() for _ in prompts]
        likelihoods = [0.0] * len(prompts)
        while True:
            for row, path in enumerate(paths):
                while path not in answers and len(children[path]) == 1:
                    path = (*path, children[path][0])
                paths[row] = path
            pending = [row for row, path in enumerate(paths) if path not in answers]
            if not pending:
                return [(answers[path], math.exp(value)) for path, value in zip(paths, likelihoods, strict=True)]
            asked = [(*prompts[row], *paths[row]) for row in pending]
            allowed = [children[paths[row]] for row in pending]
            for row, (token, value) in zip(pending, self._among(asked, allowed), strict=True):
                paths[row] = (*paths[row], token)
                likelihoods[row] += value

    def write(self, prompts: Sequence[Tokens], max_new_tokens: int) -> list[tuple[str, float]]:
        """A text for each prompt, greedily, and the mean probability of its tokens (geometric)."""
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.end,
            pad_token_id=self.pad,
            return_dict_in_generate=True,
            output_logits=True,
        )
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        # What is not set would come from the model's own settings: penalties, sampling, another end.
        self.model.generation_config = base.generation_config = settings

        def written(places: list[int]) -> list[tuple[str, float]]:
            tokens, mask = self._padded([prompts[place] for place in places], is_left=True)
            out = self.model.generate(
                input_ids=tokens,
                attention_mask=mask,
                generation_config=settings,
            )
            found = []
            answers = out.sequences[:, tokens.shape[1] :].tolist()
            steps = [step.float().log_softmax(-1).max(-1).values for step in out.logits]  # greedy: of what was chosen
            for row, answer in enumerate(answers):
                length = answer.index(self.end) if self.end in answer else len(answer)
                values = [float(step[row]) for step in steps[: length + 1]]
                text = self.tokenizer.decode(answer[:length], skip_special_tokens=True).strip()
                found.append((text, math.exp(sum(values) / len(values))))
            return found

        return self._in_batches(prompts, written, max_new_tokens)

    def likelihoods(self, reads: Sequence[Tokens], starts: Sequence[int]) -> list[float]:
        """The log-likelihood of each sequence from its start on."""

        def read(places: list[int]) -> list[float]:
            tokens, mask = self._padded([reads[place] for place in places])
            values = self._logits(tokens, mask)[:, :-1].float().log_softmax(-1)
            each = values.gather(-1, tokens[:, 1:, None])[..., 0]
            spans = [slice(starts[place] - 1, len(reads[place]) - 1) for place in places]
            return [float(each[row, span].sum()) for row, span in enumerate(spans)]

        return self._in_batches(reads, read)

    def _among(self, sequences: list[Tokens], allowed: list[list[int]]) -> list[tuple[int, float]]:
        """The likeliest of the allowed tokens behind each sequence, and its log-probability among them."""

        def chosen(places: list[int]) -> list[tuple[int, float]]:
            tokens, mask = self._padded([sequences[place] for place in places])
            logits = self._logits(tokens, mask)
            found = []
            for row, place in enumerate(places):
                among = logits[row, len(sequences[place]) - 1, allowed[place]].float().log_softmax(-1)
                best = int(among.argmax())
                found.append((allowed[place][best], float(among[best])))
            return found

        return self._in_batches(sequences, chosen)

    def _logits(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        return logits

    def _padded(self, batch: list[Tokens], is_left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, batch))
        tokens, masks = [], []
        for one in batch:
            gap = longest - len(one)
            row, mask = [*one, *[self.pad] * gap], [1] * len(one) + [0] * gap
            tokens.append(row[len(one) :] + row[: len(one)] if is_left else row)
            masks.append(sorted(mask) if is_left else mask)
        device = self.model.device
        return torch.tensor(tokens, device=device), torch.tensor(masks, device=device)

    def _in_batches(
        self, sequences: Sequence[Tokens], answer: Callable[[list[int]], list[Result]], room: int = 0
    ) -> list[Result]:
        """Answers in batches of like lengths, by their places; one that runs out of memory is cut in half."""
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        most_tokens = max(1, LOGITS_BYTES // (4 * vocabulary))
        answers: dict[int, Result] = {}
        order = sorted(range(len(sequences)), key=lambda place: len(sequences[place]), reverse=True)
        done = 0
        while done < len(order):
            longest = len(sequences[order[done]]) + room
            places = order[done : done + max(1, min(self._rows, most_tokens // longest))]
            try:
                with torch.no_grad():
                    found = answer(places)
            except torch.OutOfMemoryError:
                if len(places) == 1:
                    raise
                self._rows = len(places) // 2
                gc.collect()
                torch.cuda.empty_cache()
                continue
            answers.update(zip(places, found, strict=True))
            done += len(places)
        return [answers[place] for place in range(len(sequences))]


def _model(source: Source) -> Any:
    device = source.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, source.dtype) if source.dtype != "auto" else "auto"
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "device_map": {"": device},
        "trust_remote_code": source.trust_remote_code,
    }
    if source.gguf is not None:
        from transformers import GgufConfig

        whole = {**arguments, "gguf_file": source.gguf, "quantization_config": GgufConfig(dequantize=True)}
        return AutoModelForCausalLM.from_pretrained(source.folder, **whole)
    if not source.is_adapter:
        return AutoModelForCausalLM.from_pretrained(source.folder, use_safetensors=True, **arguments)
    config = json.loads((Path(source.folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if source.quant == "nf4":
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    base = AutoModelForCausalLM.from_pretrained(
        config["base_model_name_or_path"], revision=config.get("revision"), use_safetensors=True, **arguments
    )
    return PeftModel.from_pretrained(base, source.folder)


def digest(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor's values, as they lie in memory."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()


def _weights(model: Any, source: Source) -> tuple[dict[str, str], list[float]]:
    """The weights that were loaded by the names that they have in the files, and an adapter's scales."""
    if not source.is_adapter:
        return {name: digest(tensor) for name, tensor in model.named_parameters()}, []
    found = {name: tensor for name, tensor in model.named_parameters() if ".lora_" in name}
    scales = {float(module.scaling["default"]) for module in model.modules() if hasattr(module, "lora_A")}
    return {name.replace(".default.", "."): digest(tensor) for name, tensor in found.items()}, sorted(scales)


def fingerprint(prompt: Sequence[int]) -> str:
    """A prompt's tokens as a short hash."""
    return hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:16]


def answered(job: dict[str, Any]) -> dict[str, Any]:
    """What a job asks; see the module."""
    loaded = Loaded(Source(**job["source"]), job["end"], job["lead"])
    prompts = [loaded.prompt(messages) for messages in job["rows"]]
    labels: list[str] = job["labels"]
    answers = loaded.choose(prompts, labels) if labels else loaded.write(prompts, job["max_new_tokens"])
    reads = [tuple(read) for read in job["reads"]]
    weights, scales = _weights(loaded.model, loaded.source) if job["is_weighed"] else ({}, [])
    return {
        "weights": weights,
        "scales": scales,
        "prompts": [fingerprint(prompt) for prompt in prompts],
        "answers": answers,
        "free": loaded.write([prompts[place] for place in job["free"]], job["max_new_tokens"]),
        "likelihoods": loaded.likelihoods(reads, job["starts"]),
        "device": str(loaded.model.device),
        "sweeper": sorted(name for name in sys.modules if name.split(".")[0] == "sweeper"),
    }


def main() -> None:
    """Reads a job, writes the answers."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    found = answered(json.load(sys.stdin))
    with os.fdopen(out, "w", encoding="utf-8") as answers:
        json.dump(found, answers)


if __name__ == "__main__":
    main()
