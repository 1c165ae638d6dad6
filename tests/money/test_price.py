from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from sweeper.config.defaults import options
from sweeper.config.schema import Config, GpuSection
from sweeper.errors import ConfigError
from sweeper.money import price as prices
from sweeper.money.price import OWN_PRICE, Price, advice, known_gpus, required

Compose = Callable[..., Config]
GPUS = options("gpu")
OWNED = {"billing": "owned", "purchase_usd": 1800, "life_hours": 15000}
WITHOUT_PRICE = ["auto", "owned", "rtx-4060-ti-16gb", "v100-16gb"]


def priced(name: str, /, **changes: object) -> Price:
    """The price of an option with other values, as overrides on a command line make it."""
    found = Price.of(GpuSection.model_validate({**GPUS[name], **changes}))
    assert found is not None
    return found


@pytest.mark.parametrize("name", GPUS)
def test_every_listed_price_says_who_asked_it_and_when(name: str) -> None:
    gpu = GpuSection.model_validate(GPUS[name])
    assert gpu.name == name
    numbers = [gpu.price_usd_per_hour, gpu.spot_usd_per_hour]
    if any(number is not None for number in numbers):
        assert gpu.price_source
        assert gpu.price_date
        assert date(2025, 1, 1) < date.fromisoformat(gpu.price_date) <= date.today()
        assert all(0.1 < number < 20 for number in numbers if number is not None)
        if gpu.spot_usd_per_hour is not None and gpu.price_usd_per_hour is not None:
            assert gpu.spot_usd_per_hour < gpu.price_usd_per_hour
    else:
        assert (gpu.price_source, gpu.price_date) == (None, None)
    assert (gpu.card is None) == (gpu.bf16_tflops is None)
    assert (name in known_gpus()) == (name not in WITHOUT_PRICE)


def test_a_price_is_that_of_its_billing() -> None:
    assert priced("rtx-4090").in_words() == "$0.69 an hour (rtx-4090, on demand; RunPod, secure cloud, 2026-11-24)"
    assert priced("rtx-5090", billing="spot").in_words() == (
        "$0.76 an hour (rtx-5090, spot; RunPod, secure cloud, 2026-01-01)"
    )
    with_disk = replace(priced("rtx-4090"), disk_usd_per_hour=0.0125)
    assert with_disk.in_words().startswith("$0.69 an hour and $0.0125 for its disk (rtx-4090, on demand; ")
    assert priced("free").in_words() == "$0 an hour (free)"
    assert priced("h200", billing="free").in_words() == "$0 an hour (h200, free)"
    assert priced("cpu").in_words().startswith("$0.1785 an hour of the machine (cpu, on demand; AWS EC2")
    assert priced("owned", purchase_usd=1000, life_hours=10000).in_words() == "$0.1 an hour (owned)"


def test_a_card_of_ones_own_costs_its_wear_and_its_electricity(composed: Compose) -> None:
    overrides = [f"gpu.{key}={value}" for key, value in OWNED.items()]
    price = Price.of(composed("study=demo", "gpu=rtx-4090", *overrides, "gpu.tariff_usd_per_kwh=0.3").gpu)
    assert price is not None
    assert price.in_words() == "$0.12 an hour and $0.3 a kWh (rtx-4090, owned)"
    assert price.usd(7200.0, watts=350.0) == pytest.approx(2 * 0.12 + 0.7 * 0.3)


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({"price_usd_per_hour": 0.5}, OWN_PRICE),
        ({"price_usd_per_hour": 0.69}, "RunPod, secure cloud, 2026-11-24"),
        ({"price_usd_per_hour": 0.5, "price_source": "Vast"}, "Vast, 2026-11-24"),
        ({"price_usd_per_hour": 0.5, "price_source": "Vast", "price_date": "2026-11-25"}, "Vast, 2026-11-25"),
        ({"billing": "spot", "spot_usd_per_hour": 0.3}, OWN_PRICE),  # the file's source gives no spot price
        ({"name": "mine", "price_source": "us", "price_date": None}, "us"),
        ({"name": "mine", "price_source": None, "price_date": None}, OWN_PRICE),
    ],
)
def test_the_source_belongs_to_the_number(changes: dict[str, object], source: str) -> None:
    assert priced("rtx-4090", **changes).source == source


def test_what_is_not_rented_has_no_source() -> None:
    assert priced("rtx-4090", **OWNED).source is None
    assert priced("rtx-4090", billing="free").source is None


# For each key of `gpu` that a price has: what it is changed to, beside what, and what is then another.
CHANGES: dict[str, tuple[object, dict[str, object], str]] = {
    "name": ("mine", {}, "label"),
    "billing": ("free", {}, "usd_per_hour"),
    "price_usd_per_hour": (0.5, {}, "usd_per_hour"),
    "spot_usd_per_hour": (0.3, {"billing": "spot", "spot_usd_per_hour": 0.5}, "usd_per_hour"),
    "price_per": ("machine", {}, "is_per_machine"),
    "price_source": ("Vast", {}, "source"),
    "price_date": ("2026-11-25", {}, "source"),
    "boot_s": (60, {}, "boot_s"),
    "disk_usd_per_hour": (0.01, {}, "disk_usd_per_hour"),
    "purchase_usd": (1500, OWNED, "usd_per_hour"),
    "life_hours": (20000, OWNED, "usd_per_hour"),
    "tariff_usd_per_kwh": (0.3, OWNED, "tariff_usd_per_kwh"),
}
ELSEWHERE = {
    "card": "advice, tests/preflight/test_plan.py",
    "memory_gib": "tests/preflight/test_plan.py",
    "bf16_tflops": "the first estimate of a plan",
    "watts": "tests/money/test_energy.py",
}


def test_every_key_has_an_effect() -> None:
    assert set(CHANGES) | set(ELSEWHERE) == set(GpuSection.model_fields)


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_the_price(key: str) -> None:
    value, beside, field = CHANGES[key]
    before, after = priced("rtx-4090", **beside), priced("rtx-4090", **{**beside, key: value})
    assert getattr(before, field) != getattr(after, field)


def test_a_free_device_has_a_free_disk_and_a_rented_one_no_tariff() -> None:
    more = {"disk_usd_per_hour": 0.02, "tariff_usd_per_kwh": 0.3}
    assert priced("rtx-4090", **more).usd(3600.0, watts=1000.0) == pytest.approx(0.71)
    assert priced("free", **more).usd(3600.0, watts=1000.0) == 0.0


def test_dollars_need_a_price(composed: Compose) -> None:
    assert required(composed("study=demo")) is None  # it runs without
    assert required(composed("study=demo", "gpu=t4", "budget.usd=1")) == Price.of(composed("study=demo", "gpu=t4").gpu)
    for overrides in (["budget.usd=1"], ["stop=no-improvement", "stop.usd=1"]):
        with pytest.raises(ConfigError) as caught:
            required(composed("study=demo", *overrides))
        key = overrides[-1].partition("=")[0]
        [problem] = caught.value.problems
        assert problem == (
            f"{key}: dollars need a price, but gpu=auto has none; gpu.billing=on-demand needs gpu.price_usd_per_hour, "
            f"or take an option that has one: {', '.join(f'gpu={name}' for name in known_gpus())}"
        )


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["gpu=owned"], "needs gpu.purchase_usd and gpu.life_hours, but gpu=owned has null and null"),
        (
            ["gpu=owned", "gpu.purchase_usd=9"],
            "needs gpu.purchase_usd and gpu.life_hours, but gpu=owned has 9.0 and null",
        ),
        (["gpu=rtx-4090", "gpu.billing=spot"], "needs gpu.spot_usd_per_hour, but gpu=rtx-4090 has null"),
    ],
)
def test_a_billing_that_is_asked_for_needs_its_price(composed: Compose, overrides: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        required(composed("study=demo", *overrides))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("gpu.price_usd_per_hour=0", "greater than 0, but got 0"),
        ("gpu.price_usd_per_hour=inf", "finite number"),
        ("gpu.purchase_usd=-1", "greater than 0"),
        ("gpu.tariff_usd_per_kwh=nan", "greater than or equal to 0|finite number"),
        ("gpu.boot_s=-1", "greater than or equal to 0"),
        ("gpu.billing=rent", "'on-demand', 'spot', 'owned' or 'free'"),
        ("gpu.price_date=yesterday", "match"),
    ],
)
def test_an_impossible_price_is_refused(composed: Compose, override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(override.partition('=')[0])}: .*({problem})"):
        composed("study=demo", override)


def test_a_run_without_a_price_is_told_which_option_fits() -> None:
    assert advice("NVIDIA GeForce RTX 4090").startswith(
        "gpu=rtx-4090 has $0.69 an hour (RunPod, secure cloud, 2026-11-24); gpu.price_usd_per_hour sets your own"
    )
    for card in ("Tesla V100-SXM2-16GB", "NVIDIA GeForce GTX 1080", None):
        assert advice(card).startswith("gpu.price_usd_per_hour sets your own")


def test_the_table_of_keys_is_whole() -> None:
    text = (Path(prices.__file__).parents[2] / "conf" / "README.md").read_text(encoding="utf-8")
    money = text.partition("\n## Money\n")[2].partition("\n## ")[0]
    assert [key for key in GpuSection.model_fields if f"`{key}`" not in money and f"gpu.{key}" not in money] == []
