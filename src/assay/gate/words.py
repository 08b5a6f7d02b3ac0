"""Numbers as a person reads them."""


def percent(share: float, decimals: int = 1) -> str:
    """0.978 as `97.8%`."""
    return f"{100 * share:.{decimals}f}%"


def bound(share: float) -> str:
    """A number that somebody chose, as they wrote it: 0.95 as `95%`, 0.995 as `99.5%`."""
    return f"{100 * share:.6g}%"


def points(share: float, decimals: int = 1) -> str:
    """A difference of percentages, with its sign: 0.012 as `+1.2`."""
    return f"{100 * share:+.{decimals}f}".replace("-", "−")


def margin(share: float) -> str:
    """A margin that somebody chose: 0.01 as `1 point`, 0.005 as `0.5 points`."""
    number = f"{100 * share:.6g}"
    return f"{number} point{'' if number == '1' else 's'}"


def decimals(low: float, high: float, bound: float | None = None) -> int:
    """Decimals, 1 to 4, at which an interval of percentages can be read.

    As many as its width deserves, and enough that its lower end is not written like a bound that it misses or passes
    by a hair.
    """
    by_width = next((d for d in (1, 2, 3) if high - low >= 0.04 * 10**-d), 4)
    if bound is None or low == bound:
        return by_width
    return next((d for d in range(by_width, 4) if f"{100 * low:.{d}f}" != f"{100 * bound:.{d}f}"), 4)
