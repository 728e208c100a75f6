"""tools/predict.py: its detections beside those of an evaluation, its files, and wrong input."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pycocotools.coco import COCO

from fam_det.export import measure
from fam_det.export.media import list_media
from fam_det.export.predictions import open_predictions
from fam_det.export.source import read_source
from fam_det.export.student import load_student, save_student
from fam_det.training.detection import Trainer, load_config
from tests.modeling.small_detector import small_config
from tests.tools.in_process import run_tool

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import Instances

Json = dict[str, Any]

CATEGORIES = [{"id": 7, "name": "ring"}, {"id": 2, "name": "dot"}, {"id": 90, "name": "bar"}]
SMALL = [
    *("DATASETS.TRAIN", "()", "DATASETS.TEST", "('predict_val',)", "MODEL.MASK_ON", "True"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"),
    *("INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a grey, a transparent and a rotated image, none of which is stored as BGR."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 72, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., 0]).save(folder / "1_grey.png")
    Image.fromarray(pixels).save(folder / "2_transparent.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels[..., :3]).save(folder / "3_rotated.JPG", exif=exif)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a distilled Mask R-CNN with random weights, and its data set."""
    folder = tmp_path_factory.mktemp("run")
    sizes = {"1_grey.png": (48, 72), "2_transparent.webp": (48, 72), "3_rotated.JPG": (72, 48)}
    records, objects = [], []
    for number, (name, (height, width)) in enumerate(sizes.items(), start=10):
        records.append({"id": number, "file_name": name, "height": height, "width": width})
        square = [[4.0, 4.0, 30.0, 4.0, 30.0, 30.0, 4.0, 30.0]]
        box = {"bbox": [4, 4, 26, 26], "area": 676, "iscrowd": 0, "segmentation": square}
        objects.append({"id": number, "image_id": number, "category_id": 2, **box})
    content = {"images": records, "annotations": objects, "categories": CATEGORIES}
    (folder / "val.json").write_text(json.dumps(content))
    data = str([["predict_val", str(folder / "val.json"), str(images)]])
    cfg = small_config(*SMALL, "DATASETS.COCO", data)
    torch.manual_seed(0)
    (folder / "config.yaml").write_text(cfg.dump())
    DetectionCheckpointer(build_model(cfg), str(folder)).save("model_final")
    return folder


@pytest.fixture(scope="module")
def output(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tool writes for all detections of the run on the folder."""
    folder = tmp_path_factory.mktemp("output")
    ended = predict(run, images, "--output", folder, "--threshold", 0)
    assert ended.returncode == 0, ended.stderr
    assert "15 objects with a score of 0 or more in 3 images" in ended.stdout
    assert "/3 [" in ended.stderr  # the progress
    return folder


def predict(*words: object) -> subprocess.CompletedProcess[str]:
    return run_tool("predict", *map(str, words))


def read(output: Path) -> Json:
    content: Json = json.loads((output / "predictions.json").read_text())
    return content


def by_image(content: Json, found: list[Json]) -> list[list[Json]]:
    """The detections of each image in the order of the files, without what numbers them."""
    keys = ("category_id", "bbox", "score", "segmentation")
    return [
        [{key: x[key] for key in keys} for x in found if x["image_id"] == image["id"]]
        for image in content["images"]
    ]


def test_detections_are_those_of_an_evaluation(run: Path, output: Path, tmp_path: Path) -> None:
    cfg = load_config(str(run / "config.yaml"), [])
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(run / "model_final.pth"))
    evaluator = Trainer.build_evaluator(cfg, "predict_val", str(tmp_path))
    inference_on_dataset(model, Trainer.build_test_loader(cfg, "predict_val"), evaluator)
    expected = json.loads((tmp_path / "coco_instances_results.json").read_text())
    truth = json.loads((run / "val.json").read_text())
    content = read(output)
    assert by_image(content, content["annotations"]) == by_image(truth, expected)


def test_files_are_as_other_tools_read_them(images: Path, output: Path) -> None:
    coco = COCO(str(output / "predictions.json"))
    assert [coco.cats[number]["name"] for number in (2, 7, 90)] == ["dot", "ring", "bar"]
    sizes = {x["file_name"]: (x["width"], x["height"]) for x in coco.imgs.values()}
    assert sizes == {
        "1_grey.png": (72, 48),
        "2_transparent.webp": (72, 48),
        "3_rotated.JPG": (48, 72),
    }
    assert coco.dataset["info"]["image_folder"] == str(images)
    for entry in coco.anns.values():
        assert entry["area"] == coco.annToMask(entry).sum()
    assert {x.name for x in (output / "pictures").iterdir()} == set(sizes)
    for name, size in sizes.items():
        drawn = Image.open(output / "pictures" / name).convert("RGB")
        assert drawn.size == size
        original = ImageOps.exif_transpose(Image.open(images / name)).convert("RGB")
        assert np.any(np.asarray(drawn) != np.asarray(original))


def test_deployed_student_detects_the_same(
    run: Path, images: Path, output: Path, tmp_path: Path
) -> None:
    # As in another process, which does not know the data set.
    cfg, student = load_student(*read_source(run, None, ["DATASETS.TEST", "()"]))
    (tmp_path / "deploy").mkdir()
    save_student(cfg, student, tmp_path / "deploy")
    (tmp_path / "deploy").rename(tmp_path / "moved")
    words = ("--threshold", 0, "--no-pictures", "--output", tmp_path)
    ended = predict(tmp_path / "moved", images, *words)
    assert ended.returncode == 0, ended.stderr
    assert "the names of the classes are not known: numbered from 0" in ended.stdout
    assert not (tmp_path / "pictures").exists()
    found, named = read(tmp_path), read(output)
    ids = {0: 2, 1: 7, 2: 90}
    for entry in found["annotations"]:
        entry["category_id"] = ids[entry["category_id"]]
    assert found["annotations"] == named["annotations"]
    # tools/deploy.py notes them.
    categories = [{"id": number, "name": "known"} for number in ids.values()]
    (tmp_path / "moved" / "deploy.json").write_text(json.dumps({"categories": categories}))
    ended = predict(tmp_path / "moved", images, *words)
    assert "not known" not in ended.stdout
    assert read(tmp_path)["annotations"] == named["annotations"]


@pytest.mark.slow
def test_onnx_detects_the_same_within_rounding(
    run: Path, images: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    words = ("--format", "onnx", "--image", images / "1_grey.png", "--output", tmp_path)
    ended = run_tool("deploy", str(run), *map(str, words))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    words = (images, "--threshold", 0, "--no-pictures", "--output", tmp_path)
    assert predict(tmp_path / "model.onnx", *words).returncode == 0
    found, expected = read(tmp_path)["annotations"], read(output)["annotations"]
    for x, y in zip(found, expected, strict=True):
        assert x["bbox"] == pytest.approx(y["bbox"], abs=1e-2)
        assert x["score"] == pytest.approx(y["score"], abs=1e-4)
        assert x["area"] == pytest.approx(y["area"], abs=2)


def test_video_is_detected_in_frame_by_frame(run: Path, tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    video = cv2.VideoWriter(
        str(tmp_path / "street.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48)
    )
    for frame in frames:
        video.write(cv2.resize(frame, (64, 48)))
    video.release()
    for number, frame in enumerate(decode(tmp_path / "street.avi")):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    words = ("--threshold", 0, "--output", tmp_path)
    assert predict(run, tmp_path / "street.avi", *words).returncode == 0
    found = read(tmp_path)
    assert [(x["file_name"], x["frame_id"]) for x in found["images"]] == [
        ("street.avi", number) for number in range(3)
    ]
    drawn = decode(tmp_path / "pictures" / "street.avi.mp4")
    assert [picture.shape for picture in drawn] == 3 * [(48, 64, 3)]

    assert predict(run, tmp_path, *words, "--no-pictures").returncode == 0
    assert read(tmp_path)["annotations"] == found["annotations"]


def decode(video: Path) -> list[Any]:
    capture, frames = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def test_an_image_given_twice_is_listed_once(images: Path) -> None:
    _, names = list_media([images, images / "1_grey.png"])
    assert names == ["1_grey.png", "2_transparent.webp", "3_rotated.JPG"]


def test_unreadable_files_are_left_out_and_named(run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "some")
    whole = (images / "3_rotated.JPG").read_bytes()
    (tmp_path / "some" / "0_cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "some" / "empty.png").touch()
    Image.new("RGB", (3000, 1)).save(tmp_path / "some" / "thin.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "no.mp4").write_text("no video")
    words = ("--output", tmp_path, "--no-pictures")
    ended = predict(run, tmp_path / "some", tmp_path / "b" / "no.mp4", *words)
    assert ended.returncode == 1
    listed = [line for line in ended.stdout.splitlines() if line.startswith("not read: ")]
    assert [line.split(": ")[1] for line in listed] == [
        *("some/0_cut.jpg", "some/empty.png", "some/thin.png", "b/no.mp4")
    ]
    assert "some/0_cut.jpg: OSError: image file is truncated" in listed[0]
    assert all(line in ended.stderr for line in listed)
    names = [image["file_name"] for image in read(tmp_path)["images"]]
    assert names == ["some/1_grey.png", "some/2_transparent.webp", "some/3_rotated.JPG"]


def test_interrupted_predictions_leave_the_file_before(tmp_path: Path) -> None:
    file = tmp_path / "predictions.json"
    file.write_text("before")
    with pytest.raises(RuntimeError), open_predictions(file, {}, CATEGORIES) as predictions:
        predictions.add({"file_name": "a.png"}, Instances((4, 4)))
        raise RuntimeError
    assert [(x.name, x.read_text()) for x in tmp_path.iterdir()] == [(file.name, "before")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "gone.jpg"], "gone.jpg: there is no such image, folder or video"),
        (["RUN", "configs"], "configs: has no image; expected files of .bmp"),
        (["gone", "IMAGES"], "gone: expected the output folder of a run"),
        (["gone.onnx", "IMAGES"], "gone.onnx: there is no such file"),
        (["RUN/model.onnx", "IMAGES"], "model.onnx: [ONNXRuntimeError]"),
        (["RUN", "IMAGES", "--threshold", "50"], "--threshold: got 50.0, expected 0 to 1"),
        (["RUN", "RUN/pictures", "--output", "RUN"], "--output: the images are in"),
        (["RUN/classifier", "IMAGES"], "the run of a classifier, expected that of a detector"),
    ],
)
def test_what_users_get_wrong_is_one_line(
    run: Path, images: Path, words: list[str], message: str
) -> None:
    (run / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(run / "pictures" / "a.png")
    (run / "classifier").mkdir(exist_ok=True)
    classifier = "MODEL: {}\nSOLVER: {}\nDATASETS: {NAME: fake}\n"
    (run / "classifier" / "config.yaml").write_text(classifier)
    (run / "model.onnx").write_text("not ONNX")
    ended = predict(*(x.replace("RUN", str(run)).replace("IMAGES", str(images)) for x in words))
    assert ended.returncode != 0
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
