"""Units, everywhere the same."""

GIB = 1024**3
MIB = 1024**2


def size_text(size_bytes: float) -> str:
    """Bytes in words: `17 B`, `1.5 KiB`, `2.0 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    unit, name = (GIB, "GiB") if size_bytes >= GIB else (MIB, "MiB") if size_bytes >= MIB else (1024, "KiB")
    return f"{size_bytes / unit:.1f} {name}"


def time_text(seconds: float) -> str:
    """Seconds in words: `12 s`, `4 min 05 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def usd_text(usd: float) -> str:
    """Dollars in words: `$12.50`, and what is below ten cents to two digits: `$0.0042`."""
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.2g}"
