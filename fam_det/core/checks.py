"""Checks of options; each raises a ValueError that names the option, with got and expected."""

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises unless the value is one of the choices."""
    expected = list(choices)
    if value not in expected:
        raise ValueError(f"{name}: got {value!r}, expected one of {expected}")


def check_option(key: str, value: object, valid: bool, expected: str) -> None:
    """Raises unless the value is valid."""
    if not valid:
        raise ValueError(f"{key}: got {value}, expected {expected}")


def check_positive(key: str, value: float, *, zero: bool = False) -> None:
    """Raises unless the value is positive, or 0 where allowed."""
    is_valid = value > 0 or (zero and value == 0)  # NaN is not
    check_option(key, value, is_valid, "0 or more" if zero else "more than 0")


def check_channels(**channels: int) -> None:
    """Raises for the first number of channels below 1."""
    for name, value in channels.items():
        check_option(name, value, value >= 1, "an integer >= 1")
