"""A study's jobs: each trains one network once."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fvcore.common.config import CfgNode

from fam_det.analysis.study.definition import PLACEHOLDER, RunDefinition, Study, file_name


@dataclass(frozen=True)
class Job:
    """A run with one seed; or, to choose a value, with one of the values on the extra seed.

    Attributes:
        run: what is run.
        seed: of it.
        chosen: the key that is chosen, and the value that this job has.
        trial: whether the job only helps to choose.
        definition: digest of everything that decides what comes out; a result of another one is
            stale.
    """

    run: RunDefinition
    seed: int
    definition: str
    chosen: Mapping[str, Any] = field(default_factory=dict)
    trial: bool = False

    @property
    def name(self) -> str:
        """Name of its result and of its output folder."""
        parts = [self.run.name, *(str(v) for v in self.chosen.values() if self.trial)]
        return "_".join(file_name(part) for part in [*parts, f"seed{self.seed}"])

    @property
    def title(self) -> str:
        """For people."""
        values = "".join(f", {k.rpartition('.')[2]} {v}" for k, v in self.chosen.items())
        return f"{self.run.name}{values}, seed {self.seed}"

    def arguments(self, settings: Mapping[str, str]) -> list[str]:
        """KEY VALUE pairs for the training tool, placeholders filled in from ``settings``."""
        overrides = {**self.run.overrides, **self.chosen, "SEED": self.seed}
        return [
            text
            for key, value in overrides.items()
            for text in (key, PLACEHOLDER.sub(lambda m: settings[m[1]], str(value)))
        ]


def make_job(
    study: Study,
    run: RunDefinition,
    seed: int,
    *,
    chosen: Mapping[str, Any] | None = None,
    trial: bool = False,
) -> Job:
    """A job with the digest of what decides its outcome, the job it needs included."""
    chosen = chosen or {}
    parts: list[Any] = [
        study.tool,
        _read_config(run.config),
        dict(run.overrides),
        seed,
        dict(chosen),
    ]
    if run.needs:
        teacher = study.runs[run.needs]
        parts.append(make_job(study, teacher, teacher.seeds[0]).definition)
    text = json.dumps(parts, sort_keys=True, default=str)
    return Job(run, seed, hashlib.sha256(text.encode()).hexdigest()[:16], chosen, trial)


def trials(study: Study, run: RunDefinition) -> list[Job]:
    """The jobs that choose a run's value, none where nothing is chosen."""
    if run.choose is None:
        return []
    key, seed = run.choose.key, run.choose.seed
    return [make_job(study, run, seed, chosen={key: v}, trial=True) for v in run.choose.values]


def reported(study: Study, run: RunDefinition, chosen: Mapping[str, Any]) -> list[Job]:
    """The jobs that are reported, with the chosen value."""
    return [make_job(study, run, seed, chosen=chosen) for seed in run.seeds]


def needed_job(study: Study, job: Job) -> Job | None:
    """The job whose output folder ``{needs}`` stands for."""
    if job.run.needs is None:
        return None
    teacher = study.runs[job.run.needs]
    return make_job(study, teacher, teacher.seeds[0])


def device(run: RunDefinition, options: Mapping[str, str]) -> str:
    """Where a run trains: ``cpu`` or ``cuda``."""
    config = _read_config(run.config).get("MODEL", {}).get("DEVICE", "cuda")
    return str(options.get("MODEL.DEVICE", run.overrides.get("MODEL.DEVICE", config)))


@cache
def _read_config(file: str) -> dict[str, Any]:
    """A config file with its bases."""
    return dict(CfgNode.load_yaml_with_base(file))
