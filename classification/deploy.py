"""The student of a run alone: its weights, TorchScript, ONNX, and what each costs and gets right.

An exported classifier takes images (N, 3, S, S), RGB, float32 of 0 to 255, and returns logits
(N, K): the normalisation is inside. S is ``INPUT.SIZE``.
"""

import contextlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from classification.build import build_network, teacher_statistics
from classification.config import get_cfg
from classification.data import build_test_loader, read_classes, read_test_image
from classification.engine import AccuracyEvaluator
from classification.models import load_weights
from classification.snippets import usage
from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.export.formats import OPSET, Runner, open_onnx, write_metadata
from fam_det.export.measure import Network, Row, Subject, timed
from fam_det.export.report import Report
from fam_det.export.source import ABSENT, DEPLOYED, MAX_REASON
from fam_det.files import one_line
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode
from detectron2.utils.analysis import FlopCountAnalysis

TOLERANCE = 1e-3  # of a logit, relative to the largest


class DeployedClassifier(nn.Module):
    """A network with its normalisation: images (N, 3, S, S) of 0 to 255 -> logits (N, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, 255.0 * torch.tensor(values)[:, None, None])

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
    if weights is None and path.is_dir():
        weights = str(find_checkpoint(path) or path / DEPLOYED)
        if not Path(weights).is_file():
            raise ValueError(f"{path}: has no checkpoint such as model_final.pth yet")
    weights = weights or cfg.MODEL.WEIGHTS
    if not Path(weights).is_file():
        raise ValueError(f"--weights: {weights or 'nothing'} is not there, expected a checkpoint")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", weights
    return cfg


def load_student(cfg: CfgNode) -> nn.Module:
    """Returns the student with the weights of ``MODEL.WEIGHTS``, in eval mode."""
    cfg.MODEL.STUDENT.WEIGHTS = ""
    student = build_network(cfg, "STUDENT")
    load_weights(student, cfg.MODEL.WEIGHTS)
    return DeployedClassifier(student, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD).eval()


def load_teacher(cfg: CfgNode) -> tuple[nn.Module | None, str]:
    """Returns the teacher of a run as far as it is there, and a note on what is missing."""
    if not cfg.MODEL.DISTILLER.NAME:
        return None, ""
    try:
        teacher = build_network(cfg, "TEACHER")
        return DeployedClassifier(teacher, *teacher_statistics(cfg)).eval(), ""
    except ABSENT as error:
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
        formats: keys of ``WRITERS``.
        image: to compare and time on; noise without one.
        is_evaluated: whether every row gets its accuracy on the test images.

    Raises:
        ValueError: weights, an image or a data set that are not as they should be.
    """
    if unknown := [name for name in formats if name not in WRITERS]:
        raise ValueError(
            f"--format: got {unknown[0]!r}, expected some of {list(WRITERS)} for a classifier"
        )
    student = load_student(cfg)
    pixels = _example(cfg, image)
    output.mkdir(parents=True, exist_ok=True)
    file = _save_student(cfg, student, output)
    networks = [Network("student", student, cfg, pixels)]
    teacher, note = load_teacher(cfg)
    if teacher is not None:
        networks.insert(0, Network("teacher", teacher, cfg, pixels))
    with tempfile.TemporaryDirectory() as folder:  # the teacher's files are not kept
        folders = {"student": output, "teacher": Path(folder)}
        subjects = [_in_pytorch(x, file if x.name == "student" else None) for x in networks]
        subjects += [_exported(name, x, folders[x.name]) for name in formats for x in networks]
        subjects = timed(subjects)
        if is_evaluated:
            subjects = [_evaluated(x, x.run) if x.run else x for x in subjects]
    rows = [x.row for x in subjects]
    names = read_classes(cfg)
    if len(names) != cfg.MODEL.NUM_CLASSES:  # moved, or not what the training saw
        names = []
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    for row in rows:
        if row.network == "student" and row.file.endswith(".onnx") and categories:
            write_metadata(output / row.file, categories=json.dumps(categories))
    report = Report(
        checkpoint=cfg.MODEL.WEIGHTS,
        categories=categories,
        image_size=networks[-1].size,
        input_format="RGB",
        sizes=[cfg.INPUT.SIZE],
        needs=[],
        rows=rows,
        parts={},
        scores=f"Accuracy in percent on the test images of {cfg.DATASETS.ROOT}" * is_evaluated,
        notes=[note] * bool(note) + [NO_CLASSES] * (not categories),
        threads=torch.get_num_threads(),
        code=usage([x.file for x in rows if x.network == "student"], cfg),
    )
    report.write(output)
    return report


NO_CLASSES = "the names of the classes are not known: DATASETS.ROOT has other images, or none"


def _example(cfg: CfgNode, file: Path | None) -> Tensor:
    """Returns an image (1, 3, S, S), float32 of 0 to 255."""
    if file is not None:
        return read_test_image(cfg, str(file))[None].float()
    generator = torch.Generator().manual_seed(0)
    size = cfg.INPUT.SIZE
    return torch.randint(0, 256, (1, 3, size, size), generator=generator).float()


def _save_student(cfg: CfgNode, student: Any, folder: Path) -> Path:
    """Writes the weights, and a config for ``tools/train_classifier.py --eval-only``."""
    file = folder / DEPLOYED
    torch.save({"model": student.network.state_dict()}, file)
    alone = cfg.clone()
    alone.MODEL.WEIGHTS = str(file)
    alone.MODEL.DISTILLER.NAME = alone.MODEL.TEACHER.NAME = alone.MODEL.TEACHER.WEIGHTS = ""
    (folder / "config.yaml").write_text(alone.dump(), encoding="utf-8")
    return file


def _in_pytorch(network: Network, file: Path | None) -> Subject:
    model, weights = network.detector, network.detector.network.state_dict().values()
    flops: Any = FlopCountAnalysis(model, network.image)
    flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    row = Row(
        network.name,
        "PyTorch",
        file.name if file else "",
        file.stat().st_size if file else sum(x.numel() * x.element_size() for x in weights),
        sum(x.numel() for x in model.parameters()),
        float(flops.total()),
    )
    return Subject(row, network, lambda x: {"logits": model(x)})


def _exported(name: str, network: Network, folder: Path) -> Subject:
    """Exports a network and compares the file with it; what goes wrong is in the row."""
    title, file_name, write = WRITERS[name]
    file, row = folder / file_name, Row(network.name, title)
    file.unlink(missing_ok=True)  # that of an earlier call is not this network
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: the logits are compared instead
            run = write(network.detector, network.image, file)
        error = _largest_error(run, network)
        reason = "" if error < TOLERANCE else f"removed: its logits differ by {error:.1%}"
    except Exception as failed:  # whatever PyTorch's exporters or a network of one's own raise
        kind = type(network.detector.network).__name__
        reason = f"PyTorch cannot export {kind} ({one_line(failed, MAX_REASON)})"
    if reason:
        file.unlink(missing_ok=True)
        reason = f"--format {name}: {reason}"
        return Subject(row._replace(check="failed", error=reason), network, None)
    check = f"logits within {error:.0e}"
    return Subject(
        row._replace(file=file_name, size=file.stat().st_size, check=check), network, run
    )


def _largest_error(run: Runner, network: Network) -> float:
    """Compares logits on the image and on a batch of it, its mirror image and its negative."""
    one = network.image
    batch = torch.cat([one, one.flip(3), 255.0 - one])
    errors = []
    for images in (one, batch):
        expected, found = network.detector(images), run(images)["logits"]
        errors.append(((found - expected).abs().max() / expected.abs().max()).item())
    return max(errors)


def _evaluated(subject: Subject, run: Runner) -> Subject:
    """Adds the accuracy of what a row names on the images that its training evaluates."""
    cfg = subject.network.cfg.clone()
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = [0.0] * 3, [1.0 / 255.0] * 3  # raw pixels
    evaluator = AccuracyEvaluator()
    evaluator.reset()
    for batch in tqdm(build_test_loader(cfg), subject.row.title, leave=False):
        evaluator.process(batch, run(batch.images.contiguous())["logits"])
    with contextlib.redirect_stdout(None):
        found: Any = evaluator.evaluate()
    return subject._replace(row=subject.row._replace(**found["accuracy"]))


def _trace(model: nn.Module, image: Tensor, file: Path) -> Runner:
    torch.jit.trace(model, (image,)).save(str(file))
    loaded: Any = torch.jit.load(str(file))
    return lambda x: {"logits": loaded(x)}


def _write_onnx(model: nn.Module, image: Tensor, file: Path) -> Runner:
    torch.onnx.export(
        model,
        (image,),
        str(file),
        dynamo=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    return open_onnx(file)


Writer = Callable[[nn.Module, Tensor, Path], Runner]
WRITERS: dict[str, tuple[str, str, Writer]] = {  # title, file and function by format
    "torchscript": ("TorchScript, traced", "model.ts", _trace),
    "onnx": ("ONNX", "model.onnx", _write_onnx),
}
