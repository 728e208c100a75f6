"""Times a teacher and students in one runtime, on one of the user's images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from torch import Tensor, nn

from fam_det.data.annotations import read_annotations
from fam_det.data.images import find_image
from fam_det.export.formats import FORMATS, check_packages, detect
from fam_det.export.measure import time_in_turns
from fam_det.export.parts import part_seconds
from fam_det.export.source import MAX_REASON, example_image, load_teacher
from fam_det.export.student import student_config
from fam_det.files import one_line
from fam_det.recipes.data import CocoData
from fam_det.recipes.ladder import Rung
from fam_det.recipes.recorded_outputs import RecordedOutputs, record_outputs, replay_outputs

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model

PYTORCH = "pytorch"
RUNTIMES = {PYTORCH: "PyTorch", "torchscript": "TorchScript", "onnx": "ONNX Runtime"}
SECONDS = 1.0  # of timing each detector
PART_REPEATS, PART_SECONDS = 2, 0.5


class Measurement(NamedTuple):
    """A detector's row in the table."""

    name: str
    width: int  # of the FPN, in channels
    hidden: int | None  # channels of the RPN's hidden map; None of a dense detector
    proposals: int | None  # at most
    size: tuple[int, int]  # (H, W) of the image
    parameters: int
    bytes: int  # of the weights
    parts: dict[str, float]  # seconds in PyTorch, by name
    seconds: float  # of an image in the runtime, the median
    speedup: float  # over the teacher in the same round, the median
    samples: int | None = None  # per bin of the box head's ROIAlign, 0 for adaptive


class Meter:
    """Measures students and their teacher on an image of about the median size.

    Args:
        cfg: of any of the students, for the teacher, device and image sizes.
        data: from which the image is taken.
        runtime: key of ``RUNTIMES``. An exported detector runs on the CPU.

    Raises:
        ValueError: a runtime that is not installed, or a teacher or image that cannot be read.
    """

    def __init__(self, cfg: CfgNode, data: CocoData, runtime: str) -> None:
        try:
            check_packages([] if runtime == PYTORCH else [runtime])
        except ImportError as error:
            raise ValueError(str(error).replace("--format", "--for")) from error
        self.runtime = runtime
        self.device = cfg.MODEL.DEVICE if runtime == PYTORCH else "cpu"
        self.file, self.size = typical_image(data, cfg)  # (H, W) before resizing
        frozen, missing = load_teacher(cfg)
        if frozen is None:
            raise ValueError(f"--teacher: {missing}")
        self.is_trained = bool(frozen.weights) and not missing
        self.flip_channels = frozen.flip_channels
        self.teacher: Any = frozen.detector.to(self.device)
        self.image = self.read(cfg, cfg.MODEL.TEACHER.INPUT_SCALE)  # as the teacher takes it
        self.image = self.image.flip(0) if self.flip_channels else self.image
        if not self.is_trained:
            replay_outputs(self.teacher, self.image, None)
        self.teacher_outputs = record_outputs(self.teacher, self.image)
        self.parts = part_seconds(self.teacher, self.image, PART_SECONDS, PART_REPEATS)
        self._outputs: dict[Any, RecordedOutputs] = {}  # by image size and number of proposals

    def read(self, cfg: CfgNode, scale: float = 1.0) -> Tensor:
        """Returns the image (3, H, W) at ``scale`` times the size of this config's student."""
        height, width = (round(x * scale) for x in test_size(self.size, cfg))
        return example_image(cfg, self.file, (height, width)).to(self.device)

    def build(self, rung: Rung) -> tuple[Any, Tensor]:
        """Returns a student with the teacher's outputs, and its image."""
        cfg, image = student_config(rung.cfg), self.read(rung.cfg)
        cfg.MODEL.DEVICE = self.device
        student = build_model(cfg).eval().requires_grad_(False)
        outputs = self._outputs_for(student, image) if self.is_trained else None
        replay_outputs(student, image, outputs)
        return student, image

    def _outputs_for(self, student: Any, image: Tensor) -> RecordedOutputs:
        """Returns the teacher's outputs for a student's image and number of proposals."""
        generator = getattr(student, "proposal_generator", None)
        topk = generator and (generator.pre_nms_topk[False], generator.post_nms_topk[False])
        key = (tuple(image.shape), topk)
        if key not in self._outputs:
            image = image.flip(0) if self.flip_channels else image
            self._outputs[key] = record_outputs(self.teacher, image, topk)
        return self._outputs[key]

    def measure(self, rungs: Sequence[Rung]) -> tuple[Measurement, list[Measurement]]:
        """Returns the rows of the teacher and of students, timed alternately."""
        detectors = [(self.teacher, self.image), *map(self.build, rungs)]
        names = ["teacher", *(rung.name for rung in rungs)]
        with TemporaryDirectory() as folder:
            runs = [
                partial(self._prepare(name, *detector, Path(folder) / str(i)), detector[1])
                for i, (name, detector) in enumerate(zip(names, detectors, strict=True))
            ]
            times = time_in_turns(runs, self.device, SECONDS)
        rows = [self._row(*x, times[0]) for x in zip(names, detectors, times, strict=True)]
        return rows[0], rows[1:]

    def _prepare(self, name: str, detector: nn.Module, image: Tensor, file: Path) -> Any:
        """Returns a function that runs a detector in the runtime."""
        if self.runtime == PYTORCH:
            return partial(detect, detector)
        try:
            return FORMATS[self.runtime].export(detector, image, file)
        except Exception as error:  # PyTorch's exporters and a user's model may raise anything
            raise ValueError(
                f"--for {self.runtime}: {name} cannot be exported ({one_line(error, MAX_REASON)})"
            ) from error

    def _row(
        self, name: str, detector: tuple[Any, Tensor], seconds: list[float], teacher: list[float]
    ) -> Measurement:
        model, image = detector
        parts = self.parts
        if model is not self.teacher:
            parts = part_seconds(model, image, PART_SECONDS, PART_REPEATS)
        generator = getattr(model, "proposal_generator", None)
        pooler = getattr(getattr(model, "roi_heads", None), "box_pooler", None)
        weights = list(model.state_dict().values())
        return Measurement(
            name=name,
            width=next(iter(model.backbone.output_shape().values())).channels,
            hidden=generator and generator.rpn_head.objectness_logits.in_channels,
            proposals=generator and generator.post_nms_topk[False],
            size=(image.shape[1], image.shape[2]),
            parameters=sum(x.numel() for x in model.parameters()),
            bytes=sum(x.numel() * x.element_size() for x in weights),
            parts=parts,
            seconds=median(seconds),
            speedup=median(x / y for x, y in zip(teacher, seconds, strict=True)),
            samples=pooler and int(pooler.level_poolers[0].sampling_ratio),
        )


def typical_image(data: CocoData, cfg: CfgNode) -> tuple[Path, tuple[int, int]]:
    """Returns an image and its (H, W) before resizing.

    Its size is closest to the median; among equals, its number of objects is.
    """
    content = read_annotations("--val", data.annotations)
    images = content["images"]
    objects = dict.fromkeys((x["id"] for x in images), 0)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]] += 1
    sizes = [test_size((x["height"], x["width"]), cfg) for x in images]
    medians = [median(side) for side in zip(*sizes, strict=True)]
    count = median(objects.values())

    def distance(index: int) -> tuple[float, float]:
        sides = zip(sizes[index], medians, strict=True)
        return sum(abs(x - y) for x, y in sides), abs(objects[images[index]["id"]] - count)

    nearest = images[min(range(len(images)), key=distance)]
    file = find_image(nearest["file_name"], Path(data.images))
    return file, (nearest["height"], nearest["width"])


def test_size(size: tuple[int, int], cfg: CfgNode) -> tuple[int, int]:
    """Returns the (H, W) to which an evaluation resizes an image."""
    return resized(size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def resized(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Returns the (H, W) of an image resized to a shorter side; 0 does not resize."""
    if not shortest:
        return size
    height, width = T.ResizeShortestEdge.get_output_shape(*size, shortest, longest)
    return height, width
