"""Reads the file of a study: its runs, their seeds, and the run that they are compared with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fam_det.files import one_line

TOOLS = ("train_net", "train_classifier")
REQUIRED_KEYS = {"tool", "metric", "seeds", "baseline", "runs"}
OPTIONAL_KEYS = {"about", "choice_seed", "peer", "overrides", "milliseconds", "teacher"}
RUN_KEYS = {"name", "config", "overrides", "seeds", "choose", "needs"}
PLACEHOLDER = re.compile(r"\{(\w[\w -]*)\}")


@dataclass(frozen=True)
class Choice:
    """Values of a config key, one of which is chosen on a seed that is not reported."""

    key: str
    values: Sequence[Any]
    seed: int


@dataclass(frozen=True)
class RunDefinition:
    """One row of the study's table."""

    name: str
    config: str  # file
    overrides: Mapping[str, Any]  # values by config key, with placeholders
    seeds: Sequence[int]  # in the report
    choose: Choice | None = None  # made before these seeds are trained
    needs: str | None = None  # name of the run whose output folder is {needs}: the teacher


@dataclass(frozen=True)
class Study:
    """A study's file."""

    name: str  # stem of the file
    about: str  # question of the study, for the head of its report
    tool: str  # one of TOOLS
    metric: str  # key in metrics.json that runs are compared by; larger is better
    runs: Mapping[str, RunDefinition]  # rows by name
    baseline: str  # row that every other is compared with
    peer: str | None  # second such row
    placeholders: frozenset[str]  # names that --set gives values to
    milliseconds: Mapping[str, float]  # an image takes, by SIZE of the runs "METHOD, SIZE"
    teacher: Mapping[str, float]  # its "milliseconds" and "score", for the plot; may be empty


def load_study(file: Path) -> Study:
    """Reads a study's file.

    Raises:
        ValueError: an invalid file; one line names the file, the key, and what is expected.
    """
    try:
        return _study(file.stem, yaml.safe_load(file.read_text()))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: {one_line(error)}") from error


def file_name(text: str) -> str:
    """Replaces characters of a text that a file name should not have."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text)


def _study(name: str, node: Any) -> Study:
    _check_keys("the file", node, REQUIRED_KEYS | OPTIONAL_KEYS, REQUIRED_KEYS)
    if node["tool"] not in TOOLS:
        raise ValueError(f"tool: got {node['tool']!r}, expected one of {TOOLS}")
    if not isinstance(node["runs"], list) or not node["runs"]:
        raise ValueError("runs: expected a list of at least one run")
    runs: dict[str, RunDefinition] = {}
    for entry in node["runs"]:
        run = _run(entry, node)
        for other in runs:
            if file_name(other) == file_name(run.name):  # they would share an output folder
                raise ValueError(f"runs: name: got {run.name!r} beside {other!r}, too alike")
        runs[run.name] = run
    placeholders = {name for run in runs.values() for name in _placeholders(run, runs)}
    for key in ("baseline", "peer"):
        if node.get(key) is not None and node[key] not in runs:
            raise ValueError(f"{key}: got {node[key]!r}, expected the name of a run")
    return Study(
        name,
        str(node.get("about", "")).strip(),
        node["tool"],
        str(node["metric"]),
        runs,
        node["baseline"],
        node.get("peer"),
        frozenset(placeholders),
        _milliseconds(node.get("milliseconds") or {}, runs),
        _teacher(node.get("teacher") or {}),
    )


def _milliseconds(node: Any, runs: Mapping[str, RunDefinition]) -> dict[str, float]:
    if not _has_positive_numbers(node):
        raise ValueError(f"milliseconds: got {node!r}, expected numbers above 0 by size")
    for size in node:
        if not any(run.endswith(f", {size}") for run in runs):
            raise ValueError(f"milliseconds: {size}: no run has a name that ends with ', {size}'")
    return node


def _teacher(node: Any) -> dict[str, float]:
    if node and not (_has_positive_numbers(node) and set(node) == {"milliseconds", "score"}):
        raise ValueError(f"teacher: got {node!r}, expected its milliseconds and its score")
    return dict(node)


def _run(node: Any, study: Mapping[str, Any]) -> RunDefinition:
    where = f"run {node.get('name')!r}" if isinstance(node, dict) else "runs"
    _check_keys(where, node, RUN_KEYS, {"name", "config"})
    if not isinstance(node["name"], str) or not node["name"].strip():
        raise ValueError(f"runs: name: got {node['name']!r}, expected words")
    if not isinstance(node["config"], str) or not Path(node["config"]).is_file():
        raise ValueError(f"{where}: config: no file {node['config']}")
    overrides: dict[str, Any] = {}
    for part in (study.get("overrides"), node.get("overrides")):
        if part is not None and not _has_config_keys(part):
            raise ValueError(f"{where}: overrides: got {part!r}, expected values by config key")
        overrides |= part or {}
    for key in ("SEED", "OUTPUT_DIR"):
        if key in overrides:
            raise ValueError(f"{where}: overrides: {key} is set by the study itself")
    seeds = node.get("seeds", study["seeds"])
    if not _are_seeds(seeds):
        raise ValueError(f"{where}: seeds: got {seeds!r}, expected different integers of 0 or more")
    choice = None
    if node.get("choose") is not None:
        choice = _choice(where, node["choose"], study.get("choice_seed"), seeds)
    return RunDefinition(node["name"], node["config"], overrides, seeds, choice, node.get("needs"))


def _choice(where: str, node: Any, seed: Any, seeds: Sequence[int]) -> Choice:
    if not _has_config_keys(node) or len(node) != 1:
        raise ValueError(f"{where}: choose: got {node!r}, expected one key with a list of values")
    ((key, values),) = node.items()
    if not isinstance(values, list) or len(values) < 2 or len({*map(str, values)}) < len(values):
        raise ValueError(f"{where}: choose: {key}: got {values!r}, expected different values, 2+")
    if not _are_seeds([seed]) or seed in seeds:
        raise ValueError(
            f"choice_seed: got {seed!r}, expected an integer that is not among the seeds of "
            f"{where}, {list(seeds)}"
        )
    return Choice(key, values, seed)


def _has_positive_numbers(node: Any) -> bool:
    return _has_config_keys(node) and all(type(x) in (int, float) and x > 0 for x in node.values())


def _has_config_keys(node: Any) -> bool:
    return isinstance(node, dict) and all(isinstance(key, str) and key for key in node)


def _are_seeds(seeds: Any) -> bool:
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in seeds):
        return False
    return 0 < len(seeds) == len(set(seeds))


def _placeholders(run: RunDefinition, runs: Mapping[str, RunDefinition]) -> set[str]:
    """Checks a run's ``needs``; returns the placeholders to which --set gives values."""
    needed = runs.get(run.needs or "")
    if run.needs is not None and needed is None:
        raise ValueError(f"run {run.name!r}: needs: got {run.needs!r}, expected the name of a run")
    if needed and (needed.needs or needed.choose or len(needed.seeds) != 1):
        raise ValueError(
            f"run {run.name!r}: needs: {run.needs!r} must have one seed, need no other run and "
            "choose no value"
        )
    names = set()
    for key, value in run.overrides.items():
        for name in PLACEHOLDER.findall(str(value)):
            if name == "needs" and run.needs is None:
                raise ValueError(f"run {run.name!r}: has {{needs}} in an override, but no 'needs'")
            if name != "needs" and not name.isupper():
                raise ValueError(
                    f"run {run.name!r}: overrides: {key}: unknown placeholder {{{name}}}, expected "
                    "{needs} or a name in capitals, which --set gives"
                )
            names.add(name)
    return names - {"needs"}


def _check_keys(where: str, node: Any, known: set[str], required: set[str]) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"{where}: got {type(node).__name__}, expected keys {sorted(required)}")
    for key in sorted(set(node) - known, key=str):
        raise ValueError(f"{where}: unknown key {key!r}, expected {sorted(known)}")
    for key in sorted(required - set(node)):
        raise ValueError(f"{where}: {key!r} is missing")
