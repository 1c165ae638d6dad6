"""What an export has beside its weights, so that its user writes prompts and answers as the study did."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from sweeper.config.schema import ModelSection
from sweeper.config.teaching import PromptSection
from sweeper.data.chat import Chat
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home


def write_tokenizer(folder: Path, section: ModelSection, prompt: PromptSection, home: Home) -> Chat:
    """Writes the tokenizer with the chat template as it was trained with, and the settings of generation.

    Raises:
        ModelError: if the tokenizer cannot be found.
    """
    tokenizer = load_tokenizer(section, home)
    chat = Chat(tokenizer, prompt)
    tokenizer.chat_template = chat.exported  # of the study, with its arguments and without today's date
    tokenizer.save_pretrained(folder)
    # Greedy, as it was scored: the base's own settings may sample, punish repetition, or end elsewhere.
    GenerationConfig(do_sample=False, eos_token_id=chat.end, pad_token_id=tokenizer.pad_token_id).save_pretrained(
        folder
    )
    return chat
