"""fam_det.core needs torch alone."""

import subprocess
import sys
from pathlib import Path

import fam_det.core

ROOT = Path(fam_det.core.__file__).parents[2]
NAMES = """FrequencyAttention WindowCrossAttention AttentionBasedFusion KnowledgeReview LayerToLayer
load_released high_pass_response mse_loss hierarchical_context_loss pearson_loss
spectral_correlation_loss""".split()


def test_importing_the_core_imports_neither_detectron2_nor_torchvision() -> None:
    code = (
        "import sys, fam_det.core\n"
        "packages = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(packages & {'detectron2', 'torchvision', 'fvcore', 'cv2', 'PIL'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_core_runs_where_nothing_but_torch_can_be_imported() -> None:
    code = (
        "import sys\n"
        "for name in ('detectron2', 'torchvision', 'fvcore', 'cv2', 'PIL', 'scipy'):\n"
        "    sys.modules[name] = None\n"  # importing any of them now raises
        "import torch, fam_det.core as core\n"
        "review = core.KnowledgeReview([4, 6], 8, [5, 7])\n"
        "maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]\n"
        "print([tuple(t.shape) for t in review(maps)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[(2, 5, 8, 8), (2, 7, 4, 4)]"


def test_the_contract_names_are_exported() -> None:
    assert [name for name in NAMES if not hasattr(fam_det.core, name)] == []
