"""The evaluation hook, which repeats evaluations lost to a kill, and evaluators of data sets."""

import contextlib
import io
import logging
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pycocotools import mask as rle
from pycocotools.coco import COCO

from fam_det.data.annotations import is_labelled_by_teacher
from fam_det.data.coco import use_coco_datasets
from fam_det.data.loader import keep_child_signals
from fam_det.files.metrics_file import parse_metrics
from fam_det.training.metrics import EVAL_SECONDS

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import hooks
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
    coco_evaluation,
)
from detectron2.utils import comm

logger = logging.getLogger(__name__)
MAX_EXACT = 2**53  # every whole number below is a float64


class Evaluation(hooks.EvalHook):
    """Detectron2's hook; a resumed run repeats an evaluation that a kill prevented.

    The checkpoint of an iteration is written before its evaluation. Every process evaluates with
    the first one's buffers, which are those in checkpoints: otherwise each process would evaluate
    its images with other running means of BatchNorm, and differently after a resume.
    """

    def __init__(self, period: int, evaluate: Any, folder: str) -> None:
        super().__init__(period, evaluate)
        self.file = Path(folder) / "metrics.json"
        self.evaluated = 0  # iterations done at the last evaluation

    def before_train(self) -> None:
        """Evaluates the checkpoint that a run is resumed from, unless its metrics are written."""
        start = self.trainer.start_iter
        due = self._period > 0 and start % self._period == 0 and 0 < start < self.trainer.max_iter
        if due and comm.all_gather(read_evaluation(self.file, start) is None)[0]:
            with at_iteration(self.trainer, start - 1):
                self._do_eval()

    def after_train(self) -> None:
        """Evaluates at the end, unless a training that ended early has just done so."""
        trainer = self.trainer
        # A run that is resumed at its end may be at max_iter + 1; log the same number then.
        trainer.iter = trainer.storage.iter = min(trainer.iter, trainer.max_iter)
        super().after_train()

    def _do_eval(self) -> None:
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        if done == self.evaluated:
            return
        self.evaluated, start = done, time.perf_counter()
        if comm.get_world_size() > 1:
            for buffer in self.trainer.model.buffers():
                dist.broadcast(buffer, 0)
        with keep_child_signals():
            super()._do_eval()
        seconds = time.perf_counter() - start
        self.trainer.storage.put_scalar(EVAL_SECONDS, seconds, smoothing_hint=False)


def read_evaluation(file: Path, done: int) -> dict[str, float] | None:
    """Returns the line of ``metrics.json`` with the last evaluation after ``done`` iterations.

    Detectron2 counts iterations from 0, but writes the end of a training as ``MAX_ITER``. That line
    has no learning rate; with one it is the iteration of this number in a prolonged training.
    """
    evaluation = None
    for _, line in parse_metrics(file):
        if line is not None and EVAL_SECONDS in line:
            number = line["iteration"]
            if number == done - 1 or (number == done and "lr" not in line):
                evaluation = line
    return evaluation


@contextlib.contextmanager
def at_iteration(trainer: Any, iteration: int) -> Iterator[None]:
    """Sets the iteration of a trainer and its storage within this context."""
    start, trainer.iter, trainer.storage.iter = trainer.iter, iteration, iteration
    try:
        yield
    finally:
        trainer.iter = trainer.storage.iter = start


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, with faster-coco-eval if Detectron2's own C++ is not built.

    All give the metrics of pycocotools. Without either, and as in Detectron2 if
    ``TEST.DETECTIONS_PER_IMAGE`` is not 100, pycocotools itself evaluates.

    On labels that a teacher has made the metrics are called "agreement", "agreement50", ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with faster_coco_eval():  # the main branch looks for its C++ here
            super().__init__(*args, **kwargs)
        renumber_annotations(self._coco_api)
        fill_areas(self._coco_api)

    def _eval_predictions(self, *args: Any, **kwargs: Any) -> None:
        with faster_coco_eval(), contextlib.redirect_stdout(io.StringIO()) as printed:
            super()._eval_predictions(*args, **kwargs)
        self._logger.info("%s", printed.getvalue())  # log.txt would have no recalls otherwise

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the metrics by task."""
        if not is_labelled_by_teacher(self._coco_api.dataset):
            return super().evaluate(*args, **kwargs)
        level = self._logger.level
        self._logger.setLevel(logging.WARNING)  # its tables call it AP
        try:
            with contextlib.redirect_stdout(None):
                results = super().evaluate(*args, **kwargs)
        finally:
            self._logger.setLevel(level)
        agreement = {
            task: {name.replace("AP", "agreement", 1): value for name, value in metrics.items()}
            for task, metrics in (results or {}).items()
        }
        for task, metrics in agreement.items():
            logger.info("Agreement with the teacher, %s: %s", task, metrics)
        return agreement


def renumber_annotations(ground_truth: COCO) -> None:
    """Renumbers annotations from 1 unless all ids are valid.

    COCOeval uses the id 0 for "not matched", and keeps ids as float64.
    """
    annotations = ground_truth.dataset.get("annotations", [])
    if all(isinstance(x["id"], int) and 0 < x["id"] < MAX_EXACT for x in annotations):
        return
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(None):
        ground_truth.createIndex()


def fill_areas(ground_truth: COCO) -> None:
    """Sets areas that are not positive numbers to the area of the mask, or else of the box.

    COCOeval tells small, medium and large objects apart by them.
    """
    for annotation in ground_truth.dataset.get("annotations", []):
        area = annotation.get("area")
        if not isinstance(area, int | float) or not 0 < area < float("inf"):
            _, _, width, height = annotation["bbox"]
            annotation["area"] = _mask_area(ground_truth, annotation) or width * height


def _mask_area(ground_truth: COCO, annotation: dict[str, Any]) -> float:
    mask = annotation.get("segmentation") or []
    if isinstance(mask, list):
        mask = [polygon for polygon in mask if len(polygon) >= 6]  # four numbers would be a box
    if not mask:
        return 0.0
    return float(rle.area(ground_truth.annToRLE(annotation | {"segmentation": mask})))


@contextlib.contextmanager
def faster_coco_eval() -> Iterator[None]:
    """Replaces Detectron2's C++ evaluation by faster-coco-eval, if only the latter is installed."""
    original = coco_evaluation.COCOeval_opt
    if original is coco_evaluation.COCOeval and find_spec("faster_coco_eval"):
        coco_evaluation.COCOeval_opt = _fast_evaluation
    try:
        yield
    finally:
        coco_evaluation.COCOeval_opt = original


def _fast_evaluation(ground_truth: COCO, predictions: COCO, iou_type: str) -> Any:
    # It takes keypoints from its own COCO class only, and keeps 53 bits of an id.
    has_long_ids = any(abs(x) >= MAX_EXACT for x in (*ground_truth.imgs, *ground_truth.cats))
    if iou_type == "keypoints" or has_long_ids:
        return coco_evaluation.COCOeval(ground_truth, predictions, iou_type)
    from faster_coco_eval import COCOeval_faster  # type: ignore[import-untyped]

    return COCOeval_faster(ground_truth, predictions, iou_type, print_function=print)


# By ``evaluator_type``.
EVALUATORS: dict[str, list[Any]] = {
    "coco": [FastCOCOEvaluator],
    "lvis": [LVISEvaluator],
    "sem_seg": [SemSegEvaluator],
    "coco_panoptic_seg": [SemSegEvaluator, FastCOCOEvaluator, COCOPanopticEvaluator],
    "cityscapes_instance": [CityscapesInstanceEvaluator],
    "cityscapes_sem_seg": [CityscapesSemSegEvaluator],
    "pascal_voc": [PascalVOCDetectionEvaluator],
}
# These have no argument output_dir.
WITHOUT_FOLDER = ("cityscapes_instance", "cityscapes_sem_seg", "pascal_voc")


def evaluator_type(dataset_name: str) -> str:
    """Returns the key of ``EVALUATORS`` for a data set; a ValueError names an unknown one."""
    kind: str = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in EVALUATORS:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has evaluator type {kind!r}, "
            f"expected one of {list(EVALUATORS)}"
        )
    return kind


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Returns the evaluator of a data set by its ``evaluator_type``, by default COCO's."""
    use_coco_datasets(cfg)
    folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
    kind = evaluator_type(dataset_name)
    options = {} if kind in WITHOUT_FOLDER else {"output_dir": folder}
    coco_options = {"kpt_oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS}
    evaluators = [
        build(dataset_name, **options, **(coco_options if build is FastCOCOEvaluator else {}))
        for build in EVALUATORS[kind]
    ]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
