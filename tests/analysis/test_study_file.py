"""Study files: what is wrong in one is said in one line."""

from pathlib import Path

import pytest
import yaml

from fam_det.analysis.study import load_study
from tests.analysis.small_study import STUDY, Studio


def load_with(studio: Studio, old: str, new: str) -> None:
    assert old in STUDY
    file = studio.folder / "changed.yaml"
    file.write_text(STUDY.replace(old, new))
    load_study(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tool: train_net", "tool: train_nets", "tool: got 'train_nets', expected one of"),
        ("metric:", "metrics:", "the file: unknown key 'metrics', expected"),
        ("baseline: alone", "", "the file: 'baseline' is missing"),
        ("baseline: alone", "baseline: lone", "baseline: got 'lone', expected the name of a run"),
        ("seeds: [2, 3]", "seeds: [2, two]", r"seeds: got \[2, 'two'\], expected different int"),
        ("choice_seed: 1", "choice_seed: 2", "choice_seed: got 2, expected .* not among the seeds"),
        ("[1.0, 5.0, 15.0]", "[1.0]", r"MODEL.DISTILLER.LOSS_WEIGHT: got \[1.0\], expected differ"),
        ("config: alone.yaml", "config: gone.yaml", "run 'alone': config: no file gone.yaml"),
        ("name: alone", "name: taught", "name: got 'taught' beside 'taught'"),
        ("needs: teacher", "needs: nobody", "run 'taught': needs: got 'nobody', expected the name"),
        ("needs: teacher", "needs: taught", "must have one seed, need no other run"),
        ("needs: teacher", "", "has {needs} in an override, but no 'needs'"),
        ("{needs}/", "{neds}/", "unknown placeholder {neds}, expected {needs} or a name in cap"),
        ("config: taught.yaml", "config: taught.yaml\n    seed: 3", "run 'taught': unknown key"),
        ("overrides: {DATASETS.COCO", "overrides: {SEED: 1, DATASETS.COCO", "SEED is set by the"),
        ('{DATASETS.COCO: "{DATA}/images"}', "[a]", r"overrides: got \['a'\], expected values by"),
        ("runs:", "milliseconds: {2x: 9}\nruns:", "milliseconds: 2x: no run has a name that ends"),
        (
            "runs:",
            "milliseconds: {2x: no}\nruns:",
            "milliseconds: got {'2x': False}, expected numb",
        ),
        ("runs:", "teacher: {score: 50}\nruns:", "teacher: got {'score': 50}, expected its milli"),
        ("runs:", "runs: {", "line"),
        ("seeds: [2, 3]", "seeds: !!python/object/apply:os.getcwd []", "could not determine"),
    ],
)
def test_mistake_is_said_in_one_line(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    monkeypatch.chdir(studio.folder)
    with pytest.raises(ValueError, match=message) as error:
        load_with(studio, old, new)
    assert "\n" not in str(error.value)
    assert "changed.yaml: " in str(error.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.yaml: No such file"):
        load_study(tmp_path / "gone.yaml")


def test_runs_override_the_studys_values(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(studio.folder)
    node = yaml.safe_load(STUDY)
    node["overrides"]["A.B"] = 1
    node["runs"][1]["overrides"] = {"A.B": 2}
    Path("changed.yaml").write_text(yaml.safe_dump(node))
    study = load_study(Path("changed.yaml"))
    assert [run.overrides["A.B"] for run in study.runs.values()] == [1, 2, 1]
    assert study.placeholders == {"DATA"}
