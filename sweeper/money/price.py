"""What a device costs: rented, owned, or free."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sweeper.config.defaults import options
from sweeper.config.schema import Config, GpuSection
from sweeper.errors import ConfigError

HOUR_S = 3600.0
KWH_J = 3.6e6
OWN_PRICE = "your own price"
_NEEDS = {
    "on-demand": ("price_usd_per_hour",),
    "spot": ("spot_usd_per_hour",),
    "owned": ("purchase_usd", "life_hours"),
}


@dataclass(frozen=True)
class Price:
    """What is paid while a worker holds a device.

    Attributes:
        usd_per_hour: of the device, or of the whole machine; without electricity where that is paid by the meter.
        is_per_machine: whether the workers of one machine share it.
        disk_usd_per_hour: of the machine's disk.
        boot_s: what is billed before a machine can be used, once for each time that it boots.
        tariff_usd_per_kwh: of the electricity that the device takes; None where that is in the price.
        label: what it is called, such as `rtx-4090, on demand`.
        source: who asked it, and when; None where nobody did: the device is owned, or free.
    """

    usd_per_hour: float
    is_per_machine: bool
    disk_usd_per_hour: float
    boot_s: float
    tariff_usd_per_kwh: float | None
    label: str
    source: str | None

    @classmethod
    def of(cls, gpu: GpuSection) -> Price | None:
        """The price that the configuration gives; None where it gives none."""
        usd_per_hour = _usd_per_hour(gpu)
        if usd_per_hour is None:
            return None
        is_free, billing = gpu.billing == "free", gpu.billing.replace("-", " ")
        return cls(
            usd_per_hour=usd_per_hour,
            is_per_machine=gpu.price_per == "machine",
            disk_usd_per_hour=0.0 if is_free else gpu.disk_usd_per_hour,
            boot_s=gpu.boot_s,
            tariff_usd_per_kwh=gpu.tariff_usd_per_kwh if gpu.billing == "owned" else None,
            label=gpu.name if gpu.name == billing else f"{gpu.name}, {billing}",
            source=_source(gpu, usd_per_hour) if gpu.billing in ("on-demand", "spot") else None,
        )

    def usd(self, seconds: float, watts: float | None = None) -> float:
        """Of so many seconds of one device by itself, with what it draws where that is paid for."""
        hours = seconds / HOUR_S
        energy_usd = 0.0
        if self.tariff_usd_per_kwh is not None and watts is not None:
            energy_usd = watts * seconds / KWH_J * self.tariff_usd_per_kwh
        return (self.usd_per_hour + self.disk_usd_per_hour) * hours + energy_usd

    def in_words(self) -> str:
        """Such as `$0.69 an hour (rtx-4090, on demand; RunPod, 2026-11-24)`."""
        per = " of the machine" if self.is_per_machine else ""
        disk = f" and ${self.disk_usd_per_hour:g} for its disk" if self.disk_usd_per_hour else ""
        meter = f" and ${self.tariff_usd_per_kwh:g} a kWh" if self.tariff_usd_per_kwh is not None else ""
        source = f"; {self.source}" if self.source else ""
        return f"${self.usd_per_hour:.4g} an hour{per}{disk}{meter} ({self.label}{source})"


def _usd_per_hour(gpu: GpuSection) -> float | None:
    match gpu.billing:
        case "free":
            return 0.0
        case "owned":
            known = gpu.purchase_usd is not None and gpu.life_hours is not None
            return gpu.purchase_usd / gpu.life_hours if known else None  # type: ignore[operator]
        case "spot":
            return gpu.spot_usd_per_hour
    return gpu.price_usd_per_hour


def _source(gpu: GpuSection, usd_per_hour: float) -> str:
    """Who asked the price of a rented device; of another number than the option's, the option's source says nothing."""
    source = (gpu.price_source, gpu.price_date)
    listed = _listed().get(gpu.name)
    is_of_listed = listed is not None and source == (listed.price_source, listed.price_date)
    if is_of_listed and getattr(listed, _NEEDS[gpu.billing][0]) != usd_per_hour:
        return OWN_PRICE
    return ", ".join(word for word in source if word) or OWN_PRICE


def missing(gpu: GpuSection) -> str:
    """Words for a price that is not given: what is to be set."""
    return f"gpu.billing={gpu.billing} needs {' and '.join(f'gpu.{key}' for key in _NEEDS[gpu.billing])}"


def required(config: Config) -> Price | None:
    """The price of a study; one that has a dollar budget must have it.

    Raises:
        ConfigError: if there is none, and dollars are to be counted.
    """
    price = Price.of(config.gpu)
    asks = [
        key
        for key, value in (("budget.usd", config.budget.usd), ("stop.usd", getattr(config.stop, "usd", None)))
        if value is not None
    ]
    if price is None and asks:
        raise ConfigError(
            f"{asks[0]}: dollars need a price, but gpu={config.gpu.name} has none; {missing(config.gpu)}, or take an "
            f"option that has one: {', '.join(f'gpu={name}' for name in known_gpus())}"
        )
    if price is None and config.gpu.billing != "on-demand":  # it was asked for
        got = " and ".join(str(getattr(config.gpu, key) or "null") for key in _NEEDS[config.gpu.billing])
        raise ConfigError(f"{missing(config.gpu)}, but gpu={config.gpu.name} has {got}")
    return price


def known_gpus() -> list[str]:
    """The options of conf/gpu that have a price."""
    return [name for name, gpu in _listed().items() if Price.of(gpu) is not None]


def advice(card_name: str | None) -> str:
    """What a run that has no price may do about it, as a clause.

    Args:
        card_name: the device as its driver names it; None on a CPU.
    """
    of_ones_own = "gpu.price_usd_per_hour sets your own, gpu=owned and gpu=free are for devices that are not rented"
    for name, gpu in _listed().items():
        price = Price.of(gpu)
        if price is not None and gpu.card is not None and gpu.card == card_name:
            return f"gpu={name} has ${price.usd_per_hour:.4g} an hour ({price.source}); {of_ones_own}"
    return of_ones_own


@cache
def _listed() -> dict[str, GpuSection]:
    return {name: GpuSection.model_validate(values) for name, values in options("gpu").items()}
