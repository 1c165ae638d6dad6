"""The bundled `tickets` data: synthetic customer-support tickets in twelve categories.

Every row is generated, never collected: no person wrote or sent any of it. A ticket states one
intent, which is its label, and often also brings up another category's intent without asking for
anything about it ("…, that is settled, but now …"), so that a bag of words is misled where a
model that reads the sentence is not. Vocabulary is shared between the categories on
purpose, and about one ticket in two carries typing errors.

The generator is seeded and uses only `random.Random`, so a split is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

SPLIT_ROWS = {"train": 2400, "validation": 600, "test": 1000}
_SPLIT_SEEDS = {"train": 11, "validation": 12, "test": 13}

# For each category: the ways to state the intent.
INTENTS: dict[str, list[str]] = {
    "billing error": [
        "I was charged twice for {item} this month",
        "the amount on my card is {amount} but the price was supposed to be {amount}",
        "why did you take {amount} when my plan costs {amount}",
        "there are two identical payments to you on my statement",
        "you billed me for {item} that I never ordered",
        "the discount for {item} is missing from what I paid",
        "my card shows {amount} more than the order total",
        "the tax on order {number} was added two times",
    ],
    "refund status": [
        "where is the money you promised to send back for {item}",
        "I still have not received my money back for order {number}",
        "{time} you said {amount} would be returned to my card and nothing has arrived",
        "how long until the {amount} shows up on my account again",
        "the credit for {item} was approved {time} but my bank sees nothing",
        "can you check whether the {amount} was really sent back to me",
        "order {number} was sent back, you confirmed it, and I am waiting for the {amount}",
        "no sign of my reimbursement for {item} so far",
    ],
    "late delivery": [
        "order {number} was supposed to be here {time}",
        "the tracking of {item} has not moved since {time}",
        "my parcel with {item} still has not arrived",
        "when will {item} finally get to me",
        "the courier says order {number} never left your warehouse",
        "I have been waiting for {item} since {time}",
        "delivery of order {number} keeps being pushed back",
        "it has been far too long and {item} is still on the way",
    ],
    "damaged item": [
        "{item} came with a crack across it",
        "the box was crushed and {item} is in pieces",
        "{item} arrived but it does not switch on at all",
        "I opened the parcel and {item} is scratched and bent",
        "{item} from order {number} was broken when I unpacked it",
        "the glass of {item} was shattered on arrival",
        "{item} reached me {time} with a part missing",
        "order {number} got here but {item} is dead out of the box",
    ],
    "return request": [
        "I would like to send {item} back",
        "{item} is not what I expected, how can I return it",
        "please give me a label so that {item} can go back to you",
        "can I swap {item} for another size",
        "I changed my mind about order {number} and want to give {item} back",
        "what do I have to do to hand {item} back, it is unused",
        "{item} does not fit, I need a different one in exchange",
        "is it still possible to return {item} that I bought {time}",
    ],
    "login problem": [
        "I cannot get into my account since {time}",
        "the page says my password is wrong although it is right",
        "the code to sign in never reaches my phone",
        "your site locked me out after three tries",
        "resetting my password sends me round in a circle",
        "signing in with {device} ends in an empty page",
        "my account is blocked and I cannot log on",
        "the link in the reset mail has expired each time",
    ],
    "account change": [
        "please use my new address from now on",
        "I need to change the email on my account",
        "my last name is different now, can you update it",
        "how do I add a second phone number to my profile",
        "could you move my account to my new company name",
        "the delivery address on my profile is old, please replace it",
        "I would like the newsletter sent to another mailbox",
        "please correct the birthday in my profile",
    ],
    "cancellation": [
        "I want to end my subscription",
        "please stop my plan before the next payment",
        "how do I cancel the membership",
        "do not renew my contract when it runs out",
        "I no longer need the service, close the subscription",
        "please take order {number} off the list, I do not want it any more",
        "the trial is over and I do not want to continue",
        "I am leaving for another provider, please terminate my plan",
    ],
    "app crash": [
        "the app closes by itself on {device}",
        "since the update {time} the app freezes on the start screen",
        "on {device} everything hangs when I open my orders",
        "your app stops with an error whenever I tap the basket",
        "the screen stays white on {device} after the new version",
        "each time I upload a photo the app on {device} dies",
        "the search in the app gives an error and then it quits",
        "the app eats the battery of {device} and then shuts down",
    ],
    "how to": [
        "how do I connect {item} to {device}",
        "where can I find the manual for {item}",
        "can {item} be used together with {device}",
        "what do the blinking lights on {item} mean",
        "is there a way to export my orders to a table",
        "which settings do you recommend for {item}",
        "how can I share my plan with my family",
        "I do not understand how to set up {item} on {device}",
    ],
    "payment failed": [
        "my card is refused when I try to buy {item}",
        "the checkout says the payment could not be completed",
        "I tried to pay {amount} by bank transfer and it was rejected",
        "paying with my phone does not go through for order {number}",
        "the bank approves it but your page says declined",
        "why is my credit card not accepted for {item}",
        "I enter the card and the checkout jumps back without paying",
        "my voucher worth {amount} is not accepted at the till",
    ],
    "privacy request": [
        "please delete all the data that you hold about me",
        "I want a copy of everything you stored about me",
        "who did you give my phone number to",
        "remove my photos and reviews from your servers",
        "I object to the use of my data for advertising",
        "how long do you keep my address and orders on file",
        "I withdraw my consent, erase my profile",
        "a stranger knows my email from you, what was leaked",
    ],
}

# How a ticket brings up another category's intent without asking for anything about it.
_SETTLED_BEFORE = [
    "{other}, that is settled, but now",
    "{time} I wrote that {other}, which you solved, now",
    "it is not that {other}, but",
    "my neighbour wrote to you: {other}. my own question is different:",
    "{other}, never mind that one, more important:",
]
_SETTLED_AFTER = [
    "By the way, {time} it was: {other}, and you solved it",
    "please do not mix this up with my old ticket: {other}",
    "It has nothing to do with my friend's question: {other}",
    "as for the other thing, {other}, that is done",
]

_ITEMS = [
    *("the headphones", "the blue lamp", "a keyboard", "my new router", "the coffee grinder", "the desk chair"),
    *("a phone case", "the winter jacket", "the camera", "the running shoes", "a water filter", "the tablet"),
    *("the speaker", "my backpack", "the monitor", "a charger", "the smart watch", "the printer"),
]
_DEVICES = ["my phone", "my tablet", "an older laptop", "the work computer", "my TV", "the browser"]
_TIMES = [
    *("last Monday", "two weeks ago", "yesterday", "on the 3rd"),
    *("ten days ago", "last night", "at the start of the month", "in March"),
]
_GREETINGS = ["Hello", "Hi there", "Good morning", "Dear team", "Hey", "To whom it may concern"]
_CONTEXT = [
    "I have been a customer for {count} years",
    "I bought {item} {time}",
    "this is about order {number}",
    "my order number is {number}",
    "I use the app on {device}",
    "I paid {amount} for it",
    "I wrote to you {time} already",
    "I am travelling at the moment",
    "my colleague recommended you",
    "I called your hotline and nobody answered",
    "the account is in my partner's name",
    "I pay by card every month",
]
_CLOSINGS = [
    "Thanks",
    "please answer soon",
    "this is urgent",
    "I am quite annoyed",
    "kind regards",
    "let me know",
    "what can you do",
    "thank you for your help",
]


def labels() -> list[str]:
    """The twelve categories, in the order in which they are defined."""
    return list(INTENTS)


def _fill(template: str, draw: random.Random) -> str:
    text = template
    for _ in range(template.count("{")):
        text = text.replace("{item}", draw.choice(_ITEMS), 1).replace("{device}", draw.choice(_DEVICES), 1)
        text = text.replace("{time}", draw.choice(_TIMES), 1).replace("{count}", str(draw.randint(2, 9)), 1)
        text = text.replace("{amount}", f"{draw.randint(4, 180)} dollars", 1)
        text = text.replace("{number}", str(draw.randint(1000, 9999)), 1)
    return text


def _mistype(text: str, draw: random.Random, rate: float) -> str:
    letters = list(text)
    position = 0
    while position < len(letters) - 1:
        if letters[position].isalpha() and draw.random() < rate:
            kind = draw.randint(0, 2)
            if kind == 0:
                letters[position], letters[position + 1] = letters[position + 1], letters[position]
            elif kind == 1:
                del letters[position]
            else:
                letters.insert(position, letters[position])
                position += 1
        position += 1
    return "".join(letters)


def compose(label: str, draw: random.Random) -> str:
    """Writes one ticket whose intent is `label`."""
    intent = _fill(draw.choice(INTENTS[label]), draw)
    parts: list[str] = []
    if draw.random() < 0.4:
        parts.append(draw.choice(_GREETINGS) + ",")
    if draw.random() < 0.5:
        parts.append(_fill(draw.choice(_CONTEXT), draw) + ".")
    place = draw.random()
    if place < 0.45:
        other = _fill(draw.choice(INTENTS[draw.choice([name for name in INTENTS if name != label])]), draw)
    if place < 0.25:
        parts.append(_fill(draw.choice(_SETTLED_BEFORE), draw).replace("{other}", other) + f" {intent}.")
    elif place < 0.45:
        parts.append(f"{intent}. " + _fill(draw.choice(_SETTLED_AFTER), draw).replace("{other}", other) + ".")
    else:
        parts.append(intent + draw.choice([".", "!", "?", ""]))
    if draw.random() < 0.4:
        parts.append(draw.choice(_CLOSINGS) + ".")
    text = " ".join(parts)
    if draw.random() < 0.5:
        text = _mistype(text, draw, 0.05)
    if draw.random() < 0.3:
        text = text.lower()
    return text


def tickets(seed: int) -> Iterator[tuple[str, str]]:
    """Yields (text, label) pairs without end, the labels drawn evenly."""
    draw = random.Random(seed)
    names = labels()
    while True:
        label = draw.choice(names)
        yield compose(label, draw), label


def splits() -> dict[str, list[dict[str, str]]]:
    """Generates the train, validation and test rows: fields `id`, `text`, `label`; no text occurs twice."""
    seen: set[str] = set()
    rows: dict[str, list[dict[str, str]]] = {}
    for split, count in SPLIT_ROWS.items():
        rows[split] = []
        for text, label in tickets(_SPLIT_SEEDS[split]):
            if text in seen:
                continue
            seen.add(text)
            rows[split].append({"id": f"tickets-{split}-{len(rows[split])}", "text": text, "label": label})
            if len(rows[split]) == count:
                break
    return rows
