"""The Python of docs/python.md runs as it stands, also twice in one process."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modeling.small_detector import THIN, small_config
from tests.test_docs import blocks
from tests.tools.conftest import cells as cells
from tests.tools.in_process import logging_kept

FAM, STOCK, LOOP, CORE = blocks(Path("docs/python.md"), "python")


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    with logging_kept():
        exec(compile(code, "python.md", "exec"), names)
    return names


@pytest.fixture
def there(cells: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the config that the page names: two iterations, a thin FPN."""
    words = ("DATASETS.COCO", cells, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", *THIN)
    words += ("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0")
    words += ("INPUT.MIN_SIZE_TRAIN", "(64,)", "MODEL.TEACHER.BASIS_IMAGES", "4")
    cfg = small_config(*words, "MODEL.TEACHER.WEIGHTS", "", "DATASETS.TEST", "()")
    cfg.defrost()
    cfg.MODEL.TEACHER.CONFIG = str(Path(cfg.MODEL.TEACHER.CONFIG).absolute())
    monkeypatch.chdir(tmp_path)
    for folder in ("cells", "first", "stock"):
        (tmp_path / "output" / folder).mkdir(parents=True)
    (tmp_path / "output/cells/distill.yaml").write_text(cfg.dump())
    return tmp_path


def test_the_trainers_cell_runs_again_with_another_file_of_the_same_name(
    there: Path, cells: str
) -> None:
    first = run(FAM, {})["trainer"]
    assert len(first.data_loader.records) == 6
    file = there / "output/cells/distill.yaml"
    source = ast.literal_eval(cells)[0][1]
    content = json.loads(Path(source).read_text())
    (there / "fewer.json").write_text(json.dumps(content | {"images": content["images"][:4]}))
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] < 4]
    (there / "fewer.json").write_text(json.dumps(content | {"images": content["images"][:4]}))
    file.write_text(file.read_text().replace(source, str(there / "fewer.json")))
    again = run(FAM, {})["trainer"]
    assert len(again.data_loader.records) == 4
    assert (there / "output/first/model_final.pth").is_file()


def test_detectron2s_trainer_and_a_loop_of_ones_own(there: Path) -> None:
    names = run(STOCK, {})
    trained = names["trainer"].model
    assert names["trainer"].iter == 2
    assert trained.teacher.is_loaded
    assert trained.distiller.basis.any()  # found on training images
    names = run(LOOP, names)
    assert {"loss_distill", "loss_cls"} <= set(names["losses"])
    assert "instances" in names["detections"][0]
    saved = torch.load(there / "output/stock/loop.pth", weights_only=True)["model"]
    assert not [name for name in saved if name.startswith("teacher.")]


def test_the_core_alone_trains_the_student_and_the_transform() -> None:
    names: dict[str, Any] = {}
    grad = "student = [x.requires_grad_() for x in student]\nloss = sum("
    run(CORE.replace("loss = sum(", grad), names)
    assert all(x.grad.any() for x in (*names["student"], *names["transform"].parameters()))
