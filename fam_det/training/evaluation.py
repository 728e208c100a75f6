"""Evaluations of a training, none of which is lost to a kill, and the evaluators of data sets."""

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
EXACT = 2**53  # below it every whole number is a float64


class Evaluation(hooks.EvalHook):
    """Detectron2's hook; a resumed run makes up for the evaluation that its end has cost.

    The checkpoint of an iteration is older than its evaluation. Every process evaluates with the
    buffers of the first, which are the saved ones: otherwise the running means of BatchNorms would
    be another model's for each share of the images, and others again after a resume.
    """

    def __init__(self, period: int, evaluate: Any, folder: str) -> None:
        super().__init__(period, evaluate)
        self.file = Path(folder) / "metrics.json"
        self.evaluated = 0  # iterations done at the last evaluation

    def before_train(self) -> None:
        """Evaluates the checkpoint that a run is resumed from, unless that was done."""
        start = self.trainer.start_iter
        due = self._period > 0 and start % self._period == 0 and 0 < start < self.trainer.max_iter
        if due and comm.all_gather(read_evaluation(self.file, start) is None)[0]:
            with at_iteration(self.trainer, start - 1):
                self._do_eval()

    def after_train(self) -> None:
        """Evaluates at the end, unless a training that ended early has just done so.

        The number of the end is the same for a run resumed after its last step.
        """
        trainer = self.trainer
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
    """Returns a line of ``metrics.json``: the last evaluation after so many iterations.

    Detectron2 counts from 0, but calls the end of a training ``MAX_ITER``: a line without a
    learning rate, after which a training that was made longer has an iteration of that number.
    """
    found = None
    for _, line in parse_metrics(file):
        if line is not None and EVAL_SECONDS in line:
            number = line["iteration"]
            if number == done - 1 or (number == done and "lr" not in line):
                found = line
    return found


@contextlib.contextmanager
def at_iteration(trainer: Any, iteration: int) -> Iterator[None]:
    """Within this context a trainer that has not begun is where its checkpoint left it."""
    start, trainer.iter, trainer.storage.iter = trainer.iter, iteration, iteration
    try:
        yield
    finally:
        trainer.iter = trainer.storage.iter = start


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, with faster-coco-eval where Detectron2's own C++ is not built.

    All give the figures of pycocotools. It is pycocotools itself that evaluates where neither is
    there, and, as in Detectron2, where ``TEST.DETECTIONS_PER_IMAGE`` is not 100.

    Where a teacher has found the objects, its figures are "agreement", "agreement50" and so on.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with faster_coco_eval():  # the main branch looks for its C++ here
            super().__init__(*args, **kwargs)
        number_objects(self._coco_api)
        fill_areas(self._coco_api)

    def _eval_predictions(self, *args: Any, **kwargs: Any) -> None:
        with faster_coco_eval(), contextlib.redirect_stdout(io.StringIO()) as printed:
            super()._eval_predictions(*args, **kwargs)
        self._logger.info("%s", printed.getvalue())  # in log.txt, which else had no recalls

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the figures by task."""
        if not is_labelled_by_teacher(self._coco_api.dataset):
            return super().evaluate(*args, **kwargs)
        level = self._logger.level
        self._logger.setLevel(logging.WARNING)  # its tables say AP
        try:
            with contextlib.redirect_stdout(None):
                results = super().evaluate(*args, **kwargs)
        finally:
            self._logger.setLevel(level)
        found = {
            task: {name.replace("AP", "agreement", 1): value for name, value in figures.items()}
            for task, figures in (results or {}).items()
        }
        for task, figures in found.items():
            logger.info("Agreement with the teacher, %s: %s", task, figures)
        return found


def number_objects(truth: COCO) -> None:
    """Numbers the objects from 1 where their ids are others: an object 0 counts as never found."""
    objects = truth.dataset.get("annotations", [])
    if all(isinstance(entry["id"], int) and 0 < entry["id"] < EXACT for entry in objects):
        return
    for number, entry in enumerate(objects, start=1):
        entry["id"] = number
    with contextlib.redirect_stdout(None):
        truth.createIndex()


def fill_areas(truth: COCO) -> None:
    """Gives objects whose area is not a positive number that of their mask, or else of their box.

    Small, medium and large ones are told apart by it.
    """
    for entry in truth.dataset.get("annotations", []):
        area = entry.get("area")
        if not isinstance(area, int | float) or not 0 < area < float("inf"):
            entry["area"] = _mask_area(truth, entry) or entry["bbox"][2] * entry["bbox"][3]


def _mask_area(truth: COCO, entry: dict[str, Any]) -> float:
    mask = entry.get("segmentation") or []
    if isinstance(mask, list):
        mask = [polygon for polygon in mask if len(polygon) >= 6]  # four numbers would be a box
    return float(rle.area(truth.annToRLE(entry | {"segmentation": mask}))) if mask else 0.0


@contextlib.contextmanager
def faster_coco_eval() -> Iterator[None]:
    """Within this context faster-coco-eval stands in for Detectron2's C++, if that is not built."""
    original = coco_evaluation.COCOeval_opt
    if original is coco_evaluation.COCOeval and find_spec("faster_coco_eval"):
        coco_evaluation.COCOeval_opt = _fast_evaluation
    try:
        yield
    finally:
        coco_evaluation.COCOeval_opt = original


def _fast_evaluation(truth: COCO, found: COCO, iou_type: str) -> Any:
    if iou_type == "keypoints":  # faster-coco-eval takes those from its own COCO class only
        return coco_evaluation.COCOeval(truth, found, iou_type)
    from faster_coco_eval import COCOeval_faster  # type: ignore[import-untyped]

    pair = _renumbered(truth, found)
    return COCOeval_faster(*pair, iou_type, print_function=print)


def _renumbered(truth: COCO, found: COCO) -> tuple[COCO, COCO]:
    """Returns copies whose images and classes have low ids: faster-coco-eval keeps 53 bits."""
    ids = [sorted(x) for x in (truth.imgs, truth.cats)]
    if all(abs(number) < EXACT for x in ids for number in x):
        return truth, found
    images, classes = ({number: i for i, number in enumerate(x, start=1)} for x in ids)
    copies = COCO(), COCO()
    for copy, original in zip(copies, (truth, found), strict=True):
        copy.dataset = {
            "images": [x | {"id": images[x["id"]]} for x in original.dataset["images"]],
            "categories": [x | {"id": classes[x["id"]]} for x in original.dataset["categories"]],
            "annotations": [
                x | {"image_id": images[x["image_id"]], "category_id": classes[x["category_id"]]}
                for x in original.dataset["annotations"]
            ],
        }
        with contextlib.redirect_stdout(None):
            copy.createIndex()
    return copies


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
# These write to places of their choice.
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
    """Returns the evaluator of a data set, by its ``evaluator_type``, COCO's where it has none."""
    use_coco_datasets(cfg)
    folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
    kind = evaluator_type(dataset_name)
    options = {} if kind in WITHOUT_FOLDER else {"output_dir": folder}
    of_coco = {"kpt_oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS}
    evaluators = [
        build(dataset_name, **options, **(of_coco if build is FastCOCOEvaluator else {}))
        for build in EVALUATORS[kind]
    ]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
