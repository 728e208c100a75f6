"""Schedules and learning rates: Detectron2's 1x for data sets of any size."""

import math
import re

from fam_det.recipes.overrides import Override, Overrides

COCO_IMAGES = 117_266  # of train2017 that have an object
COCO_ITERATIONS = 90_000  # of Detectron2's 1x
COCO_BATCH = 16
BASE_LR = {"GeneralizedRCNN": 0.02, "RetinaNet": 0.01}  # Detectron2's, for COCO_BATCH
STEPS = (2 / 3, 8 / 9)  # 60,000 and 80,000 of 90,000
EVALUATIONS = 10
WARMUP_ITERS = 1000  # Detectron2's, where the schedule is long enough
MIN_PERIOD = 100  # iterations between evaluations


def iterations(schedule: str, num_images: int, batch: int) -> int:
    """Returns the number of iterations of a schedule.

    1x is Detectron2's 90,000 iterations of 16 images for a data set of COCO's size, 12 epochs. The
    number is proportional to the square root of the number of images: a hundredth of COCO takes a
    tenth of the iterations, in ten times the epochs. A small data set needs fewer steps to be
    learned, but as many to leave the initial weights.
    """
    if re.fullmatch(r"[1-9]\d*", schedule):
        return int(schedule)
    if not re.fullmatch(r"\d*\.?\d+x", schedule) or float(schedule[:-1]) == 0:
        raise ValueError(
            f"--schedule: got {schedule!r}, expected 1x, a multiple such as 0.1x, or a number of "
            "iterations such as 5000"
        )
    share = math.sqrt(num_images / COCO_IMAGES)
    images = float(schedule[:-1]) * COCO_ITERATIONS * COCO_BATCH * share
    return max(round(images / batch), 1)


def solver_overrides(
    schedule: str, architecture: str, *, num_images: int, num_validated: int, batch: int
) -> Overrides:
    """Returns the keys of the solver, and of the evaluations during training."""
    last = iterations(schedule, num_images, batch)
    steps = sorted({round(share * last) for share in STEPS} - {0, last})
    warmup = max(min(WARMUP_ITERS, last // 10), 1)
    # An evaluation has no more images than the training between two of them.
    period = max(math.ceil(last / EVALUATIONS), MIN_PERIOD, math.ceil(num_validated / batch))
    base = BASE_LR[architecture]
    epochs = last * batch / num_images
    return {
        "SOLVER.IMS_PER_BATCH": Override(batch),
        "SOLVER.BASE_LR": Override(
            base * batch / COCO_BATCH, f"{base} for {COCO_BATCH} images, linear in the batch"
        ),
        "SOLVER.MAX_ITER": Override(
            last, f"{schedule}: {epochs:,.1f} epochs of {num_images} images"
        ),
        "SOLVER.STEPS": Override(steps, "a tenth of the learning rate after 2/3 and 8/9"),
        "SOLVER.WARMUP_ITERS": Override(warmup, "a tenth of the schedule, 1000 at most"),
        "SOLVER.CLIP_GRADIENTS.ENABLED": Override(True, "steadier from pretrained weights"),
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Override("norm", "of each parameter"),
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Override(1.0),
        "SOLVER.CHECKPOINT_PERIOD": Override(period),
        "TEST.EVAL_PERIOD": Override(period, f"{EVALUATIONS} evaluations at most"),
    }
