"""A config as the YAML that a person would have written: what differs from the defaults."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from detectron2.config import CfgNode

INDENT = "  "


def to_yaml(cfg: CfgNode, defaults: CfgNode, reasons: Mapping[str, str]) -> str:
    """YAML of the keys that differ from the defaults, with comments.

    Args:
        cfg: any config.
        defaults: one with the same keys; together with this YAML it makes ``cfg``.
        reasons: comments by key.
    """
    lines: list[str] = []
    above: tuple[str, ...] = ()
    for path, value in differences(cfg, defaults):
        *nodes, name = path
        shared = sum(1 for _ in _common(nodes, above))
        lines += [f"{INDENT * i}{nodes[i]}:" for i in range(shared, len(nodes))]
        reason = " ".join(reasons.get(".".join(path), "").split())  # a comment ends with its line
        comment = f"  # {reason}" if reason else ""
        lines.append(f"{INDENT * len(nodes)}{name}: {_flow(value)}{comment}")
        above = tuple(nodes)
    return "\n".join([*lines, f"VERSION: {cfg.VERSION}", ""])


def differences(cfg: CfgNode, defaults: CfgNode) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of every key with another value than the default, in the defaults' order."""
    for name, default in defaults.items():
        if isinstance(default, CfgNode):
            for path, value in differences(cfg[name], default):
                yield (name, *path), value
        elif cfg[name] != default:
            yield (name,), cfg[name]


def _common(nodes: list[str], above: tuple[str, ...]) -> Iterator[str]:
    """The nodes that are open already."""
    for node, other in zip(nodes, above, strict=False):
        if node != other:
            return
        yield node


def _flow(value: Any) -> str:
    """A value on one line; in a list, so that YAML neither folds a string nor ends the document."""
    text = yaml.safe_dump([_plain(value)], default_flow_style=True, width=float("inf"))
    return text.strip()[1:-1]


def _plain(value: Any) -> Any:
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value
