"""Training and evaluation of a LazyConfig, as Detectron2's ``tools/lazyconfig_train_net.py``."""

import argparse
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.data import register_coco_datasets
from fam_det.data.loader import RestartingLoader
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling.lazy import default_config, plain
from fam_det.modeling.lazy_detector import read_config
from fam_det.modeling.student_wrapper import parts_of_student
from fam_det.training.checkpoints import BoundedCheckpointer
from fam_det.training.evaluation import Evaluation
from fam_det.training.launch import set_up
from fam_det.training.loss_normalizer import LossNormalizers
from fam_det.training.metrics_hooks import ShortHistory, Writing
from fam_det.training.non_finite import AMPStepTrainer, StepTrainer
from fam_det.training.reproducibility import RunSeed, SeedEachIteration, make_deterministic
from fam_det.training.signals import StopOnSignal
from fam_det.training.sync_buffers import SameBuffers
from fam_det.training.trainer import ON_CPU

from detectron2.config import instantiate
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm

# Loaders of Detectron2, as a config may name them, and those here with the same arguments.
OURS = {
    build_detection_train_loader: "fam_det.data.loader.build_resumable_loader",
    "detectron2.data.build.build_detection_train_loader": (
        "fam_det.data.loader.build_resumable_loader"
    ),
    build_detection_test_loader: "fam_det.data.loader.build_test_loader",
    "detectron2.data.build.build_detection_test_loader": "fam_det.data.loader.build_test_loader",
}
TIMEOUT = 600.0  # seconds after which a worker of an evaluation counts as stuck
NODES = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(config_file: str, overrides: list[str]) -> DictConfig:
    """A LazyConfig of a file and "path.key=value" overrides, its own data sets registered.

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
    _check_device(cfg.train)
    yacs = default_config()
    yacs.DATASETS.COCO = plain(OmegaConf.select(cfg, "datasets.coco")) or []
    for key in ("strict", "follow_links"):
        yacs.DATASETS[key.upper()] = bool(OmegaConf.select(cfg, f"datasets.{key}"))
    register_coco_datasets(yacs)
    return cfg


def _check_device(train: DictConfig) -> None:
    if str(train.device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"train.device: got {train.device!r}, but PyTorch sees no GPU; "
            "to run on the CPU add: train.device=cpu"
        )
    if train.device == "cpu" and train.amp.enabled:
        raise ValueError(
            "train.amp.enabled: got True on the CPU, but Detectron2 trains in mixed precision on "
            "GPUs only; add: train.amp.enabled=false"
        )


def run(cfg: DictConfig, args: argparse.Namespace) -> dict[str, Any]:
    """What each process of the run does; gives the last results of the evaluation."""
    set_up(cfg, args, cfg.train.output_dir)
    model = instantiate(cfg.model).to(cfg.train.device)
    if args.eval_only:
        needed = parts_of_student(model)
        checkpointer = SafeCheckpointer(model, cfg.train.output_dir, needed=needed)
        checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
        return evaluate(cfg, model)
    return train(cfg, model, args.resume)


def train(cfg: DictConfig, model: Any, resume: bool) -> dict[str, Any]:
    """Train a model, or go on from the last checkpoint of the run."""
    if cfg.train.get("deterministic", False):
        make_deterministic(cfg.train.get("seed", -1))
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    strict = bool(OmegaConf.select(cfg, "datasets.strict"))
    loader = build_loader(cfg.dataloader.train, **({"max_unreadable": 0} if strict else {}))
    on_cpu = ON_CPU if cfg.train.device == "cpu" else {}
    model = create_ddp_model(model, **{**cfg.train.ddp, **on_cpu})
    step = AMPStepTrainer if cfg.train.amp.enabled else StepTrainer
    trainer = step(model, loader, optimizer)
    trainer.folder = cfg.train.output_dir
    trainer.max_non_finite = cfg.train.get("max_non_finite", 10)
    run_seed = RunSeed(loader, comm.shared_random_seed())
    checkpointer = SafeCheckpointer(model, cfg.train.output_dir, trainer=trainer, run_seed=run_seed)
    results: dict[str, Any] = {}
    trainer.register_hooks(build_hooks(cfg, model, checkpointer, results))
    trainer.register_hooks([SeedEachIteration(run_seed)])
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    going_on = resume and checkpointer.has_checkpoint()
    loader.start_iter = trainer.iter + 1 if going_on else 0
    trainer.train(loader.start_iter, cfg.train.max_iter)
    return results


def build_loader(node: DictConfig, **options: Any) -> Any:
    """A loader; for Detectron2's own functions ours, with the same arguments and these options."""
    if node.get("_target_") not in OURS:
        return instantiate(node)
    node = node.copy()
    node["_target_"] = OURS[node["_target_"]]
    node.update(options)
    return instantiate(node)


def build_hooks(
    cfg: DictConfig, model: Any, checkpointer: SafeCheckpointer, results: dict[str, Any]
) -> list[Any]:
    """Those of Detectron2's script; the evaluation leaves what it found in ``results``."""

    def evaluated() -> dict[str, Any]:
        results.update(evaluate(cfg, model))
        return results

    writes = comm.is_main_process()
    folder, max_iter, period = cfg.train.output_dir, cfg.train.max_iter, cfg.train.eval_period
    kept = cfg.train.checkpointer
    return [
        ShortHistory(),
        LossNormalizers(model),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        BoundedCheckpointer(checkpointer, kept.period, kept.get("max_to_keep") or 0)
        if writes
        else None,
        StopOnSignal(checkpointer),
        SameBuffers(period),
        Evaluation(period, evaluated, folder),
        Writing(default_writers(folder, max_iter), folder, cfg.train.log_period)
        if writes
        else None,
    ]


def evaluate(cfg: DictConfig, model: Any) -> dict[str, Any]:
    """Results of ``dataloader.evaluator`` on ``dataloader.test``; none without an evaluator."""
    if "evaluator" not in cfg.dataloader:
        return {}
    loader, evaluator = build_loader(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    if isinstance(loader, DataLoader):
        loader = RestartingLoader(loader, TIMEOUT)
    results: dict[str, Any] = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results or {}
