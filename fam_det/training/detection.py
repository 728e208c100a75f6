"""Training and evaluation of detectors, from a config in YAML or in Python (LazyConfig)."""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import add_distillation_config
from fam_det.data import build_train_loader, register_coco_datasets
from fam_det.data.coco import check_registered
from fam_det.data.dataset import NamingMapper
from fam_det.data.loader import RestartingLoader
from fam_det.files.config_file import merge_config
from fam_det.modeling.lazy import default_config, plain
from fam_det.modeling.lazy_detector import read_config
from fam_det.training.evaluation import build_evaluator
from fam_det.training.filter_images import FilterImages
from fam_det.training.reproducibility import make_deterministic
from fam_det.training.trainer import (
    ResumableTrainer,
    TrainingOptions,
    build_hooks,
    build_trainer,
    check_device,
    load_model,
    resume_or_load,
    unwrapped,
    wrap_in_ddp,
)

from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import HookBase, default_writers, hooks
from detectron2.evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm

NODES = ("model", "dataloader", "optimizer", "lr_multiplier", "train")  # of a LazyConfig
# Loaders of Detectron2, as a LazyConfig may name them, and ours with the same arguments.
TRAIN_LOADER = "fam_det.data.loader.build_resumable_loader"
TEST_LOADER = "fam_det.data.loader.build_test_loader"
LOADERS = {
    build_detection_train_loader: TRAIN_LOADER,
    "detectron2.data.build.build_detection_train_loader": TRAIN_LOADER,
    build_detection_test_loader: TEST_LOADER,
    "detectron2.data.build.build_detection_test_loader": TEST_LOADER,
}
TIMEOUT = 600.0  # seconds after which a worker of an evaluation counts as stuck


def load_config(config_file: str, opts: list[str], *, allow_unsafe: bool = False) -> CfgNode:
    """Returns a frozen config of a file and KEY VALUE pairs, its own data sets registered.

    Raises:
        ValueError: a file that is wrong or would run code, a device that is not there or cannot do
            what it should, or a data set that is not as its entry says.
    """
    cfg = get_cfg()
    add_distillation_config(cfg)
    merge_config(cfg, config_file, opts, allow_unsafe=allow_unsafe)
    keys = ("MODEL.DEVICE", "SOLVER.AMP.ENABLED")
    check_device(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED, keys)
    register_coco_datasets(cfg)
    check_registered(cfg)
    cfg.freeze()
    return cfg


class Trainer(ResumableTrainer):
    """Detectron2's default trainer with the evaluators of its own ``tools/train_net.py``."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Returns the evaluator of a data set, by its ``evaluator_type``."""
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Returns batches without end of the images of ``DATASETS.TRAIN``."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> RestartingLoader:
        """Returns the images of a data set in order; one that cannot be read is an error."""
        mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return RestartingLoader(loader, cfg.DATALOADER.TIMEOUT)

    def build_hooks(self) -> list[HookBase | None]:
        """Adds images of the filters, and the evaluation with ``TEST.AUG`` at the end."""
        period, distiller = self.cfg.VIS_PERIOD, getattr(unwrapped(self.model), "distiller", None)
        all_hooks = super().build_hooks()
        if period > 0 and distiller is not None:
            all_hooks.insert(0, FilterImages(distiller, period))  # before the writers
        if self.cfg.TEST.AUG.ENABLED:
            test = partial(self.test_with_augmentation, self.cfg, self.model)
            all_hooks.append(hooks.EvalHook(0, test))
        return all_hooks

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: Any) -> dict[str, Any]:
        """Evaluates with test-time augmentation, which Detectron2 has for R-CNN models."""
        model = GeneralizedRCNNWithTTA(cfg, getattr(unwrapped(model), "student", model))
        folder = str(Path(cfg.OUTPUT_DIR) / "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, model, evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())

    @classmethod
    def evaluate(cls, cfg: CfgNode, model: Any) -> dict[str, Any]:
        """Evaluates a model on ``DATASETS.TEST``, with ``TEST.AUG`` as well if that is on."""
        results: dict[str, Any] = cls.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(cls.test_with_augmentation(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results


def load_lazy_config(config_file: str, overrides: list[str]) -> DictConfig:
    """Returns a LazyConfig of a file and "path.key=value" overrides, its data sets registered.

    Besides Detectron2's nodes it may have ``datasets.coco``, ``datasets.strict`` and
    ``datasets.follow_links``, as ``DATASETS.COCO`` and so on.

    Raises:
        ValueError: a node that is missing, a device that is not there or cannot do what it should,
            or a data set that is not as its entry says.
    """
    cfg = read_config(config_file, overrides, "command line")
    missing = [name for name in NODES if name not in cfg]
    if missing:
        raise ValueError(f"{missing[0]}: missing, expected the nodes {NODES}")
    keys = ("train.device", "train.amp.enabled")
    check_device(str(cfg.train.device), cfg.train.amp.enabled, keys, assign="=")
    yacs = default_config()
    yacs.DATASETS.COCO = plain(OmegaConf.select(cfg, "datasets.coco")) or []
    for key in ("strict", "follow_links"):
        yacs.DATASETS[key.upper()] = bool(OmegaConf.select(cfg, f"datasets.{key}"))
    register_coco_datasets(yacs)
    return cfg


def prepare_lazy(cfg: DictConfig, args: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Returns a LazyConfig's training or, with ``--eval-only``, evaluation, its weights loaded."""
    if cfg.train.get("deterministic", False) and not args.eval_only:
        make_deterministic(cfg.train.get("seed", -1))
    model = instantiate(cfg.model).to(cfg.train.device)
    if not args.eval_only:
        return prepare_lazy_training(cfg, model, args.resume)
    load_model(model, cfg.train.output_dir, cfg.train.init_checkpoint, resume=args.resume)
    return partial(evaluate_lazy, cfg, model)


def prepare_lazy_training(
    cfg: DictConfig, model: Any, resume: bool
) -> Callable[[], dict[str, Any]]:
    """Returns a function that trains a model and gives the last results of its evaluation."""
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    strict = bool(OmegaConf.select(cfg, "datasets.strict"))
    loader = build_lazy_loader(cfg.dataloader.train, **({"max_unreadable": 0} if strict else {}))
    model = wrap_in_ddp(model, cfg.train.device, **cfg.train.ddp)
    options = TrainingOptions(
        folder=cfg.train.output_dir,
        max_iter=cfg.train.max_iter,
        mixed_precision=cfg.train.amp.enabled,
        max_non_finite=cfg.train.get("max_non_finite", 10),
        eval_period=cfg.train.eval_period,
        checkpoint_period=cfg.train.checkpointer.period,
        checkpoint_keep=cfg.train.checkpointer.get("max_to_keep") or 0,
        log_period=cfg.train.log_period,
    )
    trainer, checkpointer = build_trainer(options, model, optimizer, loader)
    results: dict[str, Any] = {}

    def evaluate() -> dict[str, Any]:
        results.update(evaluate_lazy(cfg, model))
        return results

    writers = default_writers(options.folder, options.max_iter) if comm.is_main_process() else []
    scheduler = instantiate(cfg.lr_multiplier)
    trainer.register_hooks(build_hooks(options, checkpointer, scheduler, evaluate, writers))
    start = resume_or_load(trainer, checkpointer, cfg.train.init_checkpoint, resume)

    def train() -> dict[str, Any]:
        trainer.train(start, options.max_iter)
        return results

    return train


def build_lazy_loader(node: DictConfig, **options: Any) -> Any:
    """Returns a loader; for Detectron2's functions ours, with the same arguments and options."""
    if node.get("_target_") not in LOADERS:
        return instantiate(node)
    node = node.copy()
    node["_target_"] = LOADERS[node["_target_"]]
    node.update(options)
    return instantiate(node)


def evaluate_lazy(cfg: DictConfig, model: Any) -> dict[str, Any]:
    """Returns the results of ``dataloader.evaluator`` on ``dataloader.test``; without one none."""
    if "evaluator" not in cfg.dataloader:
        return {}
    loader = build_lazy_loader(cfg.dataloader.test)
    if isinstance(loader, DataLoader):
        loader = RestartingLoader(loader, TIMEOUT)
    results: dict[str, Any] = inference_on_dataset(
        model, loader, instantiate(cfg.dataloader.evaluator)
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results or {}
