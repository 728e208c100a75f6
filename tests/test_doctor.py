"""``python -m fam_det.doctor`` here, without Detectron2, and in an empty environment."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import venv
from functools import partial
from pathlib import Path

import pytest

from fam_det.doctor import data_sets, machine, weights
from fam_det.doctor.check import Check, run_check
from fam_det.doctor.command_line import parse_arguments
from fam_det.doctor.fact import GAP, NOTE, OK, Fact, of_version
from fam_det.doctor.libraries import REQUIRED, SMALL, TORCH, TORCHVISION

ROOT = Path(__file__).parent.parent
ADVICE = "reinstall it"


class Report:
    """What the doctor printed, by name: state, and the rest of the line."""

    def __init__(self, python: list[str], cwd: Path, **variables: str) -> None:
        kept = {k: v for k, v in os.environ.items() if k != data_sets.VARIABLE}
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
        self.facts = {m[2].strip(): (m[1], m[3]) for m in found if m}
        self.gaps = {name for name, (state, _) in self.facts.items() if state == GAP}


def test_this_environment_can_train(tmp_path: Path) -> None:
    caches = {"FVCORE_CACHE": str(tmp_path / "fvcore"), "TORCH_HOME": str(tmp_path / "torch")}
    report = Report([sys.executable], tmp_path, PYTHONPATH=str(ROOT), **caches)
    assert report.gaps == set()
    assert report.status == 0
    for name in ("Python", "PyTorch", "torchvision", "numpy", "pycocotools", "fvcore", "fam_det"):
        assert report.facts[name][0] == OK
    assert "Detectron2" in report.facts and "detectron2._C" in report.facts
    assert report.facts["weights, model zoo"] == (
        NOTE,
        f"none yet in {tmp_path / 'fvcore'} -> no need where its host answers: "
        "what a run needs is downloaded once",
    )
    assert report.verdict == "A training can start."


def test_without_detectron2_it_says_how_to_install_one(tmp_path: Path) -> None:
    links = tmp_path / "packages"
    links.mkdir()
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if not item.name.startswith("detectron2"):
            (links / item.name).symlink_to(item)
    path = os.pathsep.join([str(links), str(ROOT)])
    report = Report([sys.executable, "-S"], tmp_path, PYTHONPATH=path)
    assert report.gaps == {"Detectron2", "fam_det"}
    assert report.status == 1
    assert report.facts["Detectron2"][1] == (
        "detectron2 is not installed -> make install, or python tools/install_detectron2.py, "
        "or build Detectron2's main branch from source"
    )
    assert report.facts["PyTorch"][0] == OK
    assert report.verdict == (
        "2 gaps keep a training from starting; `make install` mends all, in a .venv of its own: "
        "a few minutes, 6 GB."
    )


def test_a_machine_with_nothing_gets_a_line_for_each_gap(tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", symlinks=True)
    python = next((tmp_path / "empty").glob("bin/python"))
    report = Report([str(python)], tmp_path, PYTHONPATH=str(ROOT))
    assert report.status == 1
    required = {"PyTorch", "torchvision", *(item.distribution for item in REQUIRED)}
    assert report.gaps == required | {"small libraries", "Detectron2", "fam_det"}
    assert report.facts["torchvision"][1].startswith("torchvision is not installed -> make install")
    assert all(" -> " in report.facts[name][1] for name in report.gaps)
    assert "GPU" not in report.facts  # nobody can look for one without PyTorch
    assert report.verdict.startswith(f"{len(report.gaps)} gaps keep a training from starting; ")


def test_importing_the_doctor_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, fam_det.doctor.command_line\n"
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
    expected = dict(re.findall(r'"([\w-]+)>=(\d[\d.]*\d)', required[1]))
    known = {item.distribution: item.least for item in (TORCH, TORCHVISION, *REQUIRED, *SMALL)}
    assert known == expected


@pytest.mark.parametrize(
    ("version", "state"), [("2.14.1+cu130", OK), ("2.4", OK), ("2.3.9", GAP), ("10.0", OK)]
)
def test_versions_compare_as_numbers(version: str, state: str) -> None:
    assert of_version("torch", version, "2.4", ADVICE).state == state


def test_a_terminal_gets_lines_that_fit() -> None:
    fact = Fact(GAP, "opencv-python", "cv2 is not installed", "make install, or pip install it")
    assert str(fact) == fact.wrapped(100)
    assert fact.wrapped(60).splitlines() == [
        "gap   opencv-python        cv2 is not installed",
        "                           -> make install, or pip install",
        "                           it",
    ]


@pytest.mark.parametrize(
    ("end", "words"), [(partial(os._exit, 3), "exit status 3"), (os.abort, "SIGABRT")]
)
def test_a_crash_is_a_gap_of_its_own(end: object, words: str) -> None:
    (fact,) = run_check(Check("library", end, ADVICE), time.monotonic() + 60)  # type: ignore[arg-type]
    assert fact == (GAP, "library", f"crashed: {words}", ADVICE)


def test_a_check_ends_at_its_deadline() -> None:
    (fact,) = run_check(Check("Python", machine.check_python, ADVICE), time.monotonic())
    assert fact == (GAP, "Python", "no answer in time", ADVICE)


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO with two images in its validation set, and no training set."""
    monkeypatch.setenv(data_sets.VARIABLE, str(tmp_path))
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


def test_coco_is_counted(coco: Path) -> None:
    (root,) = data_sets.check_root()
    assert root == (OK, "data sets", f"{coco.parent} holds coco", "")
    (fact,) = data_sets.check_coco("val2017")
    assert fact == (OK, "COCO val2017", f"2 of 2 images in {coco / 'val2017'}", "")


def test_missing_images_and_annotations_are_gaps(coco: Path) -> None:
    (coco / "val2017" / "000000000139.jpg").unlink()
    (fact,) = data_sets.check_coco("val2017")
    assert fact.state == GAP and fact.found.startswith("1 of 2 images")
    assert fact.advice == "unpack val2017.zip of cocodataset.org in coco"
    (fact,) = data_sets.check_coco("train2017")
    assert fact.state == GAP and fact.found.endswith("train2017.json: No such file or directory")


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (slice(0), "the file is empty"),
        (slice(-1), "the file is cut"),
        (slice(-40), "the file is cut"),
        (slice(70), "the file is cut"),  # after the first image's brace
    ],
)
def test_a_damaged_annotation_file_is_a_gap(coco: Path, keep: slice, words: str) -> None:
    file = coco / "annotations" / "instances_val2017.json"
    file.write_bytes(file.read_bytes()[keep])
    (fact,) = data_sets.check_coco("val2017")
    assert (fact.state, fact.found) == (GAP, f"{file}: {words}")


def test_another_json_file_is_a_gap(coco: Path) -> None:
    (coco / "annotations" / "instances_val2017.json").write_text('{"images": []}')
    (fact,) = data_sets.check_coco("val2017")
    assert fact.found.endswith('it has no "annotations", "categories"')


@pytest.mark.parametrize("chunk", [1, 2, 7, 11, 12, 13, 1000])
def test_what_lies_across_chunks_is_counted_once(
    coco: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(data_sets, "CHUNK", chunk)
    file = coco / "annotations" / "instances_val2017.json"
    assert data_sets.count_listed_images(file) == 2


def test_no_coco_is_a_note_and_no_folder_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data_sets.VARIABLE, str(tmp_path))
    assert data_sets.check_root()[0].state == NOTE
    assert data_sets.check_coco("val2017") == []
    monkeypatch.setenv(data_sets.VARIABLE, str(tmp_path / "nowhere"))
    assert data_sets.check_root()[0].state == GAP
    monkeypatch.delenv(data_sets.VARIABLE)
    monkeypatch.chdir(tmp_path)
    assert data_sets.check_root()[0].state == NOTE


def test_weights_in_a_cache_are_named_and_empty_ones_a_gap(tmp_path: Path) -> None:
    file = tmp_path / "detectron2" / "COCO-Detection" / "model_final_f97cb7.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345678" * 125_000)
    fact = weights.cache_fact("weights", tmp_path)
    assert fact.state == OK
    assert fact.found == f"1 in {tmp_path}, 1.0 MB: {file.relative_to(tmp_path)}"
    file.write_bytes(b"")
    assert weights.cache_fact("weights", tmp_path).state == GAP


def test_a_host_that_is_not_there_is_a_note() -> None:
    fact = weights.host_fact("http://localhost:9/file", ADVICE)  # the port of discard: nobody there
    assert fact.state == NOTE and fact.found.startswith("does not answer")


def test_caches_are_where_the_libraries_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from iopath.common.file_io import get_cache_dir

    monkeypatch.setenv("FVCORE_CACHE", "/tmp")
    assert weights.detectron2_cache() == Path(get_cache_dir())
    for variable in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in (None, "XDG_CACHE_HOME", "TORCH_HOME"):
        if variable:
            monkeypatch.setenv(variable, "/somewhere")
        assert weights.torch_cache() == Path(torch.hub.get_dir()) / "checkpoints"


def test_disk_is_measured_where_the_output_will_be(tmp_path: Path) -> None:
    (fact,) = machine.check_disk(tmp_path / "not" / "there")
    assert fact.name == "disk" and fact.found.endswith(f"free for {tmp_path / 'not' / 'there'}")


def test_help_is_one_screen_with_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert any("example" in line for line in lines)
