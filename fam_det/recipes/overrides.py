"""Values of config keys with their reasons, and the YAML that a person would have written."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fam_det.analysis.runs import flatten
from fam_det.config import default_config
from fam_det.files.config_file import merge_pairs

from detectron2 import model_zoo
from detectron2.config import CfgNode

# Nodes and keys that a resumed run may have other values of.
MAY_CHANGE = (
    *("SOLVER.", "TEST.", "DATALOADER.", "VIS_PERIOD", "CUDNN_BENCHMARK", "VERSION"),
    *("MODEL.DEVICE", "MODEL.TEACHER.CACHE", "MODEL.DISTILLER.WARMUP_ITERS"),
)


class Override(NamedTuple):
    """A value for a config key or node, and a few words for the comment beside it, or ""."""

    value: Any
    reason: str = ""


Overrides = dict[str, Override]


def given_weights(flag: str, weights: str) -> Override:
    """Returns a checkpoint that the user names, or "" for "none"."""
    if weights == "none":
        return Override("", "random weights")
    if "://" in weights or Path(weights).is_file():
        return Override(weights)
    with suppress(RuntimeError):
        return Override(model_zoo.get_checkpoint_url(weights), f"of {weights}")
    raise ValueError(
        f"{flag}: {weights} does not exist; give a checkpoint, the name of a config in the model "
        "zoo, or 'none' for random weights"
    )


def build_config(
    overrides: Mapping[str, Override], options: Sequence[str], base: CfgNode | None = None
) -> CfgNode:
    """Returns a config with these overrides, and the user's own KEY VALUE pairs on top.

    Without a ``base`` it is that of the defaults.
    """
    cfg = base.clone() if base else default_config()
    for key, (value, _) in overrides.items():
        path, _, name = key.rpartition(".")
        node = find_node(cfg, path) if path else cfg
        if isinstance(value, CfgNode):
            node[name].merge_from_other_cfg(value)
        else:
            node[name] = tuple(value) if isinstance(node[name], tuple) else value
    merge_pairs(cfg, options)
    return cfg


def find_node(cfg: CfgNode, path: str) -> Any:
    """Returns what stands at a path such as "MODEL.FPN"."""
    return reduce(getitem, path.split("."), cfg)


def changed_keys(old: str, new: str) -> dict[str, tuple[Any, Any]]:
    """Returns the values of keys that two configs in YAML do not share, None for a default."""
    before, after = (flatten(yaml.safe_load(text)) for text in (old, new))
    keys = dict.fromkeys([*before, *after])
    pairs = {key: (before.get(key), after.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def check_resumable(changes: Mapping[str, tuple[Any, Any]], file: str) -> None:
    """Raises a ValueError for a key that makes another detector of a run, or other data."""
    for key, (old, new) in changes.items():
        if not key.startswith(MAY_CHANGE):
            raise ValueError(
                f"--resume: {file} has {key} {old}, and not {new}; give the flags of its first "
                "call, or another --output"
            )


def to_yaml(cfg: CfgNode, reasons: Mapping[str, str]) -> str:
    """Returns the keys that differ from the defaults as YAML, with reasons by key as comments."""
    lines = _changed_lines(cfg, default_config(), reasons)
    return "\n".join([*lines, f"VERSION: {cfg.VERSION}", ""])


def _changed_lines(
    cfg: CfgNode, defaults: CfgNode, reasons: Mapping[str, str], path: tuple[str, ...] = ()
) -> Iterator[str]:
    indent = "  " * len(path)
    for name, default in defaults.items():
        if isinstance(default, CfgNode):
            below = list(_changed_lines(cfg[name], default, reasons, (*path, name)))
            if below:
                yield from [f"{indent}{name}:", *below]
        elif cfg[name] != default:
            reason = " ".join(reasons.get(".".join([*path, name]), "").split())  # on one line
            comment = f"  # {reason}" if reason else ""
            yield f"{indent}{name}: {_to_flow(cfg[name])}{comment}"


def _to_flow(value: Any) -> str:
    """Returns YAML on one line; a list around it keeps YAML from folding or ending a string."""
    text = yaml.safe_dump([_to_lists(value)], default_flow_style=True, width=float("inf"))
    return text.strip()[1:-1]


def _to_lists(value: Any) -> Any:
    return [_to_lists(x) for x in value] if isinstance(value, list | tuple) else value
