"""Exports the student of a run, and measures its cost and accuracy.

An exported classifier takes images (N, 3, S, S), RGB, float32 of 0 to 255, and returns logits
(N, K): the normalisation is inside. S is ``INPUT.SIZE``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from classification.build import build_network, teacher_statistics
from classification.config import get_cfg
from classification.data import Batch, build_test_loader, read_classes, read_test_image
from classification.engine import AccuracyEvaluator
from classification.models import load_weights
from classification.snippets import usage
from fam_det.export.compare import Comparison, Runner
from fam_det.export.evaluate import run_evaluator
from fam_det.export.formats import Format, export_onnx
from fam_det.export.measure import Network, measure
from fam_det.export.report import Report
from fam_det.export.source import LOAD_ERRORS, MAX_REASON, find_weights
from fam_det.export.student import save_student
from fam_det.files import one_line
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode

TOLERANCE = 1e-3  # of a logit, relative to the largest
NO_CLASSES = "the names of the classes are not known: DATASETS.ROOT has other images, or none"


class DeployedClassifier(nn.Module):
    """A network with its normalisation: images (N, 3, S, S) of 0 to 255 -> logits (N, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            pixels = 255.0 * torch.tensor(values)[:, None, None]
            self.register_buffer(name, pixels, persistent=False)  # no weights of the network

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        return self.network((images - self.mean) / self.std)


def read_source(path: Path, weights: str | None, opts: Sequence[str]) -> CfgNode:
    """Reads the config of a run's folder or file, and finds the checkpoint to deploy.

    Raises:
        ValueError: a config that is wrong, or no checkpoint.
    """
    cfg = get_cfg()
    merge_config(cfg, path / "config.yaml" if path.is_dir() else path, list(opts))
    cfg.MODEL.WEIGHTS = find_weights(path, weights, cfg.MODEL.WEIGHTS)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def load_student(cfg: CfgNode) -> DeployedClassifier:
    """Returns the student with the weights of ``MODEL.WEIGHTS``, in eval mode."""
    cfg.MODEL.STUDENT.WEIGHTS = ""
    student = build_network(cfg, "STUDENT")
    load_weights(student, cfg.MODEL.WEIGHTS)
    return DeployedClassifier(student, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD).eval()


def load_teacher(cfg: CfgNode) -> tuple[nn.Module | None, str]:
    """Returns the teacher of a run, or None and a note on why it cannot be loaded."""
    if not cfg.MODEL.DISTILLER.NAME:
        return None, ""
    try:
        teacher = build_network(cfg, "TEACHER")
        return DeployedClassifier(teacher, *teacher_statistics(cfg)).eval(), ""
    except LOAD_ERRORS as error:
        return None, f"no teacher beside it: {one_line(error, MAX_REASON)}"


@torch.no_grad()
def deploy(
    cfg: CfgNode,
    output: Path,
    formats: Sequence[str],
    *,
    image: Path | None = None,
    is_evaluated: bool = False,
) -> Report:
    """Writes the files and measures.

    Args:
        cfg: of ``read_source``.
        output: folder to write to.
        formats: keys of ``FORMATS``.
        image: to compare and time on; noise without one.
        is_evaluated: whether to evaluate every row on the test images.

    Raises:
        ValueError: invalid weights, an invalid image or data set.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(
            f"--format: got {unknown[0]!r}, expected some of {list(FORMATS)} for a classifier"
        )
    student = load_student(cfg)
    pixels = _example(cfg, image)
    output.mkdir(parents=True, exist_ok=True)
    alone = cfg.clone()  # for ``tools/train_classifier.py --eval-only``
    alone.MODEL.DISTILLER.NAME = alone.MODEL.TEACHER.NAME = alone.MODEL.TEACHER.WEIGHTS = ""
    file = save_student(alone, student.network, output)
    networks = [Classifier("student", student, cfg, pixels)]
    teacher, note = load_teacher(cfg)
    if teacher is not None:
        networks.insert(0, Classifier("teacher", teacher, cfg, pixels))
    rows = measure(networks, formats, file, ("teacher", "student") if is_evaluated else ())
    names = read_classes(cfg)
    if len(names) != cfg.MODEL.NUM_CLASSES:  # the data is gone, or has changed
        names = []
    part = "held-out" if cfg.DATASETS.VALIDATION else "test"
    report = Report(
        checkpoint=cfg.MODEL.WEIGHTS,
        categories=[{"id": i, "name": name} for i, name in enumerate(names)],
        image_size=networks[-1].size,
        input_format="RGB",
        sizes=[cfg.INPUT.SIZE],
        rows=rows,
        scores=f"Accuracy in percent on the {part} images of {cfg.DATASETS.ROOT}" * is_evaluated,
        notes=[note] * bool(note) + [NO_CLASSES] * (not names),
        code=usage([x.file for x in rows if x.network == "student"], cfg),
    )
    report.write(output)
    return report


def _example(cfg: CfgNode, file: Path | None) -> Tensor:
    """Returns an image (1, 3, S, S), float32 of 0 to 255."""
    if file is not None:
        return read_test_image(cfg, str(file))[None].float()
    generator = torch.Generator().manual_seed(0)
    size = cfg.INPUT.SIZE
    return torch.randint(0, 256, (1, 3, size, size), generator=generator).float()


def compare(run: Runner, expected: Runner, image: Tensor) -> Comparison:
    """Compares logits of the image, and of a batch with its mirror image and its negative."""
    errors = []  # relative to the network's largest logit
    for images in (image, torch.cat([image, image.flip(3), 255.0 - image])):
        logits = expected(images)["logits"]
        error = (run(images)["logits"] - logits).abs().max() / logits.abs().max()
        errors.append(error.item())
    if all(error < TOLERANCE for error in errors):  # a difference of rounding; NaN is none
        return Comparison(True, f"logits within {max(errors):.0e}")
    return Comparison(False, f"its logits differ by {max(errors):.1%}")


def _trace(model: nn.Module, image: Tensor, file: Path, _: Any) -> Runner:
    torch.jit.trace(model, (image,)).save(str(file))
    loaded: Any = torch.jit.load(str(file))
    return lambda x: {"logits": loaded(x)}


def _write_onnx(model: nn.Module, image: Tensor, file: Path, _: Any) -> Runner:
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    return export_onnx(model, image, file, axes)


FORMATS = {
    "torchscript": Format("TorchScript, traced", "model.ts", _trace, compare=compare),
    "onnx": Format("ONNX", "model.onnx", _write_onnx, compare=compare),
}


class Classifier(Network):
    """A student or teacher that takes images (N, 3, S, S), of 0 to 255, and gives logits."""

    formats = FORMATS

    @property
    def inputs(self) -> Tensor:
        """Returns the network's input."""
        return self.image

    @property
    def kind(self) -> str:
        """Returns the network's class name, for messages."""
        return type(self.detector.network).__name__

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the outputs that an exported file has for images."""
        return {"logits": self.detector(image)}

    def evaluate(self, run: Runner, title: str) -> dict[str, float]:
        """Returns the accuracy of ``run`` on the images on which the training evaluates."""
        cfg = self.cfg.clone()
        cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = [0.0] * 3, [1.0 / 255.0] * 3  # raw pixels
        batches = tqdm(build_test_loader(cfg), title, leave=False)

        def classify(batch: Batch) -> Tensor:
            return run(batch.images.contiguous())["logits"]

        return run_evaluator(AccuracyEvaluator(), batches, classify)["accuracy"]
