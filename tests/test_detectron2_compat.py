"""Each case runs in a process of its own: what is imported first is the point."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APPLY = "from fam_det.detectron2_compat import apply; apply()\n"


def run_python(code: str, cwd: Path, *path: Path) -> str:
    """Run code outside the repository, with only these folders added to the path."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def carries_compat() -> bool:
    """Whether the installed Detectron2 is the pure-Python one of tools/install_detectron2.py."""
    spec = importlib.util.find_spec("detectron2")
    places = (spec.submodule_search_locations if spec else None) or ()
    return any(Path(place, "_compat.py").is_file() for place in places)


pure_python = pytest.mark.skipif(not carries_compat(), reason="another Detectron2 is installed")

# A Detectron2 with one image, two boxes of one class in it, and one of the two detected.
EVALUATE = """
import sys, torch
import detectron2.engine
from detectron2 import _C, model_zoo
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils.collect_env import collect_env_info

assert "fam_det" not in sys.modules
assert "not built" in collect_env_info()
assert model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml").MODEL.RESNETS.DEPTH == 50
try:
    _C.deform_conv_forward
except AttributeError as error:
    assert "deform_conv_forward" in str(error) and "main branch" in str(error)
else:
    raise AssertionError("the operator that is not there was found")

MetadataCatalog.get("boxes").set(json_file=sys.argv[1])
evaluator = COCOEvaluator("boxes")
evaluator.reset()
found = Instances((64, 64), pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 40.0, 40.0]])))
found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
evaluator.process([{"image_id": 1}], [{"instances": found}])
print("AP", evaluator.evaluate()["bbox"]["AP"])
"""


@pure_python
def test_installed_detectron2_evaluates_without_fam_det(tmp_path: Path) -> None:
    boxes = [[0, 0, 40, 40], [50, 50, 10, 10]]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 0, "bbox": xywh, "area": xywh[2] ** 2, "iscrowd": 0}
        for i, xywh in enumerate(boxes, 1)
    ]
    dataset = {
        "info": {},
        "images": [{"id": 1, "file_name": "1.jpg", "height": 64, "width": 64}],
        "categories": [{"id": 0, "name": "box"}],
        "annotations": annotations,
    }
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(dataset))

    output = run_python(f"import sys; sys.argv.append({str(file)!r})\n{EVALUATE}", tmp_path)

    # Precision is 1 up to recall 1/2, that is at 51 of the 101 recalls 0, 0.01, ..., 1; then 0.
    assert float(output.rpartition("AP")[2]) == pytest.approx(100 * 51 / 101)


def test_apply_imports_no_detectron2_and_raises_no_warning(tmp_path: Path) -> None:
    code = "import sys, warnings; warnings.simplefilter('error')\n" + APPLY
    code += (
        "print([name for name in ('detectron2', 'torch', 'pkg_resources') if name in sys.modules])"
    )
    assert run_python(code, tmp_path, ROOT).strip() == "[]"


def test_apply_restores_removed_names_with_their_meaning(tmp_path: Path) -> None:
    code = APPLY + (
        "import numpy as np; from PIL import Image\n"
        "assert Image.LINEAR == Image.BILINEAR\n"
        "assert [np.array(1, t).dtype for t in (np.int, np.float, np.bool)] == [int, float, bool]\n"
    )
    run_python(code, tmp_path, ROOT)


def test_applying_twice_changes_nothing_more(tmp_path: Path) -> None:
    code = APPLY + "import sys; before = list(sys.meta_path)\n" + APPLY
    run_python(code + "assert sys.meta_path == before", tmp_path, ROOT)


@pure_python
def test_applying_beside_the_copy_in_the_wheel_changes_nothing_more(tmp_path: Path) -> None:
    code = "import sys, detectron2; before = list(sys.meta_path)\n" + APPLY
    run_python(code + "assert sys.meta_path == before", tmp_path, ROOT)


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    files = {
        "pkg_resources.py": "mine = True",
        "detectron2/__init__.py": "",
        "detectron2/_C.py": "mine = True",
        "detectron2/evaluation/__init__.py": "",
        "detectron2/evaluation/fast_eval_api.py": "COCOeval_opt = 'mine'",
    }
    code = (
        "import numpy as np; from PIL import Image\n"
        "Image.LINEAR = np.int = np.float = np.bool = 'mine'\n" + APPLY + "import pkg_resources\n"
        "from detectron2 import _C\n"
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "assert pkg_resources.mine and _C.mine\n"
        "assert {Image.LINEAR, np.int, np.float, np.bool, COCOeval_opt} == {'mine'}\n"
    )
    run_python(code, tmp_path, write_files(tmp_path, files), ROOT)


def test_v06_without_its_extension_gets_a_stand_in(tmp_path: Path) -> None:
    files = {"detectron2/__init__.py": "", "detectron2/evaluation/__init__.py": ""}
    code = APPLY + (
        "from detectron2 import _C\n"
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "from pycocotools.cocoeval import COCOeval\n"
        "assert COCOeval_opt is COCOeval\n"
        "assert not hasattr(_C, 'nms_rotated')\n"
    )
    run_python(code, tmp_path, write_files(tmp_path, files), ROOT)


def test_main_branch_without_its_extension_uses_its_own_fallbacks(tmp_path: Path) -> None:
    files = {
        "detectron2/__init__.py": "",
        "detectron2/utils/__init__.py": "",
        "detectron2/utils/develop.py": "",
    }
    code = APPLY + (
        "try:\n"
        "    from detectron2 import _C\n"
        "except ImportError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError('stood in for _C where Detectron2 does without')\n"
    )
    run_python(code, tmp_path, write_files(tmp_path, files), ROOT)


def test_pkg_resources_finds_package_files(tmp_path: Path) -> None:
    files = {"zoo/__init__.py": "", "zoo/configs/a.yaml": ""}
    # Where setuptools still has the real one, both must answer alike.
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        + APPLY
        + (
            "import pkg_resources\n"
            "assert pkg_resources.resource_exists('zoo', 'configs/a.yaml')\n"
            "assert not pkg_resources.resource_exists('zoo', 'configs/b.yaml')\n"
            "print(pkg_resources.resource_filename('zoo', 'configs/a.yaml'))\n"
        )
    )
    output = run_python(code, tmp_path, write_files(tmp_path, files), ROOT)
    assert Path(output.strip()).samefile(tmp_path / "zoo/configs/a.yaml")


def test_installer_leaves_an_installed_detectron2_as_it_is(tmp_path: Path) -> None:
    files = {"detectron2/__init__.py": ""}
    code = (
        "import runpy, sys; sys.argv = ['']\n"
        f"runpy.run_path({str(ROOT / 'tools/install_detectron2.py')!r}, run_name='__main__')"
    )
    output = run_python(code, tmp_path, write_files(tmp_path, files))
    assert output.startswith("Using the installed detectron2")
    assert str(tmp_path / "detectron2") in output


def test_detectron2_is_imported_without_warnings_that_its_users_cannot_change() -> None:
    code = APPLY + "import detectron2.modeling.box_regression"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
