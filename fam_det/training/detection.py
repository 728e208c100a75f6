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
from fam_det.config import default_config
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

IN_PYTHON = {
    "TRAIN": "dataloader.train.dataset.names",
    "TEST": "dataloader.test.dataset.names",
    "COCO": "datasets.coco",
}
NODES = ("model", "dataloader", "optimizer", "lr_multiplier", "train")  # of a LazyConfig
# What a LazyConfig names of Detectron2's, and gets ours for, which takes the same arguments.
OURS = {
    COCOEvaluator: FastCOCOEvaluator,
    build_detection_train_loader: build_resumable_loader,
    build_detection_test_loader: build_test_loader,
}
DEFAULT_WORKERS = default_config().DATALOADER.NUM_WORKERS
# Nodes of the keys of a backbone, by a part of MODEL.BACKBONE.NAME.
BACKBONES = {"resnet": "RESNETS", "mobilenet_v2": "MOBILENETV2", "timm": "TIMM"}
TIMEOUT = 600.0  # seconds after which a worker of an evaluation counts as stuck


def load_config(
    config_file: str, opts: list[str], *, allow_unsafe: bool = False, eval_only: bool = False
) -> CfgNode:
    """Returns a frozen config of a file and KEY VALUE pairs, its own data sets registered.

    A ValueError names what is wrong with the file, the device or a data set. With ``eval_only``
    the data to train on need not be there.
    """
    cfg = default_config()
    merge_config(cfg, config_file, opts, allow_unsafe=allow_unsafe)
    for node in (cfg.MODEL, cfg.MODEL.TEACHER):
        node.WEIGHTS = "" if node.WEIGHTS in (None, "none") else node.WEIGHTS  # null in a file
    if cfg.DATALOADER.NUM_WORKERS == DEFAULT_WORKERS:  # more than cores only slow each other down
        cfg.DATALOADER.NUM_WORKERS = min(DEFAULT_WORKERS, available_cores())
    check_device(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)
    register_coco_datasets(cfg, tested=cfg.DATASETS.TEST if eval_only else None)
    _check_augmentation(cfg)
    cfg.freeze()
    return cfg


def _check_augmentation(cfg: CfgNode) -> None:
    is_distilled = cfg.MODEL.META_ARCHITECTURE == "DistilledDetector"
    name = (cfg.MODEL.STUDENT if is_distilled else cfg.MODEL).META_ARCHITECTURE
    kind = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    is_rcnn = isinstance(kind, type) and issubclass(kind, GeneralizedRCNN)
    unfit = not is_rcnn or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS
    if cfg.TEST.AUG.ENABLED and unfit:
        raise ValueError(
            "TEST.AUG.ENABLED: got True, but Detectron2 augments test images for R-CNNs alone, "
            f"without keypoints or files of proposals; this is a {name}: set it to False"
        )


def warn_of_frozen_noise(cfg: CfgNode) -> None:
    """Warns of keys that treat the random weights of a backbone as pretrained ones."""
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
        check_registered(cfg)  # in a script of one's own nothing else does
        super().__init__(cfg)

    @classmethod
    def prepare(cls, cfg: CfgNode, args: argparse.Namespace) -> Callable[[], Any]:
        """Also checks data sets and their evaluators, which a training needs at its end only."""
        needed = "TEST" if args.eval_only else "TRAIN"
        if not cfg.DATASETS[needed]:
            raise ValueError(f"DATASETS.{needed}: got none, expected a name or more")
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
        """Builds the detector without its teacher, whose config need not be there."""
        if cfg.MODEL.META_ARCHITECTURE != "DistilledDetector":
            return cls.build_model(cfg)
        return build_student(cfg).to(cfg.MODEL.DEVICE)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> RestartingLoader:
        """Returns the images of a data set in order; one that cannot be read is an error."""
        use_coco_datasets(cfg)
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


def load_lazy_config(
    config_file: str, overrides: list[str], *, eval_only: bool = False
) -> DictConfig:
    """Returns a LazyConfig of a file and "path.key=value" overrides, its data sets registered.

    With ``eval_only`` only those of ``dataloader.test`` need be there.

    Besides Detectron2's nodes it may have ``datasets.coco``, ``datasets.strict``,
    ``datasets.follow_links`` and ``datasets.allow_odd_boxes``, as ``DATASETS.COCO`` and so on.
    """
    cfg = read_config(config_file, overrides, "command line")
    missing = [name for name in NODES if name not in cfg]
    if missing:
        raise ValueError(f"{missing[0]}: missing, expected the nodes {NODES}")
    keys = ("train.device", "train.amp.enabled")
    check_device(cfg.train.device, cfg.train.amp.enabled, keys, sign="=")
    yacs = lazy_datasets(cfg)
    register_coco_datasets(yacs, tested=yacs.DATASETS.TEST if eval_only else None)
    check_known(yacs, eval_only=eval_only, where=IN_PYTHON)
    if "evaluator" in cfg.dataloader:
        load_test_sets(yacs, IN_PYTHON)
    return cfg


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
        model: Any = instantiate(cfg.model)
        if isinstance(model, DistilledDetector):
            config, opts = (cfg.model.teacher.get(key) for key in ("config", "opts"))
            others = teacher_categories(config, opts or ()) if config else []
            model.check_classes(find_categories(lazy_datasets(cfg)), others)
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
        return build_ours(cfg.dataloader.train, **options)

    def hooks_before_checkpoint(self) -> list[HookBase]:
        """Returns none, as Detectron2's script."""
        return []

    @classmethod
    def test(cls, cfg: DictConfig, model: Any, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates ``dataloader.test`` with ``dataloader.evaluator``; nothing without one."""
        if "evaluator" not in cfg.dataloader:
            return {}
        use_coco_datasets(lazy_datasets(cfg))
        loader, evaluator = build_ours(cfg.dataloader.test), build_ours(cfg.dataloader.evaluator)
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


def build_ours(node: Any, **options: Any) -> Any:
    """Instantiates a node or a list of them; for what ``OURS`` names ours, with more options."""
    if isinstance(node, ListConfig):
        return [build_ours(x, **options) for x in node]
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    target = locate(target) if isinstance(target, str) else target
    if target not in OURS:
        return instantiate(node)
    arguments: dict[Any, Any] = {**node, **options, "_target_": OURS[target]}
    return instantiate(arguments)
