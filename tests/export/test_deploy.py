"""``tools/deploy.py``: the student without this package, the table, and what users get wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from PIL import Image

from fam_det.export import measure, snippets
from fam_det.export.measure import count_flops
from fam_det.export.source import read_source
from fam_det.export.student import load_student, save_student
from tests.data.bad_images import rotated
from tests.modeling.small_detector import small_config
from tests.tools.in_process import run_tool

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model

SMALL = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.TEACHER.WEIGHTS", "", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a distilled detector with random weights; its student is plain Detectron2's."""
    folder = tmp_path_factory.mktemp("run")
    cfg = small_config(*SMALL)
    torch.manual_seed(0)
    (folder / "config.yaml").write_text(cfg.dump())
    DetectionCheckpointer(build_model(cfg), str(folder)).save("model_final")
    return folder


def test_saved_student_is_plain_detectron2s(run: Path, tmp_path: Path) -> None:
    cfg, student = load_student(*read_source(run, None, []))
    save_student(cfg, student, tmp_path)
    plain = get_cfg()
    plain.merge_from_file(str(tmp_path / "config.yaml"))
    model = build_model(plain).eval()
    weights = torch.load(plain.MODEL.WEIGHTS, weights_only=True)["model"]
    model.load_state_dict(weights, strict=True)
    image = 255 * torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = (x([{"image": image}])[0]["instances"] for x in (student, model))
    assert len(found) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)


def test_costs_are_those_of_the_student(run: Path) -> None:
    _, student = load_student(*read_source(run, None, []))
    image = torch.zeros(3, 96, 128)
    backbone = FlopCountAnalysis(student.backbone, image[None]).unsupported_ops_warnings(False)
    whole = count_flops(student, [{"image": image}])
    assert backbone.total() < whole < 3 * backbone.total()


@pytest.mark.parametrize(
    ("form", "title", "file", "absent"),
    [
        ("torchscript", "TorchScript, traced", "model.ts", ["detectron2"]),
        pytest.param(
            *("onnx", "ONNX", "model.onnx", ["torch", "detectron2"]), marks=pytest.mark.slow
        ),
        pytest.param(
            *("onnx-int8", "ONNX, int8", "model_int8.onnx", ["torch", "detectron2"]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_tool_writes_files_rows_and_the_code_to_run_them(
    run: Path,
    cells: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    title: str,
    file: str,
    absent: list[str],
) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)
    out = tmp_path / "out"
    words = ("--format", form, "--evaluate", "--size", "96", "128", "INPUT.MIN_SIZE_TEST", "96")
    words += ("DATASETS.COCO", cells, "DATALOADER.NUM_WORKERS", "0")
    ended = run_tool("deploy", str(run), "--output", str(out), *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {x.name for x in out.iterdir()} == {
        *("model.pth", "config.yaml", file, "deploy.md", "deploy.json")
    }
    content = json.loads((out / "deploy.json").read_text())
    assert content["categories"][0] == {"id": 1, "name": "class1"}
    assert content["sizes"][0] == 96
    if file.endswith(".onnx"):
        import onnxruntime

        metadata = onnxruntime.InferenceSession(out / file).get_modelmeta()
        assert json.loads(metadata.custom_metadata_map["categories"]) == content["categories"]
    rows = content["rows"]
    names = [(row["network"], row["format"]) for row in rows]
    networks = ["teacher", "student"]
    assert names == [(x, form) for form in ("PyTorch", title) for x in networks]
    assert rows[1]["size"] == (out / "model.pth").stat().st_size
    assert rows[0]["parameters"] > rows[1]["parameters"] > 0
    for row in rows:
        assert f"{row['network']}, {row['format']}" in ended.stdout
    assert all(0.0 <= row["ap"] <= row["ap50"] <= 100.0 for row in rows)
    assert rows[3]["speedup"] == rows[2]["seconds"] / rows[3]["seconds"]
    check_code(out, [[], absent])


def test_a_teacher_of_another_order_of_classes_has_no_ap(
    run: Path, cells: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)
    words = ["--evaluate", "--size", "96", "128", "INPUT.MIN_SIZE_TEST", "96"]
    words += ["DATASETS.COCO", cells, "DATALOADER.NUM_WORKERS", "0"]
    words += ["MODEL.TEACHER.CLASSES", "[1, 0, 2]"]
    ended = run_tool("deploy", str(run), "--output", str(tmp_path), *words)
    assert ended.returncode == 0, ended.stderr
    teacher, student = json.loads((tmp_path / "deploy.json").read_text())["rows"]
    assert teacher["ap"] is None and student["ap"] is not None
    assert "the teacher has no AP: its classes, or their order, differ" in ended.stdout


def check_code(out: Path, absent: list[list[str]]) -> None:
    """Runs the code in deploy.md, where this package and each time these cannot be imported."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out / "image.jpg")
    codes = re.findall(r"```python\n(.*?)```", (out / "deploy.md").read_text(), flags=re.DOTALL)
    for code, names in zip(codes, absent, strict=True):
        blocked = f"import sys\nsys.modules |= dict.fromkeys({['fam_det', *names]})\n"
        command = [sys.executable, "-W", "ignore", "-c", blocked + code]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "class" in done.stdout  # a name, or Detectron2's pred_classes


def test_the_code_turns_a_photograph_as_detectron2_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "image.jpg").write_bytes(rotated())
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(snippets.IMAGE.format(scale="1.0", flip="[::-1]", order="BGR"), found)
    expected = read_image("image.jpg", "BGR").transpose(2, 0, 1)
    assert expected.shape == (3, 96, 64)
    assert np.array_equal(found["pixels"], expected)


@pytest.mark.parametrize(
    "words, message",
    [
        (["gone"], "gone: expected the output folder of a run"),
        (["RUN", "--weights", "gone.pth"], "--weights: gone.pth is not there"),
        (["RUN", "--format", "coreml"], "--format: got 'coreml'"),
        (["RUN", "--image", "gone.jpg"], "--image: gone.jpg"),
        (
            ["RUN", "MODEL.ROI_HEADS.NUM_CLASSES", "7"],
            "missing or of another shape, the first is roi_heads",
        ),
        (["RUN", "--weights", "README.md"], "README.md: damaged, or not a checkpoint"),
    ],
)
def test_what_users_get_wrong_is_one_line(run: Path, words: list[str], message: str) -> None:
    ended = run_tool("deploy", *[str(run) if word == "RUN" else word for word in words])
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
