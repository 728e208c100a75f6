"""The teacher beside a deployed student: its weights, and the images that it gets."""

from pathlib import Path

import pytest
import torch

from fam_det.export.source import load_teacher, teacher_input
from fam_det.modeling.lazy import build_teacher
from tests.modeling.small_detector import TEACHER, small_config

from detectron2.modeling import build_model


def test_a_teacher_is_loaded_without_its_cache(tmp_path: Path) -> None:
    cfg = small_config("MODEL.TEACHER.CACHE", str(tmp_path / "cache"))
    detector = build_model(cfg).teacher.detector
    cfg.defrost()
    cfg.MODEL.TEACHER.WEIGHTS = str(tmp_path / "teacher.pth")
    torch.save({"model": detector.state_dict()}, cfg.MODEL.TEACHER.WEIGHTS)
    teacher, note = load_teacher(cfg)
    assert teacher is not None and note == ""
    loaded = teacher.detector.state_dict()
    assert all(torch.equal(x, loaded[name]) for name, x in detector.state_dict().items())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("student_format", ["BGR", "RGB"])
def test_a_teacher_in_python_gets_images_of_its_own_scale(
    student_format: str, tmp_path: Path
) -> None:
    (tmp_path / "teacher.py").write_text(
        "from detectron2 import model_zoo\nfrom fam_det.config import default_config\n"
        "model = model_zoo.get_config('common/models/retinanet.py').model\n"
    )
    path = str(tmp_path / "teacher.py")
    teacher = build_teacher(config=path, student_format=student_format, weights="", input_scale=1.5)
    sizes = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "99")
    cfg = small_config("MODEL.TEACHER.CONFIG", path, "INPUT.FORMAT", student_format, *sizes)
    cfg.defrost()
    found = teacher_input(cfg, teacher).INPUT
    assert (found.MIN_SIZE_TEST, found.MAX_SIZE_TEST, found.FORMAT) == (96, 148, "BGR")
    cfg.MODEL.TEACHER.CONFIG = TEACHER
    assert teacher_input(cfg, teacher).INPUT.MIN_SIZE_TEST == 192  # its own
