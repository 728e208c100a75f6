"""Every shipped study loads, its values are of keys of its tool, and its results are current."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import fam_det.modeling  # noqa: F401  registers models and weights
from classification.config import get_cfg as get_classification_cfg
from fam_det.analysis.experiment import NO_EFFECT
from fam_det.analysis.jobs import Job, reported_jobs, trial_jobs
from fam_det.analysis.results import Results
from fam_det.analysis.runs import flatten
from fam_det.analysis.study import Study, load_study
from fam_det.analysis.summary import format_csv, format_json, format_markdown, summarise
from fam_det.config import default_config
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY

from detectron2.config import CfgNode

FILES = sorted(Path("configs/Studies").glob("*.yaml"))
BEGUN = [file for file in FILES if (Path("docs/studies") / file.stem).is_dir()]

SPEED = {  # recipes of the front page: the row of a study that has their figures
    "BloodCells/student_fam_thin": ("blood_cells_speed", "FAM as shipped longer, 9x"),
    "BloodCells/student_fam_half_size": (
        "blood_cells_speed",
        "FAM as shipped and heads' loss longer, 21x",
    ),
    "NEU-DET/student_baseline": ("neu_det_speed", "alone with the teacher's anchors, 5x"),
    "NEU-DET/student_fam": ("neu_det_speed", "FAM as shipped, 5x"),
    "NEU-DET/student_fam_half_size": ("neu_det_speed", "FAM as shipped longer, 8x"),
}


def get_detection_cfg() -> CfgNode:
    cfg = default_config()
    return cfg


DEFAULTS: dict[str, Callable[[], CfgNode]] = {
    "train_net": get_detection_cfg,
    "train_classifier": get_classification_cfg,
}


@cache
def merged(tool: str, config: str) -> CfgNode:
    cfg = DEFAULTS[tool]()
    cfg.merge_from_file(config)
    return cfg


def build_cfg(study: Study, job: Job) -> CfgNode:
    """As the training tool does."""
    cfg = merged(study.tool, job.run.config).clone()
    settings = dict.fromkeys(study.placeholders, "data") | {"needs": "output/teacher"}
    cfg.merge_from_list(job.arguments(settings))
    return cfg


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_run_builds_a_different_config_and_evaluates_at_its_end_only(file: Path) -> None:
    study = load_study(file)
    titles: dict[str, str] = {}
    for run in study.runs.values():
        for job in trial_jobs(study, run) or reported_jobs(study, run, {})[:1]:
            cfg = build_cfg(study, job)
            assert not cfg.TEST.EVAL_PERIOD and not cfg.TEST.get("EVAL_EPOCHS")
            cfg.SEED = 0
            other = titles.setdefault(cfg.dump(), job.title)
            assert other == job.title, f"{job.title} is the same as {other}"
            if study.tool == "train_net":
                DISTILLER_REGISTRY.get(cfg.MODEL.DISTILLER.NAME)


@pytest.mark.parametrize("file", BEGUN, ids=lambda file: file.stem)
def test_kept_results_make_the_committed_table(file: Path) -> None:
    """They are of today's configs, and no line of them is lost."""
    study = load_study(file)
    folder = Path("docs/studies") / study.name
    results = Results(folder)
    rows = summarise(study, results)
    report = f"# {study.name}\n\n{format_markdown(study, rows, results)}"
    assert report == (folder / "README.md").read_text(encoding="utf-8")
    assert format_csv(study, rows) == (folder / "table.csv").read_text(encoding="utf-8")
    assert format_json(rows) == (folder / "table.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SPEED)
def test_recipe_is_the_row_of_the_study(name: str) -> None:
    study_name, row = SPEED[name]
    study = load_study(Path(f"configs/Studies/{study_name}.yaml"))
    job = reported_jobs(study, study.runs[row], {})[0]
    recipe = flatten(merged(study.tool, f"configs/{name}.yaml"))
    measured = flatten(build_cfg(study, job))
    different = {key for key in measured if recipe[key] != measured[key]}
    paths = {"MODEL.TEACHER.CONFIG", "MODEL.TEACHER.WEIGHTS"}
    assert {key for key in different if not NO_EFFECT.fullmatch(key)} <= paths
