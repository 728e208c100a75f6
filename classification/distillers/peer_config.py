"""Config keys of the peers, under ``MODEL.DISTILLER.<METHOD>``; the defaults are for CIFAR-100.

Their loss weights are ``MODEL.DISTILLER.LOSS_WEIGHT`` and ``CE_WEIGHT``, as of every method.
"""

from detectron2.config import CfgNode as CN


def peer_keys(node: CN) -> None:
    """Add the keys of each method to the ``MODEL.DISTILLER`` node."""
    node.KD = CN()
    # Divides the logits of both networks before the softmax; the authors of mdistiller take 1 on
    # ImageNet, with LOSS_WEIGHT 0.5 and CE_WEIGHT 0.5.
    node.KD.TEMPERATURE = 4.0
    logit_keys(node)
    relation_keys(node)
    contrastive_keys(node)


def logit_keys(node: CN) -> None:
    """Keys of DKD and DIST."""
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


def relation_keys(node: CN) -> None:
    """Keys of RKD and VID."""
    node.RKD = CN()
    # Weight of the distances between images.
    node.RKD.DISTANCE_WEIGHT = 25.0
    # Weight of the angles at each image between two others.
    node.RKD.ANGLE_WEIGHT = 50.0
    node.VID = CN()
    # Variance of the Gaussians at the start, above 1e-5.
    node.VID.INIT_VARIANCE = 5.0


def contrastive_keys(node: CN) -> None:
    """Keys of CRD and WCoRD."""
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
