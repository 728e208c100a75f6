"""``python -m fam_det.doctor`` here, without Detectron2, and in an empty environment."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image

from fam_det import doctor
from fam_det.doctor import GAP, NOTE, OK, Line

ROOT = Path(__file__).parent.parent


class Report:
    """The lines of the doctor by name: state, and the rest of the line."""

    def __init__(self, python: list[str], cwd: Path, **variables: str) -> None:
        kept = {k: v for k, v in os.environ.items() if k != "DETECTRON2_DATASETS"}
        command = [*python, "-m", "fam_det.doctor", "--offline", "--timeout", "250"]
        done = subprocess.run(
            command, cwd=cwd, env={**kept, **variables}, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        self.status = done.returncode
        lines, _, self.verdict = done.stdout.strip().partition("\n\n")
        found = [
            re.fullmatch(r"(ok|note|gap) +(.{20,}?) (.+)", line) for line in lines.splitlines()
        ]
        assert all(found), done.stdout
        self.lines = {m[2].strip(): (m[1], m[3]) for m in found if m}
        self.gaps = {name for name, (state, _) in self.lines.items() if state == GAP}


def test_this_environment_can_train(tmp_path: Path) -> None:
    caches = {"FVCORE_CACHE": str(tmp_path / "fvcore"), "TORCH_HOME": str(tmp_path / "torch")}
    report = Report([sys.executable], tmp_path, PYTHONPATH=str(ROOT), **caches)
    assert report.gaps == set()
    assert report.status == 0
    for name in ("Python", "libraries", "PyTorch", "fam_det"):
        assert report.lines[name][0] == OK
    assert "Detectron2" in report.lines and "detectron2._C" in report.lines
    assert report.lines["weights, model zoo"][0] == NOTE
    assert report.verdict == "A training can start."


def test_without_detectron2_it_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "detectron2.utils", raising=False)
    checks = {check[0]: check for check in doctor.list_checks(Path(), offline=True)}
    lines = doctor.run_check(*checks["Detectron2"])
    assert [str(line.format(1000)) for line in lines] == [
        "gap   Detectron2           detectron2 is not installed -> make install, or python "
        "tools/install_detectron2.py, or build Detectron2's main branch from source"
    ]
    assert doctor.verdict(lines) == (
        "1 gap keeps a training from starting; `make install` makes a .venv without gaps: "
        "a few minutes, 6 GB."
    )


def test_a_machine_with_nothing_gets_a_line_for_each_gap(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", symlinks=True)
    python = next((tmp_path / "empty").glob("bin/python"))
    report = Report([str(python)], tmp_path, PYTHONPATH=str(ROOT))
    assert report.status == 1
    required = {text.partition(">=")[0] for text in doctor.REQUIRED.split()}
    assert report.gaps == required | {"PyTorch", "Detectron2", "fam_det"}
    assert report.lines["torchvision"][1] == (
        'torchvision is not installed -> make install, or pip install "torchvision>=0.21"'
    )
    assert all(" -> " in report.lines[name][1] for name in report.gaps)
    assert report.verdict.startswith(f"{len(report.gaps)} gaps keep a training from starting; ")


def test_importing_the_doctor_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, fam_det.doctor\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "known = {*sys.stdlib_module_names, '__main__', '__mp_main__', 'fam_det'}\n"
        "print(sorted(names - known))"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_versions_are_those_of_setup() -> None:
    required = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert required is not None
    expected = re.findall(r'"([\w-]+>=\d[\d.]*\d)', required[1])
    assert sorted(doctor.REQUIRED.split()) == sorted(expected)


@pytest.mark.parametrize(("lowest", "state"), [("2.0", OK), ("1.9.9", OK), ("2.10", GAP)])
def test_an_old_library_is_a_gap(monkeypatch: pytest.MonkeyPatch, lowest: str, state: str) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", f"packaging>={lowest}")
    monkeypatch.setattr(doctor, "installed_version", lambda name: "2.9.1+cu130")
    first = next(doctor.check_libraries())
    assert first.state == state


def test_a_library_that_hangs_is_shown_and_ends_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "fam_det.doctor", "--offline", "--timeout", "2"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr and str(tmp_path / "torch.py") in done.stderr


def test_a_terminal_gets_lines_that_fit() -> None:
    line = Line(GAP, "opencv-python", "cv2 is not installed", "make install, or pip install it")
    assert len(line.format(100).splitlines()) == 1
    assert line.format(60).splitlines() == [
        "gap   opencv-python        cv2 is not installed -> make",
        "                           install, or pip install it",
    ]


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO with two images in its validation set, and no training set."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    names = ["000000000139.jpg", "000000000285.jpg"]
    for name in names:
        (folder / "val2017" / name).touch()
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": 0, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


def test_coco_is_counted_and_what_is_missing_is_a_gap(coco: Path) -> None:
    train, val = doctor.check_data_sets()
    assert val == (OK, "COCO val2017", f"2 of 2 images in {coco / 'val2017'}", "")
    assert train.state == GAP and train.finding.endswith(
        "train2017.json: No such file or directory"
    )
    (coco / "val2017" / "000000000139.jpg").unlink()
    _, val = doctor.check_data_sets()
    assert val.state == GAP and val.finding.startswith("1 of 2 images")
    assert val.advice == "unpack val2017.zip of cocodataset.org in coco"


@pytest.mark.parametrize(
    ("keep", "words"),
    [(slice(0), "cannot mmap an empty file"), (slice(-40), "the file is truncated")],
)
def test_a_damaged_annotation_file_is_a_gap(coco: Path, keep: slice, words: str) -> None:
    file = coco / "annotations" / "instances_val2017.json"
    file.write_bytes(file.read_bytes()[keep])
    _, line = doctor.check_data_sets()
    assert (line.state, line.finding) == (GAP, f"{file}: {words}")


def test_no_coco_is_a_note_and_no_folder_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert [line.state for line in doctor.check_data_sets()] == [NOTE]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    assert [line.state for line in doctor.check_data_sets()] == [GAP]
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    assert [line.state for line in doctor.check_data_sets()] == [NOTE]


def test_weights_in_a_cache_are_named_and_empty_ones_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    file = tmp_path / "detectron2" / "COCO-Detection" / "model_final_f97cb7.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    zoo, _ = doctor.check_caches()
    assert zoo.state == OK and str(file.relative_to(tmp_path)) in zoo.finding
    file.write_bytes(b"")
    zoo, _ = doctor.check_caches()
    assert zoo.state == GAP and zoo.advice == f"rm {file}"


def test_a_host_that_is_not_there_is_a_note() -> None:
    (line,) = doctor.check_host("http://localhost:9/file")  # the port of discard: nobody there
    assert line.state == NOTE and line.finding.startswith("does not answer")


def test_caches_are_where_the_libraries_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from iopath.common.file_io import get_cache_dir

    monkeypatch.setenv("FVCORE_CACHE", "/tmp")
    assert doctor.zoo_cache() == Path(get_cache_dir())
    for variable in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in (None, "XDG_CACHE_HOME", "TORCH_HOME"):
        if variable:
            monkeypatch.setenv(variable, "/somewhere")
        assert doctor.torchvision_cache() == Path(torch.hub.get_dir()) / "checkpoints"


def test_disk_is_measured_where_the_output_will_be(tmp_path: Path) -> None:
    (line,) = doctor.check_disk(tmp_path / "not" / "there")
    assert line.name == "disk" and line.finding.endswith(f"free for {tmp_path / 'not' / 'there'}")


def test_help_is_one_screen_with_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        doctor.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert any("example" in line for line in lines)


def test_data_is_looked_at_as_a_training_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Corners, and for validation the same images with two classes exchanged."""
    Image.new("RGB", (96, 64)).save(tmp_path / "0.png")
    image = {"id": 0, "file_name": "0.png", "width": 96, "height": 64}
    boxes = {"train": [40, 30, 80, 60], "val": [40, 30, 40, 30]}
    words = []
    for name, box in boxes.items():
        categories = [
            {"id": i, "name": x} for i, x in enumerate(sorted("ab", reverse=name == "val"))
        ]
        entry = {"id": 1, "image_id": 0, "category_id": 1, "bbox": box}
        content = {"images": [image], "annotations": [entry], "categories": categories}
        (tmp_path / name).write_text(json.dumps(content))
        words += ["--data" if name == "train" else "--val", str(tmp_path / name), str(tmp_path)]
    assert doctor.main([*words, "--output", str(tmp_path / "out")]) == 1
    report = capsys.readouterr().out
    lines = report.splitlines()
    assert lines[0].startswith(f"gap   train                {tmp_path}/train: 1 of 1 boxes leave")
    assert "ok    train, objects       1: a 0, b 1" in lines
    assert "note  val                  1 of 2 classes have no object: b; a training" in report
    assert "gap   both                 the classes of val are not those of train" in report
    assert "note  both                 1 of 1 images are also images to train on" in report
    assert lines[-1] == "2 gaps keep a training from starting."
    assert {x.name for x in (tmp_path / "out").iterdir()} == {"train_images.png", "val_images.png"}
    assert doctor.main(["--data", str(tmp_path / "none"), str(tmp_path)]) == 1
    assert "none: No such file or directory; expected a COCO" in capsys.readouterr().out


def test_data_without_objects_can_be_validated_on_but_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (96, 64)).save(tmp_path / "0.png")
    image = {"id": 0, "file_name": "0.png", "width": 96, "height": 64}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "test").write_text(json.dumps(content))
    (tmp_path / "train").write_text(json.dumps(content | {"annotations": []}))
    pairs = [[str(tmp_path / name), str(tmp_path)] for name in ("train", "test")]
    words = ["--data", *pairs[0], "--val", *pairs[1], "--output", str(tmp_path / "out")]
    assert doctor.main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    (gap,) = [line for line in lines if line.startswith("gap")]
    assert gap.startswith("gap   train") and "has no annotations, expected boxes" in gap
    assert any(line.startswith("ok    val, images          1, 1 of them without") for line in lines)


def test_a_folder_that_cannot_be_written_to_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda folder, mode: False)  # root may write anywhere
    (line,) = doctor.check_disk(tmp_path / "output")
    assert (line.state, line.finding) == (GAP, f"{tmp_path} is read-only")


@pytest.mark.parametrize(("total", "state"), [(64e6, NOTE), (8e9, OK)])
def test_little_shared_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: float, state: str
) -> None:
    usage = doctor.shutil.disk_usage(tmp_path)._replace(total=int(total))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    (line,) = doctor.check_shared_memory(tmp_path)
    assert line.state == state
    assert ("NUM_WORKERS 0" in line.advice) == (state == NOTE)
