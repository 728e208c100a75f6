"""How long to train, and how fast: Detectron2's 1x schedule for data sets of any size."""

import math
import re

from fam_det.recipes.overrides import Choice, Choices

COCO_IMAGES = 117_266  # of train2017 that have an object
COCO_ITERATIONS = 90_000  # of Detectron2's 1x
COCO_BATCH = 16
BASE_LR = {"GeneralizedRCNN": 0.02, "RetinaNet": 0.01}  # Detectron2's, for COCO_BATCH
STEPS = (2 / 3, 8 / 9)  # 60,000 and 80,000 of 90,000
EVALUATIONS = 10
WARMUP_ITERS = 1000  # Detectron2's, where the schedule is long enough
LEAST_PERIOD = 100


def iterations(schedule: str, num_images: int, batch: int) -> int:
    """Number of iterations of a schedule.

    1x is Detectron2's 90,000 iterations of 16 images for a data set of COCO's size, 12 passes. A
    data set of a hundredth of the images takes a tenth of the iterations, and so ten times the
    passes: it needs as many steps to leave the start as any other, and fewer to see all there is.

    Args:
        schedule: "1x", a multiple such as "0.1x", or a number of iterations.
        num_images: that are trained on.
        batch: images an iteration.

    Raises:
        ValueError: a schedule of another form.
    """
    if re.fullmatch(r"[1-9]\d*", schedule):
        return int(schedule)
    if not re.fullmatch(r"\d*\.?\d+x", schedule) or float(schedule[:-1]) == 0:
        raise ValueError(
            f"--schedule: got {schedule!r}, expected 1x, a multiple such as 0.1x, or a number of "
            "iterations such as 5000"
        )
    share = math.sqrt(num_images / COCO_IMAGES)
    seen = float(schedule[:-1]) * COCO_ITERATIONS * COCO_BATCH * share
    return max(round(seen / batch), 1)


def solver_choices(
    schedule: str, architecture: str, *, num_images: int, num_validated: int, batch: int
) -> Choices:
    """Keys of the solver, of the warm-ups and of the evaluations during training.

    Args:
        schedule: as for ``iterations``.
        architecture: the student's, a key of ``BASE_LR``.
        num_images: that are trained on.
        num_validated: images of an evaluation.
        batch: images an iteration.

    Raises:
        ValueError: a schedule of another form.
    """
    last = iterations(schedule, num_images, batch)
    steps = sorted({round(share * last) for share in STEPS} - {0, last})
    warmup = max(min(WARMUP_ITERS, last // 10), 1)
    # An evaluation sees no more images than the training between two of them.
    period = max(math.ceil(last / EVALUATIONS), LEAST_PERIOD, math.ceil(num_validated / batch))
    base = BASE_LR[architecture]
    passes = last * batch / num_images
    return {
        "SOLVER.IMS_PER_BATCH": Choice(batch),
        "SOLVER.BASE_LR": Choice(
            base * batch / COCO_BATCH, f"{base} for {COCO_BATCH} images, linear in the batch"
        ),
        "SOLVER.MAX_ITER": Choice(
            last, f"{schedule}: {passes:,.1f} passes over {num_images} images"
        ),
        "SOLVER.STEPS": Choice(steps, "a tenth of the learning rate after 2/3 and 8/9"),
        "SOLVER.WARMUP_ITERS": Choice(warmup, "a tenth of the schedule, 1000 at most"),
        "SOLVER.CHECKPOINT_PERIOD": Choice(period),
        "TEST.EVAL_PERIOD": Choice(period, f"{EVALUATIONS} times, but not in too quick a row"),
        "MODEL.DISTILLER.WARMUP_ITERS": Choice(warmup, "as the learning rate"),
    }
