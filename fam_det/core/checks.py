"""Checks of options; each raises a ValueError that names the option, with got and expected."""

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises unless the value is one of the choices."""
    expected = list(choices)
    if value not in expected:
        raise ValueError(f"{name}: got {value!r}, expected one of {expected}")


def check_channels(**channels: int) -> None:
    """Raises for the first number of channels below 1."""
    for name, value in channels.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected an integer >= 1")
