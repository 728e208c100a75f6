"""Figures of the tables, worked by hand."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from fam_det.analysis.experiment import Experiment, describe
from fam_det.analysis.published import PUBLISHED_SCORES
from fam_det.analysis.rows import Row, build_rows, compare
from fam_det.analysis.runs import Run, read_run
from fam_det.analysis.tables import format_csv, format_report, gamma_cells, score_cells

ROOT = Path(__file__).parents[2]


def rows_of(*folders: Path) -> list[Row]:
    return build_rows([read_run(folder) for folder in folders])


def cells(rows: list[Row]) -> list[dict[str, str]]:
    return [score_cells(row) for row in rows]


def test_seeds_of_one_experiment_are_one_row(make_run: Any) -> None:
    top1 = ((50.0, 74.0, 70.0), (50.0, 72.0, 73.0))
    (row,) = cells(rows_of(make_run("a", 1, top1[0]), make_run("b", 2, top1[1])))
    assert row["runs"] == "2"
    # last: mean 71.5; sample standard deviation of 70 and 73: 3 / sqrt(2) = 2.12
    assert row["top-1, %"] == "71.50 ± 2.12"
    # best: 74 and 73, 1 / sqrt(2) = 0.71
    assert row["best top-1, %"] == "73.50 ± 0.71"
    assert row["published"] == "76.84"  # supplement of FAM-KD
    assert (row["iterations"], row["training"]) == ("100", "00:50")


@pytest.mark.parametrize(
    ("key", "value", "joined"),
    [
        ("SOLVER__MAX_ITER", 99, False),
        ("MODEL__TEACHER__WEIGHTS", "other.pth", False),
        ("MODEL__DEVICE", "cuda", True),
        ("TEST__EVAL_PERIOD", 3, True),
        ("MODEL__DISTILLER__NEW_KEY", 1, True),  # of another version of the code
    ],
)
def test_only_what_changes_the_learning_parts_runs(
    make_run: Any, key: str, value: Any, joined: bool
) -> None:
    rows = rows_of(make_run("a", 1), make_run("b", 2, **{key: value}))
    assert len(rows) == (1 if joined else 2)


def test_rows_of_one_experiment_say_what_differs(make_run: Any) -> None:
    weights = [make_run("a"), make_run("b", MODEL__DISTILLER__LOSS_WEIGHT=5.0)]
    alone = make_run("c", MODEL__DISTILLER__NAME="")
    rows = rows_of(*weights, alone)
    assert [row.settings for row in rows] == ["LOSS_WEIGHT 20.0", "LOSS_WEIGHT 5.0", ""]
    assert [row.experiment.method for row in rows] == ["FAM-KD", "FAM-KD", "student alone"]


def test_student_alone_has_no_teacher(make_run: Any) -> None:
    folders = [make_run("a", MODEL__DISTILLER__NAME="")]
    folders += [make_run("b", MODEL__DISTILLER__NAME="", MODEL__TEACHER__NAME="resnet56")]
    (row,) = rows_of(*folders)
    assert row.experiment == Experiment("cifar100", None, "resnet8x4", "student alone")
    assert row.published is not None and row.published.value == 72.50


def test_unfinished_run_does_not_count_beside_a_finished_one(make_run: Any) -> None:
    short = make_run("b", 2, (50.0, 60.0))
    (row,) = cells(rows_of(make_run("a"), short))
    assert (row["runs"], row["top-1, %"]) == ("1 of 2", "70.00")
    (row,) = cells(rows_of(short))
    assert (row["runs"], row["top-1, %"], row["iterations"]) == ("1", "60.00", "61 of 100")


def test_run_without_an_evaluation_has_a_dash(make_run: Any) -> None:
    folder = make_run("a")
    (folder / "metrics.json").write_text('{"iteration": 19, "time": 0.5}\n')
    (folder / "model_final.pth").unlink()
    rows = rows_of(folder)
    assert cells(rows)[0]["top-1, %"] == "-"
    assert "top-5" not in format_report(rows, "text")


def test_figure_of_another_schedule_is_marked(make_run: Any) -> None:
    rows = rows_of(make_run("a", SOLVER__IMS_PER_BATCH=60_000))
    assert cells(rows)[0]["published"] == "76.84*"
    assert "*: of another number of training images seen" in format_report(rows, "text")
    assert "*" not in format_report(rows_of(make_run("b")), "text")


def test_gammas_at_the_end_beside_the_published(make_run: Any) -> None:
    folders = [make_run("a", 1), make_run("b", 2)]
    file = folders[1] / "metrics.json"
    file.write_text(file.read_text().replace('"distiller/gamma_global_stage1": 2.5', '"x": 0'))
    with file.open("a") as text:
        text.write('{"iteration": 99, "distiller/gamma_global_stage1": 4.5}\n')
    own, published = gamma_cells(rows_of(*folders))
    assert list(own)[-2:] == list(published)[-2:] == ["stage1", "pooled"]
    # 2.5 and 4.5: mean 3.5, sample standard deviation sqrt(2) = 1.41
    assert own["stage1"] == "3.50 ± 1.41 / 0.25 ± 0.00"
    assert own["pooled"] == "2.50 ± 0.00 / 0.25 ± 0.00"
    assert (published["stage1"], published["pooled"]) == ("5.65 / 0.37", "")


@pytest.mark.parametrize(
    ("edit", "method"),
    [
        ({"FUSION": "abf"}, "FAM + ReviewKD"),
        ({"FUSION": "abf", "TRANSFORM": "conv3x3"}, "ReviewKD"),
        ({"FUSION": "none"}, "review (none, fam)"),
        ({"NAME": "LayerToLayerDistiller"}, "layer-to-layer FAM"),
        ({"NAME": "KD"}, "KD"),
        ({"FAM__HIGH_PASS": "butterworth"}, "FAM-KD, butterworth HPF"),
        ({"FAM__HIGH_PASS": "none", "FAM__FILTER": "banded"}, "FAM-KD, no HPF, banded filter"),
    ],
)
def test_method_in_words(make_run: Any, edit: dict[str, Any], method: str) -> None:
    keys = {f"MODEL__DISTILLER__{key}": value for key, value in edit.items()}
    assert describe(read_run(make_run("a", **keys))).method == method


def test_detectors_go_by_the_names_of_papers() -> None:
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "DistilledDetector",
        "STUDENT": {"META_ARCHITECTURE": "GeneralizedRCNN"},
        "TEACHER": {"CONFIG": "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml"},
        "MASK_ON": True,
        "ROI_HEADS": {"NAME": "StandardROIHeads"},
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"DEPTH": 18},
        "DISTILLER": {"NAME": "LayerToLayerDistiller", "TRANSFORM": "conv3x3"},
    }
    config = {"MODEL": model, "DATASETS": {"TRAIN": ["coco_2017_train"]}, "SOLVER": {}}
    assert describe(Run(Path("x"), config, [])) == Experiment(
        "coco_2017_train",
        "faster_rcnn_R_101_FPN_3x",
        "Mask R-CNN R18-FPN",
        "layer-to-layer 3x3 convolution",
    )


@pytest.mark.parametrize(
    ("experiment", "value", "source"),
    [
        (("cifar100", "resnet56", "resnet20", "DKD"), 71.97, "mdistiller"),
        (("cifar100", "resnet110", "resnet32", "FAM + ReviewKD"), 74.28, "supplement of FAM-KD"),
        (("cifar100", "resnet110", "resnet32", "FAM-KD, gaussian HPF"), 74.49, "supplement"),
        (("cifar100", None, "vgg13", "student alone"), 74.64, "RepDistiller"),
        (("imagenet", None, "torchvision/resnet18", "student alone"), 69.75, "ReviewKD"),
        (("coco_2017_train", None, "Faster R-CNN R50-FPN", "student alone"), 37.9, "model zoo"),
    ],
)
def test_published_figures_and_their_sources(
    experiment: tuple[str, str | None, str, str], value: float, source: str
) -> None:
    figure = PUBLISHED_SCORES[Experiment(*experiment)]
    assert figure.value == value and source in figure.source


def test_published_pairs_are_those_of_the_recipes() -> None:
    """A misspelt name would never be found."""
    known = set()
    for data_set, folder in (("cifar100", "CIFAR-100"), ("imagenet", "ImageNet")):
        for file in (ROOT / "configs" / folder).glob("*/student.yaml"):
            config = yaml.safe_load(file.read_text())["MODEL"]
            known.add((data_set, config["TEACHER"]["NAME"], config["STUDENT"]["NAME"]))
    pairs = {(e.data_set, e.teacher, e.student) for e in PUBLISHED_SCORES if e.teacher is not None}
    assert pairs <= known
    networks = {(data_set, name) for data_set, *names in known for name in names}
    alone = {(e.data_set, e.student) for e in PUBLISHED_SCORES if e.teacher is None}
    assert {entry for entry in alone if entry[0] != "coco_2017_train"} <= networks


def test_csv_reads_back_in_plain_numbers(make_run: Any) -> None:
    rows = rows_of(make_run("a", 1), make_run("b", 2), make_run("c", MODEL__DISTILLER__NAME=""))
    first, second = csv.DictReader(io.StringIO(format_csv(rows)))
    assert float(first["accuracy/top1 mean"]) == 70.0 and float(first["accuracy/top1 std"]) == 0.0
    assert float(first["gamma1_stage1 mean"]) == 2.5
    assert first["student_parameters"] == "8" and first["published"] == "76.84"
    assert (second["method"], second["gamma1_stage1 mean"]) == ("student alone", "")
    assert second["accuracy/top1 std"] == ""  # one seed


def test_a_teacher_is_beside_its_students_whatever_the_data_are_called(make_detector: Any) -> None:
    folders = [make_detector("distill", ap=31.5, teacher="big"), make_detector("alone", ap=20.0)]
    folders.append(make_detector("big", ap=33.0))
    set_value(folders[2], "RESNETS", {"DEPTH": 101})
    text = format_report(rows_of(*folders), "markdown")
    assert text.startswith("## alone_val\n")  # a user's name, not the tool's
    (table,) = text.split("\n\n")[1:]
    _, _, *lines = ([x.strip() for x in line.split("|")[1:-1]] for line in table.splitlines())
    assert [line[:3] + line[5:7] for line in lines] == [
        ["RetinaNet R101-FPN", "-", "teacher", "33.0", "-"],
        ["RetinaNet R18-FPN", "RetinaNet R101-FPN", "PKDDistiller", "31.5", "-1.5"],
        ["RetinaNet R18-FPN", "-", "student alone", "20.0", "-13.0"],
    ]
    rows = rows_of(*folders[:2])  # without the teacher
    assert compare(rows) == ("student alone", [11.5, None])
    assert rows[0].teacher_name == "big"


def test_data_sets_of_one_name_and_other_contents_are_not_compared(make_detector: Any) -> None:
    folders = [make_detector(name, data=name) for name in ("distill", "other")]
    for folder in folders:
        (folder / "data.json").write_text(f'{{"distill_train": "1", "distill_val": "{folder}"}}')
    set_value(folders[1], "TEST", ["distill_val"], node="DATASETS")
    assert [row.test_set for row in rows_of(*folders)] == ["distill_val", "distill_val (2)"]


def test_a_teacher_that_was_tested_on_other_data_is_compared_with_nothing(
    make_detector: Any,
) -> None:
    folders = [make_detector("big", data="b", ap=60.0), make_detector("cells", teacher="big")]
    rows = rows_of(*folders, make_detector("alone", ap=20.0))
    assert compare(rows[1:]) == ("student alone", [10.0, None])


def test_without_its_loss_what_is_left_is_the_teachers_heads(make_detector: Any) -> None:
    folder = make_detector("a", teacher="big")
    set_value(folder, "DISTILLER", {"NAME": "PKDDistiller", "LOSS_WEIGHT": 0.0})
    assert describe(read_run(folder)).method == "no distillation loss"
    set_value(folder, "TEACHER", {"CONFIG": "big/config.yaml", "INHERIT": ["roi_heads"]})
    assert describe(read_run(folder)).method == "teacher's heads, no loss"


def test_heads_loss_is_named_alone_without_the_other_loss(make_detector: Any) -> None:
    folder = make_detector("a", teacher="big")
    node = {"NAME": "PKDDistiller", "LOSS_WEIGHT": 1.0, "HEAD_WEIGHT": 1.0}
    set_value(folder, "DISTILLER", node)
    assert describe(read_run(folder)).method == "PKDDistiller, heads' loss"
    set_value(folder, "DISTILLER", node | {"LOSS_WEIGHT": 0.0})
    assert describe(read_run(folder)).method == "heads' loss"


def test_held_out_images_are_not_compared_with_the_test_set(make_run: Any) -> None:
    rows = rows_of(make_run("a"), make_run("b", DATASETS__VALIDATION=5000))
    assert [row.test_set for row in rows] == ["cifar100", "cifar100 (5000 held out)"]
    assert [row.published is None for row in rows] == [False, True]


def test_fewer_training_images_are_compared_but_not_with_published_scores(make_run: Any) -> None:
    rows = rows_of(make_run("a"), make_run("b", DATASETS__TRAIN_SUBSET=5000))
    assert [row.test_set for row in rows] == ["cifar100", "cifar100"]
    assert [row.experiment.data_set for row in rows] == ["cifar100", "cifar100, 5000 images"]
    assert [row.published is None for row in rows] == [False, True]


def set_value(folder: Path, key: str, value: Any, node: str = "MODEL") -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config[node][key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_markdown_is_a_table_a_data_set(make_run: Any) -> None:
    text = format_report(
        rows_of(make_run("a"), make_run("b", DATASETS__NAME="cifar10")), "markdown"
    )
    assert text.count("## cifar100") == text.count("## cifar10\n") == 1
    assert sum(line.startswith("| resnet8x4") for line in text.splitlines()) == 5
