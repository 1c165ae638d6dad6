"""Units, everywhere the same."""

GIB = 1024**3
MIB = 1024**2


def size_text(size_bytes: float) -> str:
    """Bytes in words: `17 B`, `1.5 KiB`, `2.0 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    unit, name = (GIB, "GiB") if size_bytes >= GIB else (MIB, "MiB") if size_bytes >= MIB else (1024, "KiB")
    return f"{size_bytes / unit:.1f} {name}"
