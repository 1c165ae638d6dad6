"""The formats of an export, and what each is."""

from __future__ import annotations

ADAPTER, MERGED, MERGED_4BIT, GGUF = "adapter", "merged", "merged-4bit", "gguf"
FORMATS = {
    ADAPTER: "a PEFT adapter, over the 4-bit base that it was trained on",
    MERGED: "a whole model in 16 bits: the 4-bit base as it was trained on, with the adapter added",
    MERGED_4BIT: "the same, quantised once more: smaller, and no longer exactly what was trained",
    GGUF: "the merged model as one file for llama.cpp and Ollama",
}
EXACT = (ADAPTER, MERGED)  # that answer as the trial did, but for the rounding of 16 bits
