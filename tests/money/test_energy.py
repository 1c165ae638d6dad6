from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
import sqlalchemy
import torch

from sweeper.config.schema import Config
from sweeper.memory.nvml import NvmlDevice, NvmlUnavailable
from sweeper.money.bill import bill, labels
from sweeper.money.booking import Activity, Whose
from sweeper.money.energy import energy_meter
from sweeper.money.ledger import Ledger
from sweeper.money.meter import Meter
from sweeper.money.price import Price
from sweeper.trial import RunKind
from sweeper.units import GIB
from tests.memory.test_readings import A_UUID, Card, FakeNvml

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Metered(FakeNvml):
    """A card that takes electricity."""

    energy_mj = 5_000_000
    power_mw = 200_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Card) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetTotalEnergyConsumption")
        return self.energy_mj

    def nvmlDeviceGetPowerUsage(self, handle: Card) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetPowerUsage")
        return self.power_mw


def refused(code: int) -> Exception:
    error: Exception = pynvml.NVMLError(code)
    return error


class Bench:
    """A card or a processor, a clock, and what meters it."""

    def __init__(self, composed: Callable[..., Config], folder: Path) -> None:
        self._composed, self.powercap = composed, folder
        self.nvml, self.clock = Metered(Card(f"GPU-{A_UUID}")), Clock()

    def meter(self, device: torch.device, *overrides: str) -> tuple[Callable[[], int] | None, str]:
        def open_device(device: torch.device) -> NvmlDevice:
            return NvmlDevice(A_UUID, 8 * GIB, load=lambda: self.nvml)

        return energy_meter(self.config(*overrides), device, open_device, self.powercap, self.clock)

    def config(self, *overrides: str) -> Config:
        return self._composed("study=demo", *overrides)

    def metered(self, device: torch.device, *overrides: str) -> Callable[[], int]:
        energy, _ = self.meter(device, *overrides)
        assert energy is not None
        return energy

    def zone(self, number: str, name: str, energy_uj: int, range_uj: int = 1_000_000) -> Path:
        folder = self.powercap / f"intel-rapl:{number}"
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        return folder / "energy_uj"


@pytest.fixture
def bench(composed: Callable[..., Config], tmp_path: Path) -> Bench:
    folder = tmp_path / "powercap"
    folder.mkdir()
    return Bench(composed, folder)


def test_the_cards_counter_is_read_from_now_on(bench: Bench) -> None:
    energy, words = bench.meter(CUDA, "gpu.watts=999")
    assert words == "Electricity is counted by NVML's energy counter of the card."
    assert energy is not None
    assert energy() == 0
    bench.nvml.energy_mj += 1234
    bench.clock.now_s += 60
    assert energy() == 1234
    bench.nvml.energy_mj = 10  # the driver was loaded anew
    assert energy() == 1244
    bench.nvml.energy_mj += 6
    assert energy() == 1250


def test_a_card_without_a_counter_is_read_by_its_power(bench: Bench) -> None:
    bench.nvml.fail["nvmlDeviceGetTotalEnergyConsumption"] = refused(pynvml.NVML_ERROR_NOT_SUPPORTED)
    energy, words = bench.meter(CUDA)
    assert words == (
        "Electricity is counted by NVML's power readings of the card; not by NVML's energy counter of the card: the "
        "device does not support the question."
    )
    assert energy is not None
    bench.clock.now_s += 10
    bench.nvml.power_mw = 300_000
    assert energy() == 2_500_000  # ten seconds at 250 W
    bench.clock.now_s += 1
    assert energy() == 2_800_000


@pytest.mark.parametrize(("overrides", "is_metered"), [([], False), (["gpu.watts=100"], True)])
def test_without_nvml_the_watts_that_are_said_count(bench: Bench, overrides: list[str], is_metered: bool) -> None:
    bench.nvml.fail["nvmlInit"] = refused(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    energy, words = bench.meter(CUDA, *overrides)
    why = (
        "not by NVML's energy counter of the card: the NVML library, which comes with the NVIDIA driver, is not on this"
    )
    assert words.count(why) == words.count("NVML library") == 1
    if not is_metered:
        assert energy is None
        assert words.startswith("Electricity is not counted; ")
        assert words.endswith(" machine. gpu.watts=NUMBER says what the device draws.")
        return
    assert words.startswith("Electricity is counted by gpu.watts=100 at all times; ")
    assert energy is not None
    bench.clock.now_s += 7.5
    assert energy() == 750_000


def test_values_that_are_not_available_are_none(bench: Bench) -> None:
    device = NvmlDevice(A_UUID, 8 * GIB, load=lambda: bench.nvml)
    assert (device.energy_mj(), device.power_mw()) == (5_000_000, 200_000)
    bench.nvml.energy_mj, bench.nvml.power_mw = 2**64 - 1, 2**32 - 1
    for read in (device.energy_mj, device.power_mw):
        with pytest.raises(NvmlUnavailable, match="N/A"):
            read()
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_uint.value == 2**32 - 1


def test_a_meter_that_fails_on_the_way_is_replaced_without_a_gap(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    energy = bench.metered(CUDA, "gpu.watts=50")
    bench.nvml.energy_mj += 1000
    assert energy() == 1000
    bench.clock.now_s += 4
    bench.nvml.fail["nvmlDeviceGetTotalEnergyConsumption"] = refused(pynvml.NVML_ERROR_GPU_IS_LOST)
    with caplog.at_level(logging.WARNING):
        assert energy() == 1000 + 4 * 200_000  # the power now, since the counter was last read
    bench.clock.now_s += 1
    bench.nvml.fail["nvmlDeviceGetPowerUsage"] = refused(pynvml.NVML_ERROR_GPU_IS_LOST)
    with caplog.at_level(logging.WARNING):
        assert energy() == 801_000 + 50_000
    bench.clock.now_s += 1
    assert energy() == 901_000
    lost = "(the GPU has fallen off the bus; restart the machine)"
    counter, power = "NVML's energy counter of the card", "NVML's power readings of the card"
    assert [record.getMessage() for record in caplog.records if record.name == "sweeper.money.energy"] == [
        f"electricity is no longer counted by {counter} {lost}, but by {power}",
        f"electricity is no longer counted by {power} {lost}, but by gpu.watts=50 at all times",
    ]


def test_a_meter_that_nothing_replaces_stands_still(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    energy = bench.metered(CUDA)
    bench.nvml.energy_mj += 70
    assert energy() == 70
    for name in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"):
        bench.nvml.fail[name] = refused(pynvml.NVML_ERROR_UNKNOWN)
    for _ in range(3):
        bench.clock.now_s += 1
        assert energy() == 70
    [record] = [record for record in caplog.records if record.name == "sweeper.money.energy"]
    assert record.getMessage().endswith("but not at all; gpu.watts=NUMBER says what the device draws")


def test_processors_count_their_own_energy_and_begin_again_at_zero(bench: Bench) -> None:
    first, second = bench.zone("0", "package-0", 900_000), bench.zone("1", "package-1", 0)
    bench.zone("0:0", "core", 5).write_text("nonsense")
    bench.zone("2", "psys", 5).write_text("nonsense")  # the whole machine, packages included
    energy, words = bench.meter(CPU)
    assert words == "Electricity is counted by the energy counters of the processor (RAPL)."
    assert energy is not None
    first.write_text("950000\n")
    second.write_text("30000\n")
    assert energy() == 80
    first.write_text("20000\n")
    assert energy() == 150
    assert energy() == 150


def test_a_processor_that_may_not_be_read_has_its_watts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.meter(CPU) == (
        None,
        "Electricity is not counted; not by the energy counters of the processor (RAPL): there are none in "
        f"{bench.powercap}. gpu.watts=NUMBER says what the device draws.",
    )
    secret = bench.zone("0", "package-0", 0)
    read_text = Path.read_text

    def refuse(self: Path, *args: str, **options: str) -> str:
        if self == secret:  # a mode of 0 keeps nobody out who is root
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    energy, words = bench.meter(CPU, "gpu.watts=20")
    assert "Permission denied" in words
    assert energy is not None
    bench.clock.now_s += 2
    assert energy() == 40_000


def test_pynvml_has_what_the_fake_plays() -> None:
    for name in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"):
        assert len(inspect.signature(getattr(pynvml, name)).parameters) == 1


@pytest.mark.parametrize(("watts", "energy_usd"), [("360", 0.03), ("720", 0.06), ("null", None)])
def test_what_a_device_draws_is_paid_by_its_tariff(
    bench: Bench, tmp_path: Path, watts: str, energy_usd: float | None
) -> None:
    overrides = ["gpu=owned", "gpu.purchase_usd=1000", "gpu.life_hours=10000", "gpu.tariff_usd_per_kwh=0.5"]
    energy, _ = bench.meter(CPU, f"gpu.watts={watts}")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/ledger.db")
    ledger, price = Ledger(engine), Price.of(bench.config(*overrides).gpu)
    meter = Meter(ledger, "s", "cpu", price, 100.0, energy, lambda: round(bench.clock.now_s * 1e6), bench.clock)
    bench.clock.now_s += 600
    meter.book(Activity.TRAIN, {Whose(RunKind.TRIAL, 0): 8})
    meter.close()
    whole = bill("s", ledger.sessions("s"), ledger.bookings("s"), labels({}))
    assert whole.energy_usd == (None if energy_usd is None else pytest.approx(energy_usd))
    assert whole.usd == pytest.approx(0.1 / 6 + (energy_usd or 0.0))
    engine.dispose()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_real_card_says_what_it_takes(composed: Callable[..., Config]) -> None:
    energy, words = energy_meter(composed("study=demo"), torch.device("cuda"))
    assert energy is not None, words
    begun_s = time.monotonic()
    while (passed_s := time.monotonic() - begun_s) < 2:
        (torch.ones(2048, 2048, device="cuda") @ torch.ones(2048, 2048, device="cuda")).sum().item()
    assert 3 * passed_s < energy() / 1000 < 2000 * passed_s, words  # watts of an idle card, and of none
