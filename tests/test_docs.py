"""The README and docs/ say what is there: links, configs, Python blocks, config keys."""

import re
from pathlib import Path

import pytest
import yaml

from fam_det.config import add_distillation_config

from detectron2.config import CfgNode, get_cfg

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [x for x in links if not x.startswith("http") and not (page.parent / x).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_name_files_that_exist(page: Path) -> None:
    named = re.findall(
        r"\b(?:configs|tools|docs|tests|fam_det|classification)/[\w/.-]+\.\w+", page.read_text()
    )
    assert [name for name in named if not Path(name).exists()] == []


def test_readme_is_short() -> None:
    assert len(Path("README.md").read_text().splitlines()) < 150


def test_python_of_the_readme_runs() -> None:
    (code,) = blocks(Path("README.md"), "python")
    exec(compile(code, "README.md", "exec"), {})


def test_yaml_of_the_readme_is_a_valid_config() -> None:
    (text,) = blocks(Path("README.md"), "yaml")
    cfg = get_cfg()
    add_distillation_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(text)))
    assert cfg.MODEL.META_ARCHITECTURE == "DistilledDetector"


def test_train_net_command_for_data_of_ones_own_is_a_valid_config() -> None:
    command = next(b for b in blocks(Path("docs/your_data.md"), "") if "DATASETS.COCO" in b)
    words = re.findall(r'"[^"]*"|\S+', command.replace("\\\n", " "))
    cfg = get_cfg()
    add_distillation_config(cfg)
    cfg.merge_from_file(words[words.index("--config-file") + 1])
    opts = [word.strip('"') for word in words[words.index("--config-file") + 2 :]]
    cfg.merge_from_list(opts)
    assert cfg.DATASETS.TRAIN == ("cells_train",)
    assert [entry[0] for entry in cfg.DATASETS.COCO] == ["cells_train", "cells_val"]
