"""Training and evaluation: Detectron2's default trainer and evaluators, chosen by data set."""

from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import add_distillation_config
from fam_det.data import build_train_loader, register_coco_datasets
from fam_det.data.coco import check_registered
from fam_det.data.dataset import NamingMapper
from fam_det.data.loader import RestartingLoader
from fam_det.files.config_file import merge_config
from fam_det.training.coco_evaluation import FastCOCOEvaluator
from fam_det.training.filter_images import FilterPictures
from fam_det.training.trainer import ResumableTrainer

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.engine import HookBase
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)


class Trainer(ResumableTrainer):
    """Detectron2's default trainer with the evaluators of its own ``tools/train_net.py``."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """The evaluator of a data set, by its ``evaluator_type``."""
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Batches without end of the images of ``DATASETS.TRAIN``."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> RestartingLoader:
        """The images of a data set in order; one that cannot be read is an error that names it."""
        mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return RestartingLoader(loader, cfg.DATALOADER.TIMEOUT)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, and pictures of the filters every ``VIS_PERIOD`` iterations."""
        period, distiller = self.cfg.VIS_PERIOD, getattr(unwrapped(self.model), "distiller", None)
        all_hooks: list[HookBase | None] = super().build_hooks()
        if period > 0 and distiller is not None:
            all_hooks.insert(0, FilterPictures(distiller, period))  # before the writers
        return all_hooks


def unwrapped(model: Any) -> Any:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluator of a data set, by its ``evaluator_type``.

    Raises:
        ValueError: a type that Detectron2 has no evaluator for.
    """
    folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
    builders: dict[str, list[Any]] = {
        "coco": [FastCOCOEvaluator],
        "lvis": [LVISEvaluator],
        "sem_seg": [SemSegEvaluator],
        "coco_panoptic_seg": [SemSegEvaluator, FastCOCOEvaluator, COCOPanopticEvaluator],
    }
    own_folder = {
        "cityscapes_instance": CityscapesInstanceEvaluator,
        "cityscapes_sem_seg": CityscapesSemSegEvaluator,
        "pascal_voc": PascalVOCDetectionEvaluator,
    }
    kind = MetadataCatalog.get(dataset_name).evaluator_type
    if kind in own_folder:
        return own_folder[kind](dataset_name)
    if kind not in builders:
        raise ValueError(
            f"DATASETS.TEST: {dataset_name} has evaluator type {kind!r}, "
            f"expected one of {[*builders, *own_folder]}"
        )
    evaluators = [builder(dataset_name, output_dir=folder) for builder in builders[kind]]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def load_config(config_file: str, opts: list[str], *, allow_unsafe: bool = False) -> CfgNode:
    """A frozen config of a file and KEY VALUE pairs, its own data sets registered.

    Raises:
        ValueError: a file that is wrong or would run code, a device that is not there or cannot do
            what it should, or a data set that is not as its entry says.
    """
    cfg = get_cfg()
    add_distillation_config(cfg)
    merge_config(cfg, config_file, opts, allow_unsafe=allow_unsafe)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE: got {cfg.MODEL.DEVICE!r}, but PyTorch sees no GPU; "
            "to run on the CPU add: MODEL.DEVICE cpu"
        )
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        raise ValueError(
            "SOLVER.AMP.ENABLED: got True on the CPU, but Detectron2 trains in mixed precision on "
            "GPUs only; add: SOLVER.AMP.ENABLED False"
        )
    register_coco_datasets(cfg)
    check_registered(cfg)
    cfg.freeze()
    return cfg
