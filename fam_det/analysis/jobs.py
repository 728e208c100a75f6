"""The jobs of a study, each of which is one training."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Optional

from fvcore.common.config import CfgNode

from fam_det.analysis.study import PLACEHOLDER, RunDefinition, Study, file_name

DEFINITION_FILE = "definition"  # file in an output folder with the definition of its job


@dataclass(frozen=True)
class Job:
    """A run with one seed, or a trial of one of the values to choose from, on the extra seed."""

    run: RunDefinition
    seed: int
    definition: str  # digest of everything that determines the result; others' results are stale
    chosen: Mapping[str, Any] = field(default_factory=dict)  # chosen key with this job's value
    trial: bool = False  # whether it is a trial
    needs: Optional["Job"] = None  # job whose output folder is {needs}

    @property
    def name(self) -> str:
        """Returns the name of its result and of its output folder."""
        parts = [self.run.name, *(str(v) for v in self.chosen.values() if self.trial)]
        return "_".join(file_name(part) for part in [*parts, f"seed{self.seed}"])

    @property
    def title(self) -> str:
        """Returns the name for people."""
        values = "".join(f", {k.rpartition('.')[2]} {v}" for k, v in self.chosen.items())
        return f"{self.run.name}{values}, seed {self.seed}"

    def arguments(self, settings: Mapping[str, str]) -> list[str]:
        """Returns KEY VALUE pairs for the training tool, placeholders replaced by ``settings``."""
        overrides = {**self.run.overrides, **self.chosen, "SEED": self.seed}
        pairs = []
        for key, value in overrides.items():
            pairs += [key, PLACEHOLDER.sub(lambda match: settings[match[1]], str(value))]
        return pairs

    def owns(self, folder: Path) -> bool:
        """Returns whether an output folder is of this job with the same definition."""
        file = folder / DEFINITION_FILE
        return file.exists() and file.read_text() == self.definition


def make_job(
    study: Study,
    run: RunDefinition,
    seed: int,
    chosen: Mapping[str, Any] | None = None,
    *,
    trial: bool = False,
) -> Job:
    """Makes a job with the digest of its definition and that of the job that it needs."""
    chosen = chosen or {}
    parts = [study.tool, _read_config(run.config), dict(run.overrides), seed, dict(chosen)]
    needs = None
    if run.needs:
        teacher = study.runs[run.needs]
        needs = make_job(study, teacher, teacher.seeds[0])
        parts.append(needs.definition)
    text = json.dumps(parts, sort_keys=True, default=str)
    definition = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Job(run, seed, definition, chosen, trial, needs)


def trial_jobs(study: Study, run: RunDefinition) -> list[Job]:
    """Returns the jobs that choose a run's value; none if nothing is to choose."""
    if run.choose is None:
        return []
    key, seed = run.choose.key, run.choose.seed
    return [make_job(study, run, seed, {key: value}, trial=True) for value in run.choose.values]


def reported_jobs(study: Study, run: RunDefinition, chosen: Mapping[str, Any]) -> list[Job]:
    """Returns the jobs of the reported seeds, with the chosen value."""
    return [make_job(study, run, seed, chosen) for seed in run.seeds]


def device(run: RunDefinition, options: Mapping[str, str]) -> str:
    """Returns the device that a run trains on, ``cpu`` or ``cuda``."""
    config = _read_config(run.config).get("MODEL", {}).get("DEVICE", "cuda")
    return str(options.get("MODEL.DEVICE", run.overrides.get("MODEL.DEVICE", config)))


@cache
def _read_config(file: str) -> dict[str, Any]:
    return dict(CfgNode.load_yaml_with_base(file))
