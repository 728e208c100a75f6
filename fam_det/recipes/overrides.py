"""Values of config keys, each with the reason that is written beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fam_det.config import add_distillation_config

from detectron2.config import CfgNode, get_cfg


@dataclass(frozen=True)
class Choice:
    """A value of a config key.

    Attributes:
        value: of the key's type.
        reason: a few words for the comment, "" for none.
    """

    value: Any
    reason: str = ""


Choices = dict[str, Choice]


def default_config() -> CfgNode:
    """Detectron2's keys and the project's, with their defaults."""
    cfg = get_cfg()
    add_distillation_config(cfg)
    return cfg


def apply_choices(cfg: CfgNode, choices: Mapping[str, Choice]) -> None:
    """Set every key to its value, a list where the default is a tuple to a tuple."""
    for key, choice in choices.items():
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        node[name] = tuple(choice.value) if isinstance(node[name], tuple) else choice.value


def merge_options(cfg: CfgNode, options: list[str]) -> None:
    """Merge KEY VALUE pairs; raises a ValueError for an unknown key or a value of another type."""
    if len(options) % 2:
        raise ValueError(f"got {options[-1]!r} at the end, expected pairs of KEY VALUE")
    for key, value in zip(options[::2], options[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(
                f"{key} {value}: {error}; expected pairs of KEY VALUE, with keys of Detectron2 or "
                "fam_det/config.py"
            ) from error
