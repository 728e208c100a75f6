"""A config as Detectron2 alone knows it."""

from typing import Any

from detectron2.config import get_cfg


def without_our_keys(cfg: Any, plain: Any = None) -> Any:
    """The same node, less the keys that Detectron2 does not have."""
    plain = get_cfg() if plain is None else plain
    for key in list(cfg):
        if key not in plain:
            del cfg[key]
        elif isinstance(plain[key], dict):
            without_our_keys(cfg[key], plain[key])
    return cfg
