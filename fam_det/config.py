"""Config keys of the project, beside Detectron2's own."""

import logging
from collections.abc import Collection

from fam_det.core import FAMOptions

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

logger = logging.getLogger(__name__)


DISTILLED = "DistilledDetector"  # meta-architecture of a student with its teacher


def detector_architecture(cfg: CN) -> str:
    """Returns the meta-architecture of the detector to train: of the student, if distilled."""
    is_distilled = cfg.MODEL.META_ARCHITECTURE == DISTILLED
    return str((cfg.MODEL.STUDENT if is_distilled else cfg.MODEL).META_ARCHITECTURE)


def default_config() -> CN:
    """Returns Detectron2's keys and the project's, with their defaults."""
    cfg = get_cfg()
    add_distillation_config(cfg)
    return cfg


def add_distillation_config(cfg: CN) -> None:
    """Adds every key of this project; the defaults change nothing in plain Detectron2."""
    _add_fault_keys(cfg)
    _add_data_and_backbone_keys(cfg)
    _add_timm_keys(cfg)
    _add_teacher_keys(cfg)
    _add_distiller_keys(cfg)
    # Off: the maps of an FPN are signed.
    add_fam_config(cfg.MODEL.DISTILLER, filter="separable", loss="hierarchical", relu=False)
    _add_peer_keys(cfg.MODEL.DISTILLER)


def _add_fault_keys(cfg: CN) -> None:
    # With a SEED, use PyTorch's deterministic algorithms on GPUs, which are slower.
    cfg.DETERMINISTIC = False
    # Checkpoints to keep, beside the best and the final one; 0 for all, as in Detectron2.
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    # Evaluations in a row without a better AP before the training stops; 0 for never.
    cfg.SOLVER.PATIENCE = 0
    # Iterations with a non-finite loss or gradient to skip; one more is an error.
    cfg.SOLVER.MAX_NON_FINITE = 10
    # Seconds without a batch after which a loader worker counts as stuck; 0 for never.
    cfg.DATALOADER.TIMEOUT = 600
    # Unreadable training images to skip; one more is an error.
    cfg.DATALOADER.MAX_UNREADABLE = 10
    # Share of the images for SAMPLER_TRAIN "RandomSubsetTrainingSampler"; Detectron2 v0.6 lacks it.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0


def _add_data_and_backbone_keys(cfg: CN) -> None:
    # Data sets in COCO format to register before anything else: [name, annotation file, image
    # folder].
    cfg.DATASETS.COCO = []
    # Raise an error for the first unreadable image, and for boxes that are empty or reach out of
    # their image, instead of skipping them with a warning; as --strict does.
    cfg.DATASETS.STRICT = False
    # Only warn if boxes seem to be corners or fractions, or if images differ in size from the
    # annotation file; as --allow-odd-boxes does.
    cfg.DATASETS.ALLOW_ODD_BOXES = False
    # Let links in an image folder of DATASETS.COCO lead out of it.
    cfg.DATASETS.FOLLOW_LINKS = False

    # Ignore a distilled student's boxes that match a crowd, instead of training them as background;
    # tools/label.py marks uncertain objects as crowds.
    cfg.DATASETS.IGNORE_CROWD = False
    # Data sets of DATASETS.TRAIN whose objects are ignored: a distilled student learns from its
    # teacher's feature maps alone there.
    cfg.DATASETS.UNLABELLED = []
    # Share of each data set of DATASETS.TRAIN in an epoch, such as [0.5, 0.5]. []: in proportion to
    # their numbers of images.
    cfg.DATASETS.TRAIN_SHARES = []

    cfg.MODEL.MOBILENETV2 = CN()
    # Width multiplier of all channels; ImageNet weights exist for 1.0.
    cfg.MODEL.MOBILENETV2.WIDTH_MULT = 1.0
    # Outputs of the network: any of "res2", "res3", "res4", "res5", of stride 4, 8, 16, 32.
    cfg.MODEL.MOBILENETV2.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Normalisation: "FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN" or "naiveSyncBN_N".
    cfg.MODEL.MOBILENETV2.NORM = "FrozenBN"


def _add_timm_keys(cfg: CN) -> None:
    cfg.MODEL.TIMM = CN()
    # The network of MODEL.BACKBONE.NAME "build_timm_fpn_backbone" (p2 to p6),
    # "build_retinanet_timm_fpn_backbone" (p3 to p7) or "build_timm_backbone" (no FPN): any that
    # timm builds with features_only, such as "mobilenetv3_small_100". With its pretrained weights,
    # MODEL.WEIGHTS "timm://NAME", set INPUT.FORMAT "RGB", in which timm trains, and PIXEL_MEAN and
    # PIXEL_STD to timm's, which are in [0, 1], times 255; a warning names differences.
    cfg.MODEL.TIMM.NAME = ""
    # Outputs of the network: any of "res2", "res3", "res4", "res5", of stride 4, 8, 16, 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Norm that replaces its BatchNorms: "FrozenBN", "BN" or "SyncBN". Other normalisations stay.
    cfg.MODEL.TIMM.NORM = "FrozenBN"


def _add_teacher_keys(cfg: CN) -> None:
    cfg.MODEL.STUDENT = CN()
    # The student's meta-architecture if MODEL.META_ARCHITECTURE is "DistilledDetector". All other
    # keys of the student are the usual ones: MODEL.BACKBONE, MODEL.ROI_HEADS, MODEL.RETINANET, ...
    cfg.MODEL.STUDENT.META_ARCHITECTURE = "GeneralizedRCNN"

    cfg.MODEL.TEACHER = CN()
    # The teacher's config: a model zoo name ("COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml") or a
    # file.
    cfg.MODEL.TEACHER.CONFIG = ""
    # The teacher's checkpoint, anything MODEL.WEIGHTS takes. "auto": the zoo's checkpoint for a zoo
    # name, the file's own MODEL.WEIGHTS for a file. "": random weights, to try a setup.
    cfg.MODEL.TEACHER.WEIGHTS = "auto"
    # KEY VALUE pairs merged into the teacher's config, as after the options of tools/train_net.py.
    cfg.MODEL.TEACHER.OPTS = []
    # Size of the teacher's images over that of the student's in height and width, 1 or more. INPUT
    # has the student's sizes; in training an image is resized for the teacher, and downsampled for
    # the student.
    cfg.MODEL.TEACHER.INPUT_SCALE = 1.0
    # With a scale above 1, the teacher's map for one of the student's. "same_level": that of its
    # name, its spectrum cropped to the student's cells; anchors should be INPUT_SCALE times smaller
    # than the teacher's. "same_level_area": the same, averaged over areas. "same_scale": the one
    # with as many cells, a level deeper for a scale of 2; anchors as the teacher's.
    cfg.MODEL.TEACHER.MATCH = "same_level"
    # Parts of the student that start with the teacher's weights, such as ["proposal_generator",
    # "roi_heads", "backbone.fpn_output*"], unless a checkpoint in MODEL.WEIGHTS has them.
    # If the student's FPN is thinner, its heads read a basis of the teacher's maps: leave
    # fpn_output out and keep the heads' own widths (MODEL.RPN.CONV_DIMS, the teacher's FPN width).
    cfg.MODEL.TEACHER.INHERIT = []
    # Training images on which that basis is found.
    cfg.MODEL.TEACHER.BASIS_IMAGES = 64
    # For each class of the student the teacher's class, counted from 0, whose rows of the
    # predictors it inherits, or -1 for a new class. []: both have the same classes.
    cfg.MODEL.TEACHER.CLASSES = []
    # Folder to cache its maps on disk, "" for none, and its maximum size in GB. They are read
    # for an image with the same pixels: with flips alone, each image is computed twice.
    cfg.MODEL.TEACHER.CACHE = ""
    cfg.MODEL.TEACHER.CACHE_GB = 10.0
    # Dtype of its convolutions: "float32", "bfloat16", "float16" or "auto": bfloat16 on a GPU that
    # supports it, otherwise the student's (see SOLVER.AMP).
    cfg.MODEL.TEACHER.PRECISION = "auto"


def _add_distiller_keys(cfg: CN) -> None:
    cfg.MODEL.DISTILLER = CN()
    # Name in DISTILLER_REGISTRY: "KnowledgeReviewDistiller", "LayerToLayerDistiller", or a peer's:
    # "FitNetDistiller", "FGFIDistiller", "PKDDistiller", "CWDDistiller", "DKDDistiller",
    # "FreeKDDistiller".
    cfg.MODEL.DISTILLER.NAME = "KnowledgeReviewDistiller"
    # Backbone outputs to distil, such as ["p3", "p4", "p5"]. []: every one that student and teacher
    # share.
    cfg.MODEL.DISTILLER.LEVELS = []
    # Channels of the fused maps in the review; half of an FPN's cost no AP on the blood cells.
    cfg.MODEL.DISTILLER.MID_CHANNELS = 128
    # BatchNorm of the transforms: "BN", or "SyncBN" over all devices, for a few images a device.
    cfg.MODEL.DISTILLER.NORM = "BN"
    # Weight of the sum of all levels' losses.
    cfg.MODEL.DISTILLER.LOSS_WEIGHT = 1.0
    # Weight of a loss between the outputs of the teacher's heads on the student's transformed maps
    # and on the teacher's, in the unit of the student's losses; 0 for none. For methods on feature
    # maps, and teachers that are a RetinaNet or have an RPN and one box head.
    cfg.MODEL.DISTILLER.HEAD_WEIGHT = 0.0
    # Iterations over which both weights rise from 0 to their values.
    cfg.MODEL.DISTILLER.WARMUP_ITERS = 1000


def add_fam_config(node: CN, *, filter: str, loss: str, relu: bool | None) -> None:
    """Adds the options of FAM-KD to a ``MODEL.DISTILLER`` node, with the defaults that differ.

    Args:
        node: of a detector or a classifier.
        filter: of ``FAM.FILTER``.
        loss: of ``LOSS``.
        relu: of ``RELU``.
    """
    # How the review joins a student map with the deeper stages: "cross_attention", "abf" or "none".
    node.FUSION = "cross_attention"
    # Transform of a map into the teacher's: "fam", or "conv3x3" as in ReviewKD.
    node.TRANSFORM = "fam"
    # End the transform in a ReLU. None: after FAM, not after "conv3x3".
    node.RELU = relu
    # Loss between the maps of a level or stage: "mse", "hierarchical" (ReviewKD's, also at pooled
    # sizes), "pearson" (PKD's) or "spectral_correlation" (with the same
    # weight for every band of frequencies).
    node.LOSS = loss
    node.FAM = CN()
    # Branches of the module: "global", "local" or, as in the paper, both.
    node.FAM.BRANCHES = ["global", "local"]
    # Initialisation: "paper", or "identity": the local branch, or the global one alone, returns
    # its input at first, so that the teacher's heads can read the student's maps. In a
    # detector with thinner maps it starts at the basis in which heads read them.
    node.FAM.INIT = "paper"
    # Parameters of the global filter: "dense" (the paper's, for maps of one size: classifiers),
    # "separable" (few parameters), "banded" (full channel mixing) or "pooled" (full channel mixing
    # of low frequencies only).
    node.FAM.FILTER = filter
    # Grid points of the filter over the full circle of frequencies, an even number.
    node.FAM.GRID = 8
    # High-pass filter: "ideal", "gaussian", "butterworth" or "none".
    node.FAM.HIGH_PASS = "ideal"
    # Cut-off frequency, as a fraction of the Nyquist frequency, in [0, 1].
    node.FAM.CUTOFF = 0.1
    # Order of the Butterworth filter.
    node.FAM.ORDER = 2


def fam_options(distiller: CN) -> FAMOptions:
    """Returns the options in the ``FAM`` node of ``MODEL.DISTILLER``."""
    return FAMOptions(**{key.lower(): value for key, value in distiller.FAM.items()})


def _add_peer_keys(node: CN) -> None:
    node.FGFI = CN()
    # Anchors near an object: those whose IoU with it is more than this share of the best one's,
    # in [0, 1].
    node.FGFI.THRESHOLD = 0.5

    node.CWD = CN()
    # Temperature of the softmax over the cells of a channel, more than 0.
    node.CWD.TEMPERATURE = 1.0

    node.DKD = CN()
    # Weight of a region's class, or background, against all others.
    node.DKD.ALPHA = 1.0
    # Weight of the distribution over the others.
    node.DKD.BETA = 0.25
    # Temperature of both networks' logits, more than 0.
    node.DKD.TEMPERATURE = 1.0

    node.FREEKD = CN()
    # Weight, beside that of the bands, of the mean squared error of the maps, as in the released
    # configs; 0 for the bands alone.
    node.FREEKD.MSE_WEIGHT = 5.0


def warn_of_unread_keys(distiller: CN, default: CN, reads: Collection[str] | None) -> None:
    """Warns of keys of ``MODEL.DISTILLER`` that differ from their defaults but have no effect.

    Args:
        distiller: the node.
        default: the same node with every key at its default.
        reads: keys that the method reads; None for a method that does not say.
    """
    if reads is None:
        return
    used = set(reads) if distiller.TRANSFORM == "fam" else set(reads) - {"FAM"}
    unused = [
        f"MODEL.DISTILLER.{key}"
        for key, value in distiller.items()
        if key not in used and value != default.get(key, value)
    ]
    if unused:
        logger.warning("%s: no effect on %s", ", ".join(unused), distiller.NAME)
