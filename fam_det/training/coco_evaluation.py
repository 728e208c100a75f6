"""COCO evaluation with the fastest exact implementation that is installed."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from pycocotools.coco import COCO

from detectron2.evaluation import COCOEvaluator, coco_evaluation


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, with faster-coco-eval where Detectron2's own C++ is not built.

    All give the figures of pycocotools. It is pycocotools itself that evaluates where neither is
    there, and, as in Detectron2, where ``TEST.DETECTIONS_PER_IMAGE`` is not 100.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with faster_coco_eval():  # the main branch looks for its C++ here
            super().__init__(*args, **kwargs)
        number_objects(self._coco_api)

    def _eval_predictions(self, *args: Any, **kwargs: Any) -> None:
        with faster_coco_eval():
            super()._eval_predictions(*args, **kwargs)


def number_objects(truth: COCO) -> None:
    """Number the objects from 1 where their ids are others: an object 0 counts as never found."""
    objects = truth.dataset.get("annotations", [])
    if all(isinstance(entry["id"], int) and entry["id"] > 0 for entry in objects):
        return
    for number, entry in enumerate(objects, start=1):
        entry["id"] = number
    with contextlib.redirect_stdout(None):
        truth.createIndex()


@contextlib.contextmanager
def faster_coco_eval() -> Iterator[None]:
    """Within this context faster-coco-eval stands in for Detectron2's C++, if that is not built."""
    of_detectron2 = coco_evaluation.COCOeval_opt
    if of_detectron2 is coco_evaluation.COCOeval and find_spec("faster_coco_eval"):
        coco_evaluation.COCOeval_opt = _evaluation
    try:
        yield
    finally:
        coco_evaluation.COCOeval_opt = of_detectron2


def _evaluation(truth: COCO, found: COCO, iou_type: str) -> Any:
    """An evaluation with COCOeval's methods; faster-coco-eval's keypoints need its own COCO."""
    if iou_type == "keypoints":
        return coco_evaluation.COCOeval(truth, found, iou_type)
    from faster_coco_eval import COCOeval_faster  # type: ignore[import-untyped]

    return COCOeval_faster(truth, found, iou_type, print_function=print)
