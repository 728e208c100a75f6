"""Config overrides with reasons, and YAML that shows the reasons as comments."""

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

# Nodes and keys that may differ in a resumed run.
MAY_CHANGE = (
    *("SOLVER.", "TEST.", "DATALOADER.", "VIS_PERIOD", "CUDNN_BENCHMARK", "VERSION"),
    *("MODEL.DEVICE", "MODEL.TEACHER.CACHE", "MODEL.DISTILLER.WARMUP_ITERS"),
)


class Override(NamedTuple):
    """A value for a config key or node, and the text of its comment, or ""."""

    value: Any
    reason: str = ""


Overrides = dict[str, Override]


def given_weights(flag: str, weights: str) -> Override:
    """Returns the override for a checkpoint that the user names, "" for "none"."""
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
    """Returns a config with these overrides, and then the user's KEY VALUE pairs.

    They are merged into ``base``, by default Detectron2's and the project's defaults.
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
    """Returns the node or value at a path such as "MODEL.FPN"."""
    return reduce(getitem, path.split("."), cfg)


def changed_keys(old: str, new: str) -> dict[str, tuple[Any, Any]]:
    """Returns the keys in which two YAML configs differ, with both values, None for a default."""
    old_values, new_values = (flatten(yaml.safe_load(text)) for text in (old, new))
    keys = dict.fromkeys([*old_values, *new_values])
    pairs = {key: (old_values.get(key), new_values.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def check_resumable(changes: Mapping[str, tuple[Any, Any]], file: str) -> None:
    """Raises a ValueError for a changed key that a run cannot be resumed with."""
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
            lines = list(_changed_lines(cfg[name], default, reasons, (*path, name)))
            if lines:
                yield from [f"{indent}{name}:", *lines]
        elif cfg[name] != default:
            reason = " ".join(reasons.get(".".join([*path, name]), "").split())  # on one line
            comment = f"  # {reason}" if reason else ""
            # Dumped in a list: YAML would fold a bare string, or end it with "...".
            value = [_to_lists(cfg[name])]
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf")).strip()[1:-1]
            yield f"{indent}{name}: {text}{comment}"


def _to_lists(value: Any) -> Any:
    return [_to_lists(x) for x in value] if isinstance(value, list | tuple) else value
