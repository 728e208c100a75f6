"""Figures of the tables, worked by hand."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from fam_det.report.published import published_score
from fam_det.report.runs import read_run
from fam_det.report.table import format_table, gamma_table, group_by_experiment, score_table


def test_seeds_of_one_experiment_are_one_row(make_run: Any) -> None:
    folders = [make_run("a", 1, top1=70.0), make_run("b", 2, top1=73.0)]
    groups = group_by_experiment([read_run(folder) for folder in folders])
    _, row = score_table(groups)
    # mean 71.5; sample standard deviation of 70 and 73: 3 / sqrt(2) = 2.12
    assert row[:7] == [
        "resnet32x4 → resnet8x4",
        "FAM-KD",
        "cifar100",
        "top-1",
        "2",
        "71.50 ± 2.12",
        "76.84",  # supplement of FAM-KD
    ]
    assert row[-1] == "00:50"  # 100 iterations of 0.5 s


def test_another_setting_is_another_row(make_run: Any) -> None:
    folders = [make_run("a"), make_run("b", distiller="")]
    rows = score_table(group_by_experiment([read_run(folder) for folder in folders]))[1:]
    assert [(row[0], row[1], row[6]) for row in rows] == [
        ("resnet32x4 → resnet8x4", "FAM-KD", "76.84"),
        ("resnet8x4", "alone", "72.50"),
    ]


def test_keys_that_one_version_lacks_do_not_part_seeds(make_run: Any) -> None:
    old, new = read_run(make_run("a", 1)), read_run(make_run("b", 2))
    new.config["MODEL"]["DISTILLER"]["NEW_KEY"] = 1
    assert old.same_experiment(new)
    new.config["SOLVER"]["MAX_ITER"] = 7
    assert not old.same_experiment(new)


def test_parameters_are_counted_without_buffers(make_run: Any) -> None:
    run = read_run(make_run("a"))
    assert run.count_parameters(distiller=False) == 3 * 2 + 2
    alone = read_run(make_run("b", distiller=""))
    assert alone.count_parameters(distiller=True) == 0


def test_gammas_at_the_end_shallow_to_deep(make_run: Any) -> None:
    rows = gamma_table([[read_run(make_run("a"))]])
    assert rows[0] == ["models", "method", "stage1", "pooled"]
    assert rows[1][2:] == ["2.50 / 0.25", "2.50 / 0.25"]
    assert gamma_table([[read_run(make_run("b", distiller=""))]]) == []


def test_csv_reads_back(make_run: Any) -> None:
    rows = score_table([[read_run(make_run("a"))]])
    assert list(csv.reader(io.StringIO(format_table(rows, "csv")))) == rows


def test_half_a_line_of_a_killed_run_is_passed_over(make_run: Any) -> None:
    folder = make_run("a")
    with (folder / "metrics.json").open("a") as file:
        file.write('{"iteration": 119, "accura')
    assert read_run(folder).curve == [(20, 50.0), (60, 60.0), (100, 70.0)]


def test_run_without_an_evaluation_has_no_score(make_run: Any) -> None:
    folder = make_run("a")
    (folder / "metrics.json").write_text('{"iteration": 19, "time": 0.5}\n')
    assert score_table([[read_run(folder)]])[1][3:6] == ["-", "0", "-"]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json"])
def test_missing_file_is_named(make_run: Any, name: str) -> None:
    folder = make_run("a")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: not there"):
        read_run(folder)


def test_config_of_something_else_is_refused(make_run: Any, tmp_path: Path) -> None:
    folder = make_run("a")
    (folder / "config.yaml").write_text("services: {}\n")
    with pytest.raises(ValueError, match=r"config.yaml: has no MODEL and SOLVER"):
        read_run(folder)


def test_published_figures_of_readme_tables() -> None:
    assert published_score("cifar100", "resnet56 → resnet20", "KD") == 70.66
    assert published_score("cifar100", "resnet110 → resnet32", "FAM + ReviewKD") == 74.28
    assert published_score("cifar100", "vgg13", "alone") == 74.64
    assert published_score("cifar10", "resnet56 → resnet20", "KD") is None
