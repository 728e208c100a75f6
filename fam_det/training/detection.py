"""Training and evaluation of detectors, from a config in YAML or in Python (LazyConfig)."""

import argparse
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.utils.data import DataLoader

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import DISTILLED, default_config, detector_architecture
from fam_det.data import build_train_loader, register_coco_datasets
from fam_det.data.audit import warn
from fam_det.data.coco import (
    check_known,
    check_registered,
    find_categories,
    load_test_sets,
    use_coco_datasets,
)
from fam_det.data.dataset import NamingMapper
from fam_det.data.loader import (
    RestartingLoader,
    available_cores,
    build_resumable_loader,
    build_test_loader,
)
from fam_det.files.config_file import merge_config
from fam_det.files.data_file import write_data_file
from fam_det.modeling.distilled_detector import DistilledDetector, build_student
from fam_det.modeling.inherit import check_class_order
from fam_det.modeling.lazy_detector import lazy_datasets, read_config
from fam_det.modeling.teacher import teacher_categories
from fam_det.training.best import read_patience
from fam_det.training.evaluation import FastCOCOEvaluator, build_evaluator, evaluator_type
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
from detectron2.evaluation import (
    COCOEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.registry import locate

LAZY_KEYS = {
    "TRAIN": "dataloader.train.dataset.names",
    "TEST": "dataloader.test.dataset.names",
    "COCO": "datasets.coco",
}
NODES = ("model", "dataloader", "optimizer", "lr_multiplier", "train")  # of a LazyConfig
# Targets in a LazyConfig that are replaced by ours, which take the same arguments.
REPLACED = {
    COCOEvaluator: FastCOCOEvaluator,
    build_detection_train_loader: build_resumable_loader,
    build_detection_test_loader: build_test_loader,
}
DEFAULT_WORKERS = default_config().DATALOADER.NUM_WORKERS
# The config node of a backbone, by a part of MODEL.BACKBONE.NAME.
BACKBONES = {"resnet": "RESNETS", "mobilenet_v2": "MOBILENETV2", "timm": "TIMM"}
TIMEOUT = 600.0  # seconds after which an evaluation's worker counts as stuck, for a LazyConfig


def load_config(
    config_file: str, opts: list[str], *, allow_unsafe: bool = False, eval_only: bool = False
) -> CfgNode:
    """Returns a frozen config of a file and KEY VALUE pairs, and registers its data sets.

    With ``eval_only`` the training data may be missing.

    Raises:
        ValueError: an invalid file, device or data set.
    """
    cfg = default_config()
    merge_config(cfg, config_file, opts, allow_unsafe=allow_unsafe)
    for node in (cfg.MODEL, cfg.MODEL.TEACHER):
        node.WEIGHTS = "" if node.WEIGHTS in (None, "none") else node.WEIGHTS  # null in a file
    if cfg.DATALOADER.NUM_WORKERS == DEFAULT_WORKERS:  # more workers than cores are slower
        cfg.DATALOADER.NUM_WORKERS = min(DEFAULT_WORKERS, available_cores())
    check_device(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)
    register_coco_datasets(cfg, tested=cfg.DATASETS.TEST if eval_only else None)
    _check_augmentation(cfg)
    cfg.freeze()
    return cfg


def _check_augmentation(cfg: CfgNode) -> None:
    name = detector_architecture(cfg)
    meta_arch = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    is_rcnn = isinstance(meta_arch, type) and issubclass(meta_arch, GeneralizedRCNN)
    is_supported = is_rcnn and not (cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS)
    if cfg.TEST.AUG.ENABLED and not is_supported:
        raise ValueError(
            "TEST.AUG.ENABLED: got True, but Detectron2 augments test images only for R-CNNs "
            f"without keypoints or files of proposals; this is a {name}: set it to False"
        )


def warn_of_frozen_noise(cfg: CfgNode) -> None:
    """Warns of keys that freeze the random weights of a backbone."""
    name, frozen = cfg.MODEL.BACKBONE.NAME, []
    node = next((node for part, node in BACKBONES.items() if part in name), None)
    if cfg.MODEL.WEIGHTS or node is None:
        return
    if cfg.MODEL[node].NORM == "FrozenBN":
        frozen.append(f"MODEL.{node}.NORM FrozenBN does not normalise (set it to BN)")
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        at = cfg.MODEL.BACKBONE.FREEZE_AT
        frozen.append(f"MODEL.BACKBONE.FREEZE_AT {at} keeps the first stages random (set it to 0)")
    if frozen:
        warn(f"MODEL.WEIGHTS is empty and the backbone random: {'; '.join(frozen)}")


class Trainer(ResumableTrainer):
    """Detectron2's default trainer with the evaluators of its own ``tools/train_net.py``."""

    build_train_loader = staticmethod(build_train_loader)
    build_evaluator = staticmethod(build_evaluator)

    def __init__(self, cfg: CfgNode) -> None:
        check_registered(cfg)  # a user's script may not call prepare()
        super().__init__(cfg)

    @classmethod
    def prepare(cls, cfg: CfgNode, args: argparse.Namespace) -> Callable[[], Any]:
        """Also checks the data sets and evaluators first, not only when they are used."""
        required = "TEST" if args.eval_only else "TRAIN"
        if not cfg.DATASETS[required]:
            raise ValueError(f"DATASETS.{required}: got none, expected a name or more")
        check_known(cfg, eval_only=args.eval_only)
        load_test_sets(cfg)
        if not args.eval_only:
            warn_of_frozen_noise(cfg)
        for name in cfg.DATASETS.TEST:
            evaluator_type(name)
        if comm.is_main_process() and not args.eval_only:
            write_data_file(Path(cfg.OUTPUT_DIR), cfg.DATASETS.COCO)
        return super().prepare(cfg, args)

    @classmethod
    def build_tested_model(cls, cfg: CfgNode) -> Any:
        """Builds the student without its teacher, whose config may be missing."""
        if cfg.MODEL.META_ARCHITECTURE != DISTILLED:
            return cls.build_model(cfg)
        return build_student(cfg).to(cfg.MODEL.DEVICE)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> RestartingLoader:
        """Returns a loader of the images in order; an unreadable one is an error."""
        use_coco_datasets(cfg)
        mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return RestartingLoader(loader, cfg.DATALOADER.TIMEOUT)

    def build_hooks(self) -> list[HookBase | None]:
        """Adds the images of the filters, and the evaluation with ``TEST.AUG`` at the end."""
        all_hooks, period = super().build_hooks(), self.cfg.VIS_PERIOD
        distiller = getattr(unwrapped(self.model), "distiller", None)
        if period > 0 and distiller is not None:
            all_hooks.insert(0, FilterImages(distiller, period))  # before the writers
        if self.cfg.TEST.AUG.ENABLED:
            test = partial(self.test_with_augmentation, self.cfg, self.model)
            all_hooks.insert(-2, hooks.EvalHook(0, test))  # before the writers
        return all_hooks

    @classmethod
    def main_metrics(cls, cfg: CfgNode) -> Sequence[str]:
        """Returns those of the first data set; several data sets prefix their names."""
        names = super().main_metrics(cfg)
        first = f"{cfg.DATASETS.TEST[0]}/" if len(cfg.DATASETS.TEST) > 1 else ""
        return [f"{first}{name}" for name in names]

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: Any) -> dict[str, Any]:
        """Evaluates an R-CNN with Detectron2's test-time augmentation."""
        model = GeneralizedRCNNWithTTA(cfg, getattr(unwrapped(model), "student", model))
        folder = str(Path(cfg.OUTPUT_DIR) / "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, model, evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())

    @classmethod
    def evaluate(cls, cfg: CfgNode, model: Any) -> dict[str, Any]:
        """Evaluates a model on ``DATASETS.TEST``, and once more with ``TEST.AUG`` if enabled."""
        results: dict[str, Any] = cls.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(cls.test_with_augmentation(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results


def load_lazy_config(
    config_file: str, overrides: list[str], *, eval_only: bool = False
) -> DictConfig:
    """Returns a LazyConfig of a file and "path.key=value" overrides, and registers its data sets.

    With ``eval_only`` those of ``dataloader.train`` may be missing.

    Besides Detectron2's nodes it may have ``datasets.coco``, ``datasets.strict``,
    ``datasets.follow_links`` and ``datasets.allow_odd_boxes``, as the keys ``DATASETS.COCO``, ...
    """
    cfg = read_config(config_file, overrides, "command line")
    missing = [name for name in NODES if name not in cfg]
    if missing:
        raise ValueError(f"{missing[0]}: missing, expected the nodes {NODES}")
    keys = ("train.device", "train.amp.enabled")
    check_device(cfg.train.device, cfg.train.amp.enabled, keys, sign="=")
    yacs = lazy_datasets(cfg)
    register_coco_datasets(yacs, tested=yacs.DATASETS.TEST if eval_only else None)
    check_known(yacs, eval_only=eval_only, where=LAZY_KEYS)
    if "evaluator" in cfg.dataloader:
        load_test_sets(yacs, LAZY_KEYS)
    return cfg


class LazyTrainer(ResumableTrainer):
    """The trainer of a LazyConfig, as Detectron2's ``lazyconfig_train_net.py``.

    Its checkpoints have that script's layout: the optimiser is beside the hooks.
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
        model: Any = instantiate(cfg.model)
        if isinstance(model, DistilledDetector) and model.inherited and not model.classes:
            config, opts = (cfg.model.teacher.get(key) for key in ("config", "opts"))
            known = teacher_categories(config, opts or ()) if config else []
            names = find_categories(lazy_datasets(cfg))
            check_class_order(model.student, model.teacher.detector, model.inherited, names, known)
        return model.to(cfg.train.device)

    @classmethod
    def build_tested_model(cls, cfg: DictConfig) -> Any:
        """Builds ``model.student`` of a distilled detector, without its teacher."""
        is_distilled = "teacher" in cfg.model and "student" in cfg.model
        node = cfg.model.student if is_distilled else cfg.model
        return instantiate(node).to(cfg.train.device)

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
        use_coco_datasets(lazy_datasets(cfg))
        options: dict[str, Any] = (
            {"max_unreadable": 0} if OmegaConf.select(cfg, "datasets.strict") else {}
        )
        if scale := OmegaConf.select(cfg, "model.teacher.input_scale"):
            options["input_scale"] = scale
        return instantiate_ours(cfg.dataloader.train, **options)

    def hooks_before_checkpoint(self) -> list[HookBase]:
        """Returns none: Detectron2's script has no PreciseBN either."""
        return []

    @classmethod
    def test(cls, cfg: DictConfig, model: Any, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates ``dataloader.test`` with ``dataloader.evaluator``; empty without one."""
        if "evaluator" not in cfg.dataloader:
            return {}
        use_coco_datasets(lazy_datasets(cfg))
        loader, evaluator = (
            instantiate_ours(cfg.dataloader.test),
            instantiate_ours(cfg.dataloader.evaluator),
        )
        if isinstance(loader, DataLoader):
            loader = RestartingLoader(loader, TIMEOUT)
        results: dict[str, Any] = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            print_csv_format(results)
        return results or {}

    evaluate = test

    def state_dict(self) -> dict[str, Any]:
        """Returns the state with the step trainer's keys beside the hooks."""
        state = super().state_dict()
        return state.pop("_trainer") | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a checkpoint's state."""
        inner = {key: value for key, value in state_dict.items() if key != "hooks"}
        super().load_state_dict({**state_dict, "_trainer": inner})


def instantiate_ours(node: Any, **options: Any) -> Any:
    """Instantiates a node or a list of them; targets in ``REPLACED`` also get the options."""
    if isinstance(node, ListConfig):
        return [instantiate_ours(x, **options) for x in node]
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    target = locate(target) if isinstance(target, str) else target
    if target not in REPLACED:
        return instantiate(node)
    arguments: dict[Any, Any] = {**node, **options, "_target_": REPLACED[target]}
    return instantiate(arguments)
