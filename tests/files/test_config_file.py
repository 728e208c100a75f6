"""Config files: their bases, values that are refused, and the line that names each mistake."""

from pathlib import Path

import pytest

from fam_det.config import default_config
from fam_det.files.config_file import merge_config

from detectron2 import model_zoo


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


HOSTILE = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    '!!python/object/apply:eval [\'open("{mark}", "w")\']',
    "!!python/name:os.system",
    "!!python/module:os",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, value: str) -> None:
    mark = tmp_path / "mark"
    base = write(tmp_path, f"OUTPUT_DIR: {value.format(mark=mark)}\n", "base.yaml")
    below = write(tmp_path, "_BASE_: base.yaml\n")
    listed = write(tmp_path, "_BASE_: [base.yaml]\n", "b.yaml")
    for file in (base, below, listed):
        with pytest.raises(ValueError, match=r"base\.yaml: line 1: .* would run code") as error:
            merge_config(default_config(), file)
        assert "--allow-unsafe-config" in str(error.value)
        assert "\n" not in str(error.value)
    assert not mark.exists()


def test_a_file_that_is_trusted_may_run_code(tmp_path: Path) -> None:
    file = write(tmp_path, "SEED: !!python/object/apply:eval ['3 * 4']\n")
    cfg = default_config()
    merge_config(cfg, file, allow_unsafe=True)
    assert cfg.SEED == 12


def test_the_retinanets_of_the_model_zoo_need_no_flag() -> None:
    cfg = default_config()
    merge_config(cfg, model_zoo.get_config_file("COCO-Detection/retinanet_R_101_FPN_3x.yaml"))
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES[0] == [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]


def test_a_file_pairs_and_their_order(tmp_path: Path) -> None:
    write(tmp_path, "SEED: 1\nOUTPUT_DIR: a\n", "base.yaml")
    file = write(tmp_path, "_BASE_: base.yaml\nSEED: 2\n")
    cfg = default_config()
    merge_config(cfg, file, ["VIS_PERIOD", "5"])
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.VIS_PERIOD) == (2, "a", 5)


def test_of_several_bases_the_later_wins_and_the_file_over_all(tmp_path: Path) -> None:
    write(tmp_path, "SEED: 1\nOUTPUT_DIR: root\nVIS_PERIOD: 1\n", "root.yaml")
    write(tmp_path, "_BASE_: root.yaml\nVERSION: 2\nINPUT: {FORMAT: RGB}\n", "one.yaml")
    (tmp_path / "sub").mkdir()
    two = "_BASE_: [../root.yaml]\nOUTPUT_DIR: two\nINPUT: {MAX_SIZE_TEST: 7}\n"
    write(tmp_path / "sub", two, "two.yaml")
    file = write(tmp_path, "_BASE_: [one.yaml, sub/two.yaml]\nSEED: 3\n")
    cfg, swapped = default_config(), default_config()
    merge_config(cfg, file)
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.VIS_PERIOD) == (3, "two", 1)
    assert (cfg.INPUT.FORMAT, cfg.INPUT.MAX_SIZE_TEST) == ("RGB", 7)
    merge_config(swapped, write(tmp_path, "_BASE_: [sub/two.yaml, one.yaml]\n"))
    assert swapped.OUTPUT_DIR == "root"  # one.yaml has it from its own base


WRONG = {
    "_BASE_: a.yaml\n": "_BASE_: it is its own base, through a.yaml",
    "_BASE_: https://example.com/a.yaml\n": "expected a file on this machine",
    f"_BASE_: {'x' * 9000}\n": "but there is no such file",
    '"\\x1e": 1\n': "'\\x1e': unknown key",
    "_BASE_: [a.yaml]\n": "_BASE_: it is its own base, through a.yaml",
    "_BASE_: [gone.yaml]\n": "_BASE_: got 'gone.yaml', but there is no such file",
    "_BASE_: [[a.yaml]]\n": "_BASE_: got ['a.yaml'], expected a file",
    "_BASE_: 3\n": "_BASE_: got 3, expected a file",
    "_BASE_: gone.yaml\n": "but there is no such file",
    "": "holds nothing, expected KEY: VALUE",
    "- 1\n": "holds list, expected KEY: VALUE",
    "SEED: [1\n": "line 2: not YAML",
    "SEED: 1\nMODEL:\n  DISTILER: {}\n": "MODEL.DISTILER: unknown key; did you mean",
    "SEED: one\n": "SEED",
    "MODEL: 3\n": "MODEL: got 3, expected KEY: VALUE below it",
    "MODEL: {RPN: null}\n": "MODEL.RPN: got None, expected",
    "DATASETS: {TEST: }\n": "DATASETS.TEST: got null, expected tuple, such as ()",
    "VERSION: 9\n": "v9",
    "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
    "e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n": "more than 100,000 values",
    "a: &a [*a]\n": "holds itself",
    "[" * 500: "nested too deeply",
}


@pytest.mark.parametrize("text", WRONG, ids=[x[:20] for x in WRONG])
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ValueError) as error:
        merge_config(default_config(), file)
    message = str(error.value)
    assert WRONG[text] in message
    assert message.startswith(str(file)) and "\n" not in message


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for name in ("gone.yaml", "binary.yaml"):
        with pytest.raises(ValueError, match=name):
            merge_config(default_config(), tmp_path / name)


@pytest.mark.parametrize(
    "pairs, message",
    [
        (["SEED"], "got 'SEED' at the end, expected pairs of KEY VALUE"),
        (["MODEL.DISTILLER.LOSS_WEIGT", "3"], "did you mean MODEL.DISTILLER.LOSS_WEIGHT"),
        (["SEED", "one"], "SEED"),
    ],
)
def test_wrong_pairs(tmp_path: Path, pairs: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        merge_config(default_config(), write(tmp_path, "SEED: 1\n"), pairs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            ["DATASETS.TEST", "cells"],
            "DATASETS.TEST: got 'cells', expected tuple, such as \"('cells',)\"",
        ),
        (["DATASETS.TEST", "('cells')"], "got 'cells', expected tuple, such as \"('cells',)\""),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER: got 'many', expected int, such as 180000"),
        (["SOLVER.MAX_ITER", "[9]"], "SOLVER.MAX_ITER: got '[9]', expected int, such as 180000"),
        (["DATASETS.TEST", "3"], "DATASETS.TEST: got '3', expected tuple, such as \"('3',)\""),
        (["INPUT.MIN_SIZE_TRAIN", "640"], "got '640', expected tuple, such as \"(640,)\""),
        (["DATASETS.TEST", "None"], "DATASETS.TEST: got null, expected tuple, such as ("),
    ],
)
def test_a_value_of_another_type_says_what_to_write(pair: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        merge_config(default_config(), "configs/Base-RCNN-FPN.yaml", pair)
    assert message in str(error.value)
