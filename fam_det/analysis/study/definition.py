"""A study's file: what is run, over which seeds, and what is compared with what."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TOOLS = ("train_net", "train_classifier")
STUDY_KEYS = {
    "about",
    "tool",
    "metric",
    "seeds",
    "choice_seed",
    "baseline",
    "peer",
    "overrides",
    "runs",
}
RUN_KEYS = {"name", "config", "overrides", "seeds", "choose", "needs"}
PLACEHOLDER = re.compile(r"\{(\w[\w -]*)\}")


@dataclass(frozen=True)
class Choice:
    """The value of a config key that is chosen on one seed, which is then not reported."""

    key: str
    values: Sequence[Any]
    seed: int


@dataclass(frozen=True)
class RunDefinition:
    """One row of the study's table.

    Attributes:
        name: of the row.
        config: config file.
        overrides: values by config key, with placeholders.
        seeds: that are reported.
        choose: a value that is chosen first, None for none.
        needs: name of the run whose output folder ``{needs}`` stands for: the teacher.
    """

    name: str
    config: str
    overrides: Mapping[str, Any]
    seeds: Sequence[int]
    choose: Choice | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: of its file.
        about: what it asks, for the head of its report.
        tool: one of ``TOOLS``.
        metric: key in ``metrics.json`` that runs are compared by; larger is better.
        runs: rows by name.
        baseline: row that every other is compared with.
        peer: a second one.
        placeholders: names that ``--set`` gives values to.
    """

    name: str
    about: str
    tool: str
    metric: str
    runs: Mapping[str, RunDefinition]
    baseline: str
    peer: str | None = None
    placeholders: frozenset[str] = field(default_factory=frozenset)


def load_study(file: Path) -> Study:
    """Read a study's file.

    Raises:
        ValueError: what is wrong in it, in one line that names the file and the key.
    """
    try:
        return _study(file.stem, yaml.safe_load(file.read_text()))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _study(name: str, node: Any) -> Study:
    _check_keys("the file", node, STUDY_KEYS, {"tool", "metric", "seeds", "baseline", "runs"})
    if node["tool"] not in TOOLS:
        raise ValueError(f"tool: got {node['tool']!r}, expected one of {TOOLS}")
    if not isinstance(node["runs"], list) or not node["runs"]:
        raise ValueError("runs: expected a list of at least one run")
    runs: dict[str, RunDefinition] = {}
    for entry in node["runs"]:
        run = _run(entry, node)
        for other in runs.values():
            if file_name(other.name) == file_name(run.name):  # they would share their files
                raise ValueError(f"runs: name: got {run.name!r} beside {other.name!r}, too alike")
        runs[run.name] = run
    for run in runs.values():
        _check_needs(run, runs)
        _check_placeholders(run)
    for key in ("baseline", "peer"):
        if node.get(key) is not None and node[key] not in runs:
            raise ValueError(f"{key}: got {node[key]!r}, expected the name of a run")
    texts = [str(value) for run in runs.values() for value in run.overrides.values()]
    found = {name for text in texts for name in PLACEHOLDER.findall(text)} - {"needs"}
    return Study(
        name,
        str(node.get("about", "")).strip(),
        node["tool"],
        str(node["metric"]),
        runs,
        node["baseline"],
        node.get("peer"),
        frozenset(found),
    )


def _run(node: Any, study: Mapping[str, Any]) -> RunDefinition:
    where = f"run {node.get('name')!r}" if isinstance(node, dict) else "runs"
    _check_keys(where, node, RUN_KEYS, {"name", "config"})
    if not isinstance(node["name"], str) or not node["name"].strip():
        raise ValueError(f"runs: name: got {node['name']!r}, expected words")
    for part in (study.get("overrides"), node.get("overrides")):
        if part is not None and not (isinstance(part, dict) and all(map(_is_key, part))):
            raise ValueError(f"{where}: overrides: got {part!r}, expected values by config key")
    if not isinstance(node["config"], str) or not Path(node["config"]).is_file():
        raise ValueError(f"{where}: config: no file {node['config']}")
    overrides = {**(study.get("overrides") or {}), **(node.get("overrides") or {})}
    for key in ("SEED", "OUTPUT_DIR"):
        if key in overrides:
            raise ValueError(f"{where}: overrides: {key} is set by the study itself")
    seeds = _seeds(where, node.get("seeds", study["seeds"]))
    return RunDefinition(
        str(node["name"]),
        node["config"],
        overrides,
        seeds,
        _choice(where, node.get("choose"), study.get("choice_seed"), seeds),
        node.get("needs"),
    )


def _choice(where: str, node: Any, seed: Any, seeds: Sequence[int]) -> Choice | None:
    if node is None:
        return None
    if not isinstance(node, dict) or len(node) != 1 or not all(map(_is_key, node)):
        raise ValueError(f"{where}: choose: got {node!r}, expected one key with a list of values")
    ((key, values),) = node.items()
    alike = isinstance(values, list) and len({str(value) for value in values}) < len(values)
    if not isinstance(values, list) or len(values) < 2 or alike:
        raise ValueError(f"{where}: choose: {key}: got {values!r}, expected different values, 2+")
    if type(seed) is not int or seed < 0 or seed in seeds:
        raise ValueError(
            f"choice_seed: got {seed!r}, expected an integer that is not among the seeds of "
            f"{where}, {list(seeds)}"
        )
    return Choice(key, values, seed)


def _seeds(where: str, seeds: Any) -> list[int]:
    whole = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds: got {seeds!r}, expected different integers of 0 or more")
    return list(seeds)


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and bool(key)


def file_name(words: str) -> str:
    """Words as part of the name of a file."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in words)


def _check_needs(run: RunDefinition, runs: Mapping[str, RunDefinition]) -> None:
    if run.needs is not None and run.needs not in runs:
        raise ValueError(f"run {run.name!r}: needs: got {run.needs!r}, expected the name of a run")
    if run.needs and (runs[run.needs].needs or len(runs[run.needs].seeds) != 1):
        raise ValueError(
            f"run {run.name!r}: needs: {run.needs!r} must have one seed and need no other run"
        )
    if run.needs and runs[run.needs].choose:
        raise ValueError(f"run {run.name!r}: needs: {run.needs!r} must not choose a value")
    uses = any("needs" in PLACEHOLDER.findall(str(value)) for value in run.overrides.values())
    if uses and run.needs is None:
        raise ValueError(f"run {run.name!r}: has {{needs}} in an override, but no 'needs'")


def _check_placeholders(run: RunDefinition) -> None:
    for key, value in run.overrides.items():
        for name in PLACEHOLDER.findall(str(value)):
            if name != "needs" and not name.isupper():
                raise ValueError(
                    f"run {run.name!r}: overrides: {key}: unknown placeholder {{{name}}}, expected "
                    "{needs} or a name in capitals, which --set gives"
                )


def _check_keys(where: str, node: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"{where}: got {type(node).__name__}, expected keys {sorted(needed)}")
    for key in sorted(set(node) - known, key=str):
        raise ValueError(f"{where}: unknown key {key!r}, expected {sorted(known)}")
    for key in sorted(needed - set(node)):
        raise ValueError(f"{where}: {key!r} is missing")
