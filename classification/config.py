"""Config keys of the classification package, under Detectron2's names where it has one."""

from fam_det.config import add_fam_config
from fam_det.core.checks import check_positive

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detection_cfg


def get_cfg() -> CN:
    """Returns a config with every key of this package and its default."""
    detection = get_detection_cfg()
    cfg = CN()
    # 0 or more: the same seed gives the same run. Negative: a new one each time.
    cfg.SEED = -1
    cfg.OUTPUT_DIR = "./output"
    cfg.CUDNN_BENCHMARK = False
    # With a SEED, deterministic algorithms on GPUs where PyTorch has them; slower. CPUs need none.
    cfg.DETERMINISTIC = False
    cfg.VERSION = detection.VERSION

    cfg.DATASETS = CN()
    # Name in DATASET_REGISTRY: "cifar10", "cifar100", "imagenet", "folder" (images by class, kept
    # in memory), "digits" or "fake".
    cfg.DATASETS.NAME = "cifar100"
    # Where its files are.
    cfg.DATASETS.ROOT = "datasets"
    # Fetch CIFAR from its official address if it is not there.
    cfg.DATASETS.DOWNLOAD = True
    # Training images to hold out and evaluate on instead of the test set; 0: none.
    cfg.DATASETS.VALIDATION = 0
    # Train on so many images, the same share of each class; 0: on all.
    cfg.DATASETS.TRAIN_SUBSET = 0

    cfg.INPUT = CN()
    # Height and width of the images in pixels.
    cfg.INPUT.SIZE = 32
    # Mean and standard deviation of each channel, red first, as fractions of full brightness.
    cfg.INPUT.PIXEL_MEAN = [0.5071, 0.4867, 0.4408]
    cfg.INPUT.PIXEL_STD = [0.2675, 0.2565, 0.2761]
    # Zero pixels around an image before a crop of its own size is taken at random.
    cfg.INPUT.CROP_PADDING = 4
    # Mirror half of the images.
    cfg.INPUT.FLIP = True

    cfg.DATALOADER = CN()
    # Worker processes that decode images; of use to data sets that don't fit in memory.
    cfg.DATALOADER.NUM_WORKERS = 4
    # Seconds after which a worker that gives nothing counts as stuck; 0 for never.
    cfg.DATALOADER.TIMEOUT = 600
    # Different training images on disk that cannot be read and are skipped; one more ends the
    # training, as does the first with --strict. Those kept in memory must all be read.
    cfg.DATALOADER.MAX_UNREADABLE = 10

    cfg.MODEL = CN()
    cfg.MODEL.DEVICE = "cuda"
    cfg.MODEL.NUM_CLASSES = 100
    # A checkpoint of the whole run to start from or to evaluate.
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.STUDENT = CN()
    # Name in classification.models, such as "resnet20" (CIFAR) or "torchvision/resnet18".
    cfg.MODEL.STUDENT.NAME = ""
    # The student's initial weights: a checkpoint, the library's name of pretrained weights, or "".
    cfg.MODEL.STUDENT.WEIGHTS = ""
    cfg.MODEL.TEACHER = CN()
    cfg.MODEL.TEACHER.NAME = ""
    # The teacher's checkpoint, or the library's name of pretrained weights. "": random weights, to
    # try a setup.
    cfg.MODEL.TEACHER.WEIGHTS = ""
    # As INPUT.PIXEL_MEAN and PIXEL_STD, for its images. []: those of the config.yaml beside its
    # checkpoint or of the library's weights, and otherwise the student's.
    cfg.MODEL.TEACHER.PIXEL_MEAN = []
    cfg.MODEL.TEACHER.PIXEL_STD = []
    cfg.MODEL.DISTILLER = distiller_keys()

    # Detectron2's keys, and the schedule in epochs.
    cfg.SOLVER = detection.SOLVER
    # Length of the training. The keys in epochs set Detectron2's in iterations (MAX_ITER, STEPS,
    # CHECKPOINT_PERIOD, TEST.EVAL_PERIOD), unless this one is 0.
    cfg.SOLVER.EPOCHS = 240
    # Where the learning rate is multiplied by GAMMA.
    cfg.SOLVER.DECAY_EPOCHS = (150, 180, 210)
    # Multiplies EPOCHS, DECAY_EPOCHS and the distiller's warm-up: 0.1 for a tenth of the schedule.
    cfg.SOLVER.SCHEDULE_SCALE = 1.0
    # Epochs between checkpoints.
    cfg.SOLVER.CHECKPOINT_EPOCHS = 10
    # How many of them to keep, beside the best one and the final one.
    cfg.SOLVER.CHECKPOINT_KEEP = 1
    # Evaluations in a row without a better top-1, after which the training ends; 0 for never.
    cfg.SOLVER.PATIENCE = 0
    # Iterations with a loss or gradient that is not finite, to skip; one more is an error.
    cfg.SOLVER.MAX_NON_FINITE = 10
    cfg.SOLVER.IMS_PER_BATCH = 64
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.WEIGHT_DECAY = 5e-4
    # None: as the CIFAR literature does, the same on the weights of batch norm.
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    cfg.SOLVER.WARMUP_ITERS = 0

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


def distiller_keys() -> CN:
    """Returns the keys of ``MODEL.DISTILLER``; the defaults of the peers are for CIFAR-100.

    A None is the value that the method's authors chose.
    """
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
    # Channels of the fused maps: one number, or one a stage. []: the student's own channels;
    # ReviewKD's single width, at most 512, for the transform "conv3x3".
    node.MID_CHANNELS = []
    add_fam_config(node, filter="dense", loss="mse", relu=None)

    node.KD = CN()
    # Divides the logits of both networks before the softmax; the authors of mdistiller take 1 on
    # ImageNet, with LOSS_WEIGHT 0.5 and CE_WEIGHT 0.5.
    node.KD.TEMPERATURE = 4.0
    node.DKD = CN()
    # Weight of the target class against all others.
    node.DKD.ALPHA = 1.0
    # Weight of the distribution over the other classes; 2 to 8 by pair, on ImageNet 0.5 or 2.
    node.DKD.BETA = 8.0
    # Divides the logits of both networks; 1 on ImageNet.
    node.DKD.TEMPERATURE = 4.0
    node.DIST = CN()
    # Weight of the correlation over the classes of an image; 1 in the authors' loss for ImageNet.
    node.DIST.BETA = 2.0
    # Weight of the correlation over the images for a class; 1 in the authors' loss for ImageNet.
    node.DIST.GAMMA = 2.0
    # Divides the logits of both networks; 1 on ImageNet.
    node.DIST.TEMPERATURE = 4.0

    node.RKD = CN()
    # Weight of the distances between images.
    node.RKD.DISTANCE_WEIGHT = 25.0
    # Weight of the angles at each image between two others.
    node.RKD.ANGLE_WEIGHT = 50.0
    node.VID = CN()
    # Variance of the Gaussians at the start, above 1e-5.
    node.VID.INIT_VARIANCE = 5.0

    for name in ("CRD", "WCORD"):
        node[name] = CN()
        # Channels of the embeddings that are compared.
        node[name].DIM = 128
        # Images of other classes an image is compared with, drawn at each iteration.
        node[name].NEGATIVES = 16384
        # Share of the old embedding of an image that its memory keeps, in [0, 1).
        node[name].MOMENTUM = 0.5
    # Divides the cosine between embeddings.
    node.CRD.TEMPERATURE = 0.07
    # Weight of the global term: the dual form over the whole training set.
    node.WCORD.GLOBAL_WEIGHT = 0.8
    # Weight of the local term: the optimal transport within a batch.
    node.WCORD.LOCAL_WEIGHT = 0.05
    # Weight of the entropy in the transport; smaller is closer to the unregularised one.
    node.WCORD.ENTROPY = 0.1
    return node


def resolve_schedule(cfg: CN, num_images: int) -> None:
    """Writes the schedule in iterations for a training set of ``num_images``."""
    solver = cfg.SOLVER
    check_positive("TEST.EVAL_EPOCHS", cfg.TEST.EVAL_EPOCHS, zero=True)
    for key in ("EPOCHS", "SCHEDULE_SCALE", "CHECKPOINT_EPOCHS", "IMS_PER_BATCH"):
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
