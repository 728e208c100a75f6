"""``tools/deploy.py`` on the run of a classifier: what is measured is what is in the file."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from classification.data import build_test_loader, read_test_image
from classification.data.loader import evaluation_resize
from classification.engine import Trainer
from classification.snippets import CROP, FIT
from fam_det.export import measure
from fam_det.files.metrics_file import read_metrics
from tests.classification.conftest import MakeCfg
from tests.tools.in_process import run_tool

CLASSES = ["bolt", "nut", "washer"]


def save_images(root: Path, count: int = 6) -> None:
    """Noise of a brightness by class, of other sizes than the network's."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(60 * label, 60 * label + 120, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")


@pytest.fixture
def run(make_cfg: MakeCfg, tmp_path: Path) -> Path:
    """A run of a few iterations on a folder."""
    save_images(tmp_path / "images")
    cfg = make_cfg(
        *("DATASETS.NAME", "folder", "DATASETS.ROOT", str(tmp_path / "images"), "INPUT.SIZE", 16),
        *("MODEL.NUM_CLASSES", 3, "MODEL.DISTILLER.NAME", "KD"),
        *("INPUT.PIXEL_STD", [0.2, 0.3, 0.4], "OUTPUT_DIR", str(tmp_path / "run")),
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    return tmp_path / "run"


def test_files_know_their_classes_and_rows_are_of_the_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)
    ended = run_tool("deploy", str(run), "--format", "torchscript", "onnx", "--evaluate")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    out = run / "deploy"
    assert {x.name for x in out.iterdir()} == {
        *("model.pth", "config.yaml", "model.ts", "model.onnx", "deploy.md", "deploy.json")
    }
    content = json.loads((out / "deploy.json").read_text())
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    session = onnxruntime.InferenceSession(out / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["categories"]) == content["categories"]
    rows = content["rows"]
    assert [row["network"] for row in rows] == ["teacher", "student"] * 3
    trained = [
        x["accuracy/top1"] for x in read_metrics(run / "metrics.json") if "accuracy/top1" in x
    ]
    assert [row["top1"] for row in rows[1::2]] == [trained[-1]] * 3
    assert rows[5]["speedup"] == rows[4]["seconds"] / rows[5]["seconds"]
    evaluated = run_tool(
        "train_classifier", "--eval-only", "--config-file", str(out / "config.yaml")
    )
    assert f"copypaste: {trained[-1]:.4f}" in evaluated.stdout
    check_code(out)
    (tmp_path / "images" / "train" / "anvil").mkdir()
    shutil.copy(tmp_path / "images/train/nut/0.png", tmp_path / "images/train/anvil")
    assert run_tool("deploy", str(run)).returncode == 0
    assert json.loads((out / "deploy.json").read_text())["categories"] == []  # not those it learned


def check_code(out: Path) -> None:
    """Runs the code in deploy.md; the exported files need nothing of this project."""
    Image.fromarray(np.full((40, 24, 3), 200, np.uint8)).save(out / "image.jpg")
    codes = re.findall(r"```python\n(.*?)```", (out / "deploy.md").read_text(), flags=re.DOTALL)
    found = []
    for code, absent in zip(codes, [[], ["classification"], ["torch"]], strict=True):
        blocked = f"import sys\nsys.modules |= dict.fromkeys({absent})\n"
        command = [sys.executable, "-W", "ignore", "-c", blocked + code]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        name, score = done.stdout.split()
        found.append((name, round(float(score), 3)))
    assert found[0][0] in CLASSES
    assert len(set(found)) == 1


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize("shape", [(40, 61, 3), (33, 20, 3), (7, 9, 3)])
def test_the_code_takes_an_image_as_the_evaluation_does(
    make_cfg: MakeCfg, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / split / "a" / "image.png")
    cfg = make_cfg(
        *("DATASETS.NAME", name, "DATASETS.ROOT", str(tmp_path), "INPUT.SIZE", 16),
        *("DATALOADER.NUM_WORKERS", 0, "INPUT.PIXEL_MEAN", [0.0] * 3),
        *("INPUT.PIXEL_STD", [1 / 255] * 3),
    )
    evaluated = next(iter(build_test_loader(cfg))).images[0]
    image = Image.open(tmp_path / "val" / "a" / "image.png")
    names: dict[str, Any] = {"image": image}
    code = FIT if name == "folder" else CROP
    exec(
        "from PIL import Image, ImageOps\n" + code.format(size=16, shorter=evaluation_resize(16)),
        names,
    )
    shown = torch.from_numpy(np.array(names["image"])).permute(2, 0, 1)
    torch.testing.assert_close(evaluated, shown.float())
    assert torch.equal(read_test_image(cfg, str(tmp_path / "val" / "a" / "image.png")), shown)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onnx-int8"], "--format: got 'onnx-int8', expected some of"),
        (["--size", "8", "8"], "--size: a classifier's images are of INPUT.SIZE"),
        (["MODEL.STUDENT.NAME", "resnet20"], "model_final.pth: not the weights of this"),
        (["--weights", "gone.pth"], "--weights: gone.pth is not there"),
        (["--image", "gone.jpg"], "gone.jpg: there is no such file"),
    ],
)
def test_what_users_get_wrong_is_one_line(
    make_cfg: MakeCfg, tmp_path: Path, words: list[str], message: str
) -> None:
    cfg = make_cfg()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    student: nn.Module = Trainer.build_model(cfg).student
    torch.save({"model": student.state_dict()}, tmp_path / "model_final.pth")
    ended = run_tool("deploy", str(tmp_path), *words)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_classifiers_config_with_a_mistake_is_no_detectors(
    make_cfg: MakeCfg, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(make_cfg().dump().replace("CROP_PADDING", "CROP_PAD"))
    ended = run_tool("deploy", str(tmp_path))
    assert "INPUT.CROP_PAD: unknown key; did you mean INPUT.CROP_PADDING?" in ended.stderr
