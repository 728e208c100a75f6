"""Config keys of ``MODEL.DISTILLER``; the defaults of the peers are for CIFAR-100."""

from typing import Any

from fam_det.config import add_fam_config

from detectron2.config import CfgNode as CN


def distiller_keys() -> CN:
    """Returns the node ``MODEL.DISTILLER``. A None is the value that the method's authors chose."""
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
    # The transform of a map into the teacher's: "fam", or "conv3x3" as in ReviewKD.
    node.TRANSFORM = "fam"
    # End the transform in a ReLU. None: after FAM, not after "conv3x3".
    node.RELU = None
    # Loss between the maps of a stage: "mse", "hierarchical" (ReviewKD's), "pearson" (PKD's) or
    # "spectral_correlation" (in which every band of frequencies counts alike).
    node.LOSS = "mse"
    add_fam_config(node, filter="dense")
    _add_logit_keys(node)
    _add_relation_keys(node)
    _add_contrastive_keys(node)
    return node


def _add_logit_keys(node: CN) -> None:
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


def _add_relation_keys(node: CN) -> None:
    node.RKD = CN()
    # Weight of the distances between images.
    node.RKD.DISTANCE_WEIGHT = 25.0
    # Weight of the angles at each image between two others.
    node.RKD.ANGLE_WEIGHT = 50.0
    node.VID = CN()
    # Variance of the Gaussians at the start, above 1e-5.
    node.VID.INIT_VARIANCE = 5.0


def _add_contrastive_keys(node: CN) -> None:
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


def check_option(key: str, value: Any, valid: bool, expected: str) -> None:
    """Raises a ValueError that names the key unless the value is valid."""
    if not valid:
        raise ValueError(f"{key}: got {value}, expected {expected}")
