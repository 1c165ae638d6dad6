"""What the texts of rows should not have in them: NULs, broken characters, a template that is applied again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from jinja2 import Environment, nodes

from sweeper.config.teaching import PromptSection
from sweeper.data.chat import Chat
from sweeper.data.row import Row
from sweeper.data.rows import SPLITS, TaskData
from sweeper.errors import PromptError, number_of
from sweeper.preflight.data.finding import Finding

HUGE = 50_000  # characters: some thirty pages
_FIXED = 8  # characters of a prompt's own text that say whose it is, where another such part is there too
_FIXED_ALONE = 20  # of one part alone
# What chat templates write around turns: ChatML, Llama 2 and 3, Gemma, Phi 3 and Zephyr, Alpaca.
_MARKERS = re.compile(
    r"<\|(?:im_start|im_end|user|assistant|system|start_header_id|end_header_id|eot_id|begin_of_text|endoftext|end)\|>"
    r"|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>|^### (?:Instruction|Response|Human|Assistant):",
    re.MULTILINE,
)
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
# U+FFFD stands where something could not be read; the others are UTF-8 that was read as WINDOWS-1252.
_GARBLED = re.compile("�|Ã[\u0080-¿]|â€[™œ\u009d“”˜¦]|Â[ £©°»«]")
_Is = Callable[[str], bool]


def findings(data: TaskData) -> list[Finding]:
    """What is wrong with the texts, whatever the model."""
    found = []
    nul = _rows(data, lambda text: "\0" in text)
    if nul:
        found.append(
            Finding.error(
                "nul", f"{number_of(len(nul), 'row has', 'rows have')} NULs in the text, as damaged files do", nul
            )
        )
    huge = _rows(data, lambda text: len(text) >= HUGE)
    if huge:
        longest = max(len(text) for row in huge for text in texts_of(row))
        message = f"{number_of(len(huge), 'row has', 'rows have')} a text of {HUGE:,} characters or more"
        message += f", the longest {longest:,}; is a quote left open, or a file in a field?"
        found.append(Finding.error("huge-row", message, huge))
    for code, pattern, what in (
        ("control-characters", _CONTROL, "control characters in the text"),
        ("garbled", _GARBLED, "characters that were read in another encoding than they were written in"),
    ):
        if rows := _rows(data, lambda text, pattern=pattern: pattern.search(text) is not None):  # type: ignore[misc]
            found.append(Finding.warning(code, f"{number_of(len(rows), 'row has', 'rows have')} {what}", rows))
    return found


def doubled(data: TaskData, chat: Chat, template: str) -> list[Finding]:
    """Rows whose text is rendered already, so that rendering it would put a turn into a turn."""
    fixed = _fixed_parts(template)
    # A customer may well write `Question:`, but hardly all of several words.
    is_telling = len(fixed) > 1 or any(len(part) >= _FIXED_ALONE for part in fixed)
    around = _around(chat)

    def is_rendered(text: str) -> bool:
        if any(special in text for special in chat.specials):
            return False  # which rendering refuses
        return bool(
            _MARKERS.search(text)
            or (around and all(part in text for part in around))
            or (is_telling and all(part in text for part in fixed))
        )

    rows = _rows(data, is_rendered)
    if not rows:
        return []
    message = (
        f"{number_of(len(rows), 'row is', 'rows are')} rendered already (with markers of turns or prompt.template's "
        "words in the text), and would be again; take the template out of the rows"
    )
    return [Finding.error("doubled-template", message, rows)]


def missing(chat: Chat, section: PromptSection) -> list[Finding]:
    """A base that was taught a chat template, and is prompted without it."""
    if not chat.tokenizer.chat_template or not section.chat_template:
        return []
    plain = section.model_copy(update={"chat_template": None, "chat_template_kwargs": {}})
    try:
        own = _around(Chat(chat.tokenizer, plain))
    except PromptError:  # it cannot be used as it is, which is why there is another
        return []
    written = chat.render(chat.opened([{"role": "user", "content": "?"}]), True)
    if not own or any(part in written for part in own):
        return []
    message = (
        "the base has a chat template that it was taught with, but prompt.chat_template writes nothing of it; set "
        "prompt.chat_template=null to use the model's own"
    )
    return [Finding.error("template-missing", message)]


def texts_of(row: Row) -> list[str]:
    """All that is read of a row."""
    return [row.text, row.label, *row.answers, *(content for _, content in row.messages)]


def _rows(data: TaskData, is_meant: _Is) -> list[Row]:
    every: Sequence[Row] = [row for split in SPLITS for row in getattr(data, split)]
    return [row for row in every if any(is_meant(text) for text in texts_of(row))]


def _around(chat: Chat) -> list[str]:
    """What the chat template writes before and behind a user's message."""
    probe = "Is this a probe?"
    before, _, behind = chat.render(chat.opened([{"role": "user", "content": probe}]), True).partition(probe)
    return [part.strip() for part in (before, behind) if part.strip()]


def _fixed_parts(template: str) -> list[str]:
    """The prompt's own words, without what it puts in from the row."""
    parsed = Environment(autoescape=False).parse(template)
    parts = [part.data.strip() for part in parsed.find_all(nodes.TemplateData)]
    return [part for part in parts if len(part) >= _FIXED]
