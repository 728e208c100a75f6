"""tools/visualize.py on a short run: its page, and that page in a real browser."""

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fam_det.analysis.page import format_page
from tests.tools.browser import BROWSER, look_at
from tests.tools.in_process import run_tool

WIDTHS = (390, 1280)  # pixels of a phone and of a screen


@pytest.fixture(scope="module")
def runs(cells: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two steps of a distilled student, and its checkpoint as a student alone."""
    folder = tmp_path_factory.mktemp("runs")
    opts = ["DATASETS.COCO", cells, "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "2"]
    opts += ["SOLVER.STEPS", "(1,)", "SOLVER.IMS_PER_BATCH", "1", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    opts += ["INPUT.MIN_SIZE_TEST", "64", "SOLVER.BASE_LR", "0.0001", "VIS_PERIOD", "1"]
    opts += ["MODEL.TEACHER.CONFIG", "configs/BloodCells/teacher_R_18.yaml"]
    # few boxes, as drawing each takes a while
    opts += ["TEST.DETECTIONS_PER_IMAGE", "5"]
    opts += ["MODEL.TEACHER.OPTS", "['TEST.DETECTIONS_PER_IMAGE', 5]"]
    opts += ["OUTPUT_DIR", str(folder / "student_fam")]
    done = run_tool(
        "train_net", "--config-file", "configs/BloodCells/student_distilled.yaml", *opts
    )
    assert done.returncode == 0, done.stderr
    alone = folder / "student_alone"
    shutil.copytree(folder / "student_fam", alone)
    config = yaml.safe_load((alone / "config.yaml").read_text())
    config["MODEL"]["META_ARCHITECTURE"] = "GeneralizedRCNN"
    (alone / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def output(runs: Path) -> Path:
    """The folder that the tool fills for both runs on two images."""
    words = [str(runs / "student_fam"), "--alone", str(runs / "student_alone")]
    words += ["--image", "3", "--image", "5.png", "--threshold", "0"]
    done = run_tool("visualize", *words, "--output", str(runs / "out"))
    assert done.returncode == 0, done.stderr
    return runs / "out"


def test_it_draws_every_detector_on_every_image(output: Path) -> None:
    (page,) = output.iterdir()  # the images once, in the page
    text = page.read_text()
    # on two images the truth, three detectors, and four columns of five levels; five filters
    pictures = {"jpeg": 2 * 4, "png": 2 * 4 * 5 + 5 + 2}
    for kind, count in pictures.items():
        assert text.count(f'src="data:image/{kind};base64,') == count
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)  # nothing from elsewhere
    assert "3.png" in text and re.search(r"\d of 1 object found, \d+ false detections", text)
    assert "<th>teacher</th><td>the teacher has random weights</td>" in text
    first = re.search(r'alt="ground truth[^"]*" src="data:image/jpeg;base64,([^"]*)"', text)
    assert first is not None
    assert Image.open(io.BytesIO(base64.b64decode(first[1]))).size == (672, 448)  # times seven


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or google-chrome on PATH: apt-get install chromium"
)


@needs_browser
def test_the_page_fits_a_phone_and_a_screen(output: Path, tmp_path: Path) -> None:
    page = output / "index.html"
    assert 'name="viewport" content="width=device-width' in page.read_text()
    frames, console = look_at(page, WIDTHS, tmp_path)
    assert console == []
    pictures = page.read_text().count("<img ")
    for width, seen in zip(WIDTHS, frames, strict=True):
        assert (seen["window"], seen["width"], seen["cut"]) == (width, width, [])
        assert (seen["images"], seen["drawn"]) == (pictures, pictures)
        assert seen["loaded"] == []
        assert seen["smallest"] >= 12


@needs_browser
def test_the_browser_would_tell_of_a_page_that_is_not_so(tmp_path: Path) -> None:
    head = format_page("Run", "", [], []).partition("<body>")[0]
    page = tmp_path / "page.html"
    page.write_text(
        f'{head}<body><div style="font-size: 9px; width: 600px">wide</div>'
        '<img src="data:image/png;base64,AAAA"><img src="https://example.com/a.png">'
    )
    (seen,), console = look_at(page, (390,), tmp_path)
    assert seen["width"] > seen["window"] == 390
    assert (seen["images"], seen["drawn"], seen["smallest"]) == (2, 0, 9)
    assert any("example.com" in line for line in console)


def test_tensorboard_has_the_maps_and_the_filters(runs: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    events = event_accumulator.EventAccumulator(
        str(runs / "student_fam"), size_guidance={"images": 0}
    )
    events.Reload()
    images = events.Tags()["images"]
    for level in ("p2", "p6"):
        assert f"distiller/{level}: student, teacher" in images
        assert f"distiller/filter of {level}" in images


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{runs}/student_fam", "--image", "77"], "--image: bccd_val has no '77'; expected an id"),
        (["{runs}/nothing"], "config.yaml: not there; expected an output folder of"),
        (["{runs}/student_alone", "--alone", "{runs}/student_alone"], "has no teacher"),
    ],
)
def test_wrong_input_gets_one_line(runs: Path, args: list[str], message: str) -> None:
    done = run_tool("visualize", *(text.format(runs=runs) for text in args))
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
