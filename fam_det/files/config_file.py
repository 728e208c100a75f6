"""Reads config files in YAML without running code in them.

Detectron2's ``merge_from_file`` lets a file run code (``!!python/object/apply:eval``) and downloads
a ``_BASE_``. Here both are refused, except code in Detectron2's own files: the RetinaNets of its
model zoo use it.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fam_det.files import short

import detectron2
from detectron2.config import CfgNode

_PACKAGE = Path(detectron2.__file__).parent
# In a Detectron2 that was built in place the model zoo is a link out of the package.
TRUSTED = (_PACKAGE.resolve(), (_PACKAGE / "model_zoo" / "configs").resolve())
BASE = "_BASE_"
MAX_VALUES = 100_000  # in a file, after its aliases are expanded
# Error of yacs for a value of another type than the key's.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs\. <class '\w+'>\) with values \((.*) vs\. (.*)\) "
    r"for config key: (\S+)",
    re.DOTALL,
)


def merge_config(
    cfg: CfgNode, file: str | Path, opts: Sequence[str] = (), *, allow_unsafe: bool = False
) -> None:
    """Merges a config file, with the files it is based on, and then KEY VALUE pairs.

    Later bases override earlier ones, as in fvcore. With ``allow_unsafe`` a file may run code in
    Python tags, as in Detectron2.

    Raises:
        ValueError: a file that cannot be read or would run code, an unknown key or a value of
            another type; one line that names file and key.
    """
    if not allow_unsafe:
        _check_file(Path(file), cfg, ())
    _merge(cfg, str(file), partial(cfg.merge_from_file, str(file)))
    merge_pairs(cfg, opts)


def merge_pairs(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Merges KEY VALUE pairs; a ValueError names an unknown key or one of another type."""
    if len(pairs) % 2:
        raise ValueError(f"got {pairs[-1]!r} at the end, expected pairs of KEY VALUE")
    _merge(cfg, "KEY VALUE pairs", partial(cfg.merge_from_list, list(pairs)))


def _merge(cfg: CfgNode, where: str, merge: Callable[[], None]) -> None:
    """Merges, and refuses a null, which yacs takes for any key; weights may be null."""
    before = dict(_values(cfg))
    try:
        merge()
    except Exception as error:  # yacs, fvcore and PyYAML raise errors of many types
        raise ValueError(f"{where}: {_reason(error, cfg)}") from error
    for key, value in _values(cfg):
        known = before.get(key)
        if value is None and known is not None and not key.endswith("WEIGHTS"):
            kind = type(known).__name__
            raise ValueError(f"{where}: {key}: got null, expected {kind}, such as {known!r}")


def _check_file(file: Path, cfg: CfgNode, parents: tuple[Path, ...]) -> None:
    resolved = file.resolve()
    if resolved in parents:
        raise ValueError(f"{file}: {BASE}: it is its own base, through {parents[-1].name}")
    content = _read(file, trusted=any(resolved.is_relative_to(folder) for folder in TRUSTED))
    _check_nodes(file, content, cfg)
    bases = content.get(BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or base.startswith(("http://", "https://")):
            raise ValueError(f"{file}: {BASE}: got {base!r}, expected a file on this machine")
        path = file.parent / Path(base).expanduser()
        if not os.path.isfile(path):  # noqa: PTH113  Path.is_file fails for a name that is too long
            raise ValueError(f"{file}: {BASE}: got {base[:200]!r}, but there is no such file")
        _check_file(path, cfg, (*parents, resolved))


def _check_nodes(file: Path, content: dict[str, Any], cfg: CfgNode, prefix: str = "") -> None:
    """Raises a ValueError for a value in place of a node, on which Detectron2 crashes."""
    for key, value in content.items():
        node = cfg.get(key)
        if not isinstance(node, CfgNode):
            continue
        if not isinstance(value, dict):
            raise ValueError(
                f"{file}: {prefix}{key}: got {short(value)}, expected KEY: VALUE below it"
            )
        _check_nodes(file, value, node, f"{prefix}{key}.")


def _read(file: Path, *, trusted: bool) -> dict[str, Any]:
    loader: Any = yaml.UnsafeLoader if trusted else yaml.SafeLoader
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), loader)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{file}: {_yaml_error(error)}: would run code, or is no plain value; "
            "write the value out, or call train_net.py with --allow-unsafe-config for a file that "
            "you trust"
        ) from error
    except Exception as error:
        raise ValueError(f"{file}: {_reason(error, cfg=None)}") from error
    if not isinstance(content, dict):
        kind = "nothing" if content is None else type(content).__name__
        raise ValueError(f"{file}: holds {kind}, expected KEY: VALUE")
    if _count(content, {}, ()) > MAX_VALUES:
        raise ValueError(f"{file}: more than {MAX_VALUES:,} values, or one that holds itself")
    return content


def _count(value: Any, counts: dict[int, int], parents: tuple[int, ...]) -> int:
    """Returns how many values there would be with aliases expanded, without expanding them.

    A few lines of nested aliases can stand for billions of values.
    """
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) in parents:
        return MAX_VALUES + 1
    if id(value) not in counts:
        items = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count(x, counts, (*parents, id(value))) for x in items)
    return counts[id(value)]


def _reason(error: BaseException, cfg: CfgNode | None) -> str:
    """Returns what is wrong, in one line, with the closest name for an unknown key."""
    if isinstance(error, yaml.MarkedYAMLError):
        return _yaml_error(error, "not YAML: ")
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    unknown = text.removeprefix("Non-existent ").removeprefix("config ").removeprefix("key: ")
    if unknown != text and cfg is not None:
        shown = unknown if unknown.isprintable() else repr(unknown)
        close = difflib.get_close_matches(unknown, dict(_values(cfg)), n=1, cutoff=0.7)
        return f"{shown[:200]}: unknown key" + "".join(f"; did you mean {x}?" for x in close)
    if mismatch := _MISMATCH.fullmatch(text):
        kind, default, value, key = mismatch.groups()
        if kind == "tuple" and not default[1:2].isdigit():  # of names
            default = f"('{value}',)"
        elif kind == "tuple" and value.isdigit():
            default = f"({value},)"
        example = f'"{default}"' if kind == "tuple" else default  # quoted for a shell
        return f"{key}: got {value[:200]!r}, expected {kind}, such as {example}"
    return " ".join(text.split())[:1000] or type(error).__name__


def _yaml_error(error: yaml.MarkedYAMLError, kind: str = "") -> str:
    line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    return f"{line}{kind}{' '.join(str(error.problem)[:300].split())}"


def _values(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield prefix + key, value
        if isinstance(value, CfgNode):
            yield from _values(value, f"{prefix}{key}.")
