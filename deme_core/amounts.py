"""Amounts as people read them."""

UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float, unit: str) -> str:
    """A number with three digits and a prefix: 1,234,567 B -> 1.23 MB."""
    for size, prefix in UNITS:
        if value >= 0.9995 * size:  # 999.5 is 1,000 to three digits
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
