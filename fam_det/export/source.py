"""What to deploy: the config of a run, or a config file, and a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.analysis.runs import Run, read_config
from fam_det.config import add_distillation_config
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode, get_cfg

DISTILLED = "DistilledDetector"


class Source(NamedTuple):
    """A config with this project's keys, and a checkpoint of its detector."""

    cfg: CfgNode
    weights: str


def read_source(path: Path, weights: str | None, opts: Sequence[str]) -> Source:
    """The config and the checkpoint to deploy.

    Args:
        path: output folder of a training, or a config file.
        weights: a checkpoint; None for that of the run, or ``MODEL.WEIGHTS`` of the file.
        opts: KEY VALUE pairs for the config.

    Raises:
        ValueError: no such run, config, key or checkpoint; the message names it.
    """
    file = path / "config.yaml" if path.is_dir() else path
    if path.is_dir() and "NAME" in read_config(file)["DATASETS"]:
        raise ValueError(f"{path}: the run of a classifier, expected that of a detector")
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{path}: expected the output folder of a run, or a config in YAML")
    cfg = _load(file, opts)
    if weights is None and path.is_dir():
        weights = _of_run(path)
    weights = weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError("MODEL.WEIGHTS: is empty, expected a checkpoint; add --weights FILE")
    if "://" not in weights and not Path(weights).is_file():
        raise ValueError(f"--weights: {weights} is not there, expected a checkpoint")
    return Source(cfg, weights)


def _load(file: Path, opts: Sequence[str]) -> CfgNode:
    """Reads no data set and asks for no GPU: those of the training may be elsewhere."""
    if not file.is_file():
        raise ValueError(
            f"{file}: not there, expected the output folder of a run, or a config in YAML"
        )
    cfg = get_cfg()
    add_distillation_config(cfg)
    merge_config(cfg, file, opts)
    return cfg


def _of_run(folder: Path) -> str:
    """The run's last checkpoint, or its best one where that alone is left."""
    found = find_checkpoint(Run(folder, {}, []))
    if found is None:
        raise ValueError(
            f"{folder}: has no checkpoint such as model_final.pth yet; add --weights FILE"
        )
    return str(found)
