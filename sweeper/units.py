"""Units, everywhere the same."""

import math

GIB = 1024**3
MIB = 1024**2


def size_text(size_bytes: float) -> str:
    """Bytes in words: `17 B`, `1.5 KiB`, `2.0 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    unit, name = (GIB, "GiB") if size_bytes >= GIB else (MIB, "MiB") if size_bytes >= MIB else (1024, "KiB")
    return f"{size_bytes / unit:.1f} {name}"


def usd_text(usd: float, beside: float | None = None) -> str:
    """Dollars in words: `$197.43`, `$0.0123`; never a zero for what is none.

    Args:
        beside: the sum that it is a part of; all of its parts get as many decimals, one more than itself.
    """
    size, digits = (usd, 2) if beside is None else (beside, 3)
    places = 2 if not size else min(6, max(2, digits - math.floor(math.log10(abs(size)))))
    if usd and abs(usd) < 0.5 * 10**-places:
        return f"<${10**-places:.{places}f}"
    return f"${usd:,.{places}f}"


def time_text(seconds: float) -> str:
    """Seconds in words: `0.4 s`, `12 s`, `4 min 05 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
