"""The number of classes of a model and of its data."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

# Where each meta-architecture keeps its number of classes.
_NODES = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET", "FCOS": "FCOS"}


def check_class_count(cfg: CfgNode, name: str, classes: int) -> None:
    """A class index past the model's last one would crash in the middle of a loss.

    Raises:
        ValueError: a number other than the model's, for a data set that is trained or tested on;
            the message names the key.
    """
    if name not in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        return
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "DistilledDetector":
        architecture = cfg.MODEL.STUDENT.META_ARCHITECTURE
    node = _NODES.get(architecture)
    if node in cfg.MODEL and cfg.MODEL[node].NUM_CLASSES != classes:
        raise ValueError(
            f"MODEL.{node}.NUM_CLASSES: got {cfg.MODEL[node].NUM_CLASSES}, "
            f"expected {classes}, the number of categories of {name}"
        )


def check_registered(cfg: CfgNode) -> None:
    """The same for data sets of Detectron2's own and others that say what their classes are."""
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & {*DatasetCatalog.list()}:
        if classes := MetadataCatalog.get(name).get("thing_classes"):
            check_class_count(cfg, name, len(classes))
