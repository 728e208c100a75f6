"""Training and evaluation of detectors, from a config in YAML or in Python (LazyConfig)."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import default_config
from fam_det.data import build_train_loader, register_coco_datasets
from fam_det.data.coco import check_registered
from fam_det.data.dataset import NamingMapper
from fam_det.data.loader import RestartingLoader, build_resumable_loader, build_test_loader
from fam_det.files.config_file import merge_config
from fam_det.modeling.lazy import plain
from fam_det.modeling.lazy_detector import read_config
from fam_det.training.best import read_patience
from fam_det.training.evaluation import build_evaluator
from fam_det.training.filter_images import FilterImages
from fam_det.training.trainer import (
    ResumableTrainer,
    TrainingOptions,
    check_device,
    ddp_options,
    unwrapped,
)

from detectron2.config import CfgNode, instantiate
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.registry import locate

NODES = ("model", "dataloader", "optimizer", "lr_multiplier", "train")  # of a LazyConfig
# Detectron2's functions, for which a LazyConfig gets ours, which take the same arguments.
LOADERS = {
    build_detection_train_loader: build_resumable_loader,
    build_detection_test_loader: build_test_loader,
}
TIMEOUT = 600.0  # seconds after which a worker of an evaluation counts as stuck


def load_config(config_file: str, opts: list[str], *, allow_unsafe: bool = False) -> CfgNode:
    """Returns a frozen config of a file and KEY VALUE pairs, its own data sets registered.

    A ValueError names what is wrong with the file, the device or a data set.
    """
    cfg = default_config()
    merge_config(cfg, config_file, opts, allow_unsafe=allow_unsafe)
    check_device(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)
    register_coco_datasets(cfg)
    cfg.freeze()
    return cfg


class Trainer(ResumableTrainer):
    """Detectron2's default trainer with the evaluators of its own ``tools/train_net.py``."""

    build_train_loader = staticmethod(build_train_loader)
    build_evaluator = staticmethod(build_evaluator)

    def __init__(self, cfg: CfgNode) -> None:
        check_registered(cfg)  # in a script of one's own nothing else does
        super().__init__(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> RestartingLoader:
        """Returns the images of a data set in order; one that cannot be read is an error."""
        mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return RestartingLoader(loader, cfg.DATALOADER.TIMEOUT)

    def build_hooks(self) -> list[HookBase | None]:
        """Adds images of the filters, and the evaluation with ``TEST.AUG`` at the end."""
        all_hooks, period = super().build_hooks(), self.cfg.VIS_PERIOD
        distiller = getattr(unwrapped(self.model), "distiller", None)
        if period > 0 and distiller is not None:
            all_hooks.insert(0, FilterImages(distiller, period))  # before the writers
        if self.cfg.TEST.AUG.ENABLED:
            test = partial(self.test_with_augmentation, self.cfg, self.model)
            all_hooks.append(hooks.EvalHook(0, test))
        return all_hooks

    @classmethod
    def main_metrics(cls, cfg: CfgNode) -> Sequence[str]:
        """Returns those of the first data set, by whose name they are known if there are more."""
        names = super().main_metrics(cfg)
        first = f"{cfg.DATASETS.TEST[0]}/" if len(cfg.DATASETS.TEST) > 1 else ""
        return [f"{first}{name}" for name in names]

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

    Besides Detectron2's nodes it may have ``datasets.coco``, ``datasets.strict``,
    ``datasets.follow_links`` and ``datasets.allow_odd_boxes``, as ``DATASETS.COCO`` and so on.
    """
    cfg = read_config(config_file, overrides, "command line")
    missing = [name for name in NODES if name not in cfg]
    if missing:
        raise ValueError(f"{missing[0]}: missing, expected the nodes {NODES}")
    keys = ("train.device", "train.amp.enabled")
    check_device(cfg.train.device, cfg.train.amp.enabled, keys, sign="=")
    yacs = default_config()
    yacs.MODEL.META_ARCHITECTURE = ""  # has no number of classes to compare
    yacs.DATASETS.COCO = plain(OmegaConf.select(cfg, "datasets.coco")) or []
    for key in ("strict", "follow_links", "allow_odd_boxes"):
        yacs.DATASETS[key.upper()] = bool(OmegaConf.select(cfg, f"datasets.{key}"))
    yacs.DATASETS.TRAIN, yacs.DATASETS.TEST = (_data_sets(cfg, x) for x in ("train", "test"))
    register_coco_datasets(yacs)
    return cfg


def _data_sets(cfg: DictConfig, loader: str) -> tuple[str, ...]:
    names = OmegaConf.select(cfg, f"dataloader.{loader}.dataset.names") or ()
    return (names,) if isinstance(names, str) else tuple(names)


class LazyTrainer(ResumableTrainer):
    """The trainer of a LazyConfig, with what Detectron2's ``lazyconfig_train_net.py`` does.

    Its checkpoints are those of that script: the optimiser is beside the hooks.
    """

    @classmethod
    def read_options(cls, cfg: DictConfig) -> TrainingOptions:
        """Returns the options in the node ``train``."""
        train = cfg.train
        return TrainingOptions(
            folder=train.output_dir,
            weights=train.init_checkpoint,
            max_iter=train.max_iter,
            mixed_precision=train.amp.enabled,
            max_non_finite=train.get("max_non_finite", 10),
            eval_period=train.eval_period,
            checkpoint_period=train.checkpointer.period,
            checkpoint_keep=train.checkpointer.get("max_to_keep") or 0,
            patience=read_patience(
                train.get("patience", 0), train.eval_period, ("train.patience", "train.eval_period")
            ),
            ddp=ddp_options(train.device, **train.ddp),
            log_period=train.log_period,
            deterministic_seed=train.get("seed", -1) if train.get("deterministic") else None,
        )

    @classmethod
    def build_model(cls, cfg: DictConfig) -> Any:
        """Builds ``model``."""
        return instantiate(cfg.model).to(cfg.train.device)

    @classmethod
    def build_optimizer(cls, cfg: DictConfig, model: Any) -> Any:
        """Builds ``optimizer``."""
        cfg.optimizer.params.model = model
        return instantiate(cfg.optimizer)

    @classmethod
    def build_lr_scheduler(cls, cfg: DictConfig, optimizer: Any) -> Any:
        """Builds ``lr_multiplier``."""
        return instantiate(cfg.lr_multiplier)

    @classmethod
    def build_train_loader(cls, cfg: DictConfig) -> Any:
        """Builds ``dataloader.train``."""
        options: dict[str, Any] = (
            {"max_unreadable": 0} if OmegaConf.select(cfg, "datasets.strict") else {}
        )
        if scale := OmegaConf.select(cfg, "model.teacher.input_scale"):
            options["input_scale"] = scale
        return build_loader(cfg.dataloader.train, **options)

    def hooks_before_checkpoint(self) -> list[HookBase]:
        """Returns none, as Detectron2's script."""
        return []

    @classmethod
    def test(cls, cfg: DictConfig, model: Any, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates ``dataloader.test`` with ``dataloader.evaluator``; nothing without one."""
        if "evaluator" not in cfg.dataloader:
            return {}
        loader, evaluator = build_loader(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
        if isinstance(loader, DataLoader):
            loader = RestartingLoader(loader, TIMEOUT)
        results: dict[str, Any] = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            print_csv_format(results)
        return results or {}

    evaluate = test

    def state_dict(self) -> dict[str, Any]:
        """Returns the state with the inner trainer's beside the hooks."""
        state = super().state_dict()
        return state.pop("_trainer") | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a checkpoint's state."""
        inner = {key: value for key, value in state_dict.items() if key != "hooks"}
        super().load_state_dict({**state_dict, "_trainer": inner})


def build_loader(node: DictConfig, **options: Any) -> Any:
    """Returns a loader; for Detectron2's functions ours, with the same arguments and options."""
    target = node.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    if target not in LOADERS:
        return instantiate(node)
    arguments: dict[Any, Any] = {**node, **options, "_target_": LOADERS[target]}
    return instantiate(arguments)
