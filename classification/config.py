"""Config keys of the classification package, under Detectron2's names where it has one."""

from typing import Any

from classification.distillers.peer_config import peer_keys

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detection_cfg


def get_cfg() -> CN:
    """A config with every key of this package and its default."""
    detection = get_detection_cfg()
    cfg = CN()
    # 0 or more: the same seed gives the same run. Negative: a new one each time.
    cfg.SEED = -1
    cfg.OUTPUT_DIR = "./output"
    cfg.CUDNN_BENCHMARK = False
    # With a SEED, deterministic algorithms on GPUs where PyTorch has them; slower. CPUs need none.
    cfg.DETERMINISTIC = False
    cfg.VERSION = detection.VERSION
    cfg.DATASETS = dataset_keys()
    cfg.INPUT = input_keys()
    cfg.DATALOADER = CN()
    # Worker processes that decode images; of use to data sets that don't fit in memory.
    cfg.DATALOADER.NUM_WORKERS = 4
    # Seconds after which a worker that gives nothing counts as stuck; 0 for never.
    cfg.DATALOADER.TIMEOUT = 600
    # Different training images on disk that cannot be read and are passed over; one more ends the
    # training, as does the first with --strict. Those kept in memory must all be read.
    cfg.DATALOADER.MAX_UNREADABLE = 10
    cfg.MODEL = model_keys()
    cfg.MODEL.DISTILLER = distiller_keys()
    cfg.SOLVER = solver_keys(detection.SOLVER)
    cfg.TEST = CN()
    # Images a batch, over all devices.
    cfg.TEST.IMS_PER_BATCH = 256
    # Epochs between evaluations; 0: at the end alone.
    cfg.TEST.EVAL_EPOCHS = 1
    # The same in iterations, for SOLVER.EPOCHS 0.
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.EXPECTED_RESULTS = []
    cfg.TEST.PRECISE_BN = detection.TEST.PRECISE_BN
    return cfg


def dataset_keys() -> CN:
    """Keys of ``DATASETS``."""
    node = CN()
    # Name in DATASET_REGISTRY: "cifar10", "cifar100", "imagenet", "folder" (images by class, kept
    # in memory), "digits" or "fake".
    node.NAME = "cifar100"
    # Where its files are.
    node.ROOT = "datasets"
    # Fetch CIFAR from its official address if it is not there.
    node.DOWNLOAD = True
    # Training images to hold out and evaluate on instead of the test set; 0: none.
    node.VALIDATION = 0
    # Train on so many images, the same share of each class; 0: on all.
    node.TRAIN_SUBSET = 0
    return node


def input_keys() -> CN:
    """Keys of ``INPUT``."""
    node = CN()
    # Height and width of the images in pixels.
    node.SIZE = 32
    # Mean and standard deviation of each channel, red first, as fractions of full brightness.
    node.PIXEL_MEAN = [0.5071, 0.4867, 0.4408]
    node.PIXEL_STD = [0.2675, 0.2565, 0.2761]
    # Zero pixels around an image before a crop of its own size is taken at random.
    node.CROP_PADDING = 4
    # Mirror half of the images.
    node.FLIP = True
    return node


def model_keys() -> CN:
    """Keys of ``MODEL`` but the distiller's."""
    node = CN()
    node.DEVICE = "cuda"
    node.NUM_CLASSES = 100
    # A checkpoint of the whole run to start from or to evaluate.
    node.WEIGHTS = ""
    node.STUDENT = CN()
    # Name in classification.models, such as "resnet20" (CIFAR) or "torchvision/resnet18".
    node.STUDENT.NAME = ""
    # What the student starts from: a checkpoint, the library's name of pretrained weights, or "".
    node.STUDENT.WEIGHTS = ""
    node.TEACHER = CN()
    node.TEACHER.NAME = ""
    # The teacher's checkpoint, or the library's name of pretrained weights. "": random weights, to
    # try a setup.
    node.TEACHER.WEIGHTS = ""
    return node


def distiller_keys() -> CN:
    """Keys of ``MODEL.DISTILLER``. A None is the value that the method's authors published."""
    node = CN()
    # Name in DISTILLER_REGISTRY; "": the student learns from the labels alone.
    node.NAME = ""
    # Weight of the distillation loss.
    node.LOSS_WEIGHT = None
    # Weight of the cross entropy with the labels.
    node.CE_WEIGHT = None
    # Epochs e over which the weight rises: min(epoch / e, 1), the first epoch being 1.
    node.WARMUP_EPOCHS = None
    # Stages to distil, counted from the stem, 0. []: every one but the stem; FitNet takes stage 2,
    # SP the last one.
    node.STUDENT_STAGES = []
    node.TEACHER_STAGES = []
    # Take the maps before the last ReLU of each stage.
    node.STUDENT_PREACT = False
    node.TEACHER_PREACT = False
    # The pooled feature is one more stage, of 1x1, for the review and layer-to-layer.
    node.POOLED = True
    # How the review joins a student map with the deeper stages: "cross_attention", "abf" or "none".
    node.FUSION = "cross_attention"
    # Channels of the fused maps: one number, or one a stage. []: the student's own channels;
    # ReviewKD's single width, at most 512, for the transform "conv3x3".
    node.MID_CHANNELS = []
    # What turns a map into the teacher's: "fam", or "conv3x3" as in ReviewKD.
    node.TRANSFORM = "fam"
    # End the transform in a ReLU. None: after FAM, not after "conv3x3".
    node.RELU = None
    # Loss between the maps of a stage: "mse", "hierarchical" (ReviewKD's), "pearson" (PKD's) or
    # "spectral_correlation" (in which every band of frequencies counts alike).
    node.LOSS = "mse"
    node.FAM = CN()
    # Branches of the module: "global", "local" or, as in the paper, both.
    node.FAM.BRANCHES = ["global", "local"]
    # Storage of the global filter: "dense" (the paper's), "banded" or "separable".
    node.FAM.FILTER = "dense"
    # Grid points of a banded or separable filter over the full circle of frequencies, even.
    node.FAM.GRID = 8
    # High-pass filter: "ideal", "gaussian", "butterworth" or "none".
    node.FAM.HIGH_PASS = "ideal"
    # Its cut-off, as a fraction of the Nyquist frequency, in [0, 1].
    node.FAM.CUTOFF = 0.1
    # Order of the Butterworth filter.
    node.FAM.ORDER = 2
    peer_keys(node)
    return node


def solver_keys(detection: CN) -> CN:
    """Keys of ``SOLVER``: Detectron2's, and the schedule in epochs."""
    node = detection.clone()
    # Length of the training. The keys in epochs set Detectron2's in iterations (MAX_ITER, STEPS,
    # CHECKPOINT_PERIOD, TEST.EVAL_PERIOD), unless this one is 0.
    node.EPOCHS = 240
    # Where the learning rate is multiplied by GAMMA.
    node.DECAY_EPOCHS = (150, 180, 210)
    # Multiplies EPOCHS, DECAY_EPOCHS and the distiller's warm-up: 0.1 for a tenth of the schedule.
    node.SCHEDULE_SCALE = 1.0
    # Epochs between checkpoints.
    node.CHECKPOINT_EPOCHS = 10
    # How many of them to keep, beside the best one and the final one.
    node.CHECKPOINT_KEEP = 1
    # Iterations with a loss or gradient that is not finite, to pass over; one more is an error.
    node.MAX_NON_FINITE = 10
    node.IMS_PER_BATCH = 64
    node.BASE_LR = 0.05
    node.WEIGHT_DECAY = 5e-4
    # None: as the CIFAR literature does, the same on the weights of batch norm.
    node.WEIGHT_DECAY_NORM = None
    node.WARMUP_ITERS = 0
    return node


def resolve_schedule(cfg: CN, num_images: int) -> None:
    """Write the schedule in iterations for a training set of ``num_images``.

    Raises:
        ValueError: a length or scale that is not positive.
    """
    solver = cfg.SOLVER
    for key in ("EPOCHS", "SCHEDULE_SCALE", "CHECKPOINT_EPOCHS"):
        check_positive(f"SOLVER.{key}", solver[key], zero=key == "EPOCHS")
    if solver.EPOCHS == 0:
        return
    iterations_per_epoch = num_images / solver.IMS_PER_BATCH

    def iterations(epochs: float) -> int:
        return max(round(epochs * iterations_per_epoch), 1)

    scale = solver.SCHEDULE_SCALE
    solver.MAX_ITER = iterations(scale * solver.EPOCHS)
    steps = {iterations(scale * epoch) for epoch in solver.DECAY_EPOCHS}
    solver.STEPS = tuple(sorted(step for step in steps if step < solver.MAX_ITER))
    solver.CHECKPOINT_PERIOD = iterations(solver.CHECKPOINT_EPOCHS)
    cfg.TEST.EVAL_PERIOD = iterations(cfg.TEST.EVAL_EPOCHS) if cfg.TEST.EVAL_EPOCHS else 0


def check_positive(key: str, value: Any, *, zero: bool = False) -> None:
    """Raise a ValueError that names the key unless its value is positive, or 0 where allowed."""
    if value < 0 or (value == 0 and not zero):
        raise ValueError(f"{key}: got {value}, expected {'0 or more' if zero else 'more than 0'}")
