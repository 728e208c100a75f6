"""Commands of the README and docs/ are understood by their tools, down to every config key."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from classification.config import get_cfg as get_classification_cfg
from fam_det.config import default_config

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").rglob("*.md"))]
FENCES = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
KEY = re.compile(r"\b(?:MODEL|SOLVER|DATASETS|DATALOADER|INPUT|TEST)(?:\.[A-Z][A-Z0-9_]*)+\b")


def detection_cfg() -> CfgNode:
    cfg = default_config()
    return cfg


CONFIGS = {"train_net": detection_cfg, "train_classifier": get_classification_cfg}


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Page, tool and arguments of each call of a tool in a block of code."""
    for page in PAGES:
        for language, block in FENCES.findall(page.read_text()):
            if language not in ("", "bash"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                called = re.search(r"\btools/(\w+)\.py (.*)", line)
                if called and "..." not in line and "$" not in line:
                    yield str(page), called[1], shlex.split(called[2], comments=True)


COMMANDS = list(commands())


def test_the_commands_are_found() -> None:
    assert {tool for _, tool, _ in COMMANDS} >= {
        *("train_net", "train_classifier", "distill", "deploy", "visualize", "study", "report")
    }


@pytest.mark.parametrize(
    ("page", "tool", "args"),
    [pytest.param(*c, id=f"{c[0]}, {c[1]} {i}") for i, c in enumerate(COMMANDS)],
)
def test_a_tool_understands_the_command(
    page: str, tool: str, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if tool not in CONFIGS:
        monkeypatch.setattr("sys.argv", [f"tools/{tool}.py", *args])
        runpy.run_path(f"tools/{tool}.py")["parse_arguments"]()
        return
    parsed = default_argument_parser().parse_args(args)
    if not parsed.config_file.endswith(".py"):
        cfg = CONFIGS[tool]()
        if not parsed.config_file.startswith("output/"):
            cfg.merge_from_file(parsed.config_file)
        cfg.merge_from_list(parsed.opts)


def test_data_of_ones_own_need_no_python() -> None:
    (args,) = [
        a
        for page, _, a in COMMANDS
        if page == "docs/your_data.md" and "DATASETS.COCO" in a and "MODEL.TEACHER.CONFIG" in a
    ]
    cfg = detection_cfg()
    cfg.merge_from_list(args[2:])
    assert cfg.DATASETS.TRAIN == ("cells_train",)
    assert [entry[0] for entry in cfg.DATASETS.COCO] == ["cells_train", "cells_val"]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_config_keys_exist(page: Path) -> None:
    configs = [build() for build in CONFIGS.values()]
    named = set(KEY.findall(page.read_text()))
    assert [key for key in sorted(named) if not any(has(cfg, key) for cfg in configs)] == []


def has(cfg: CfgNode, key: str) -> bool:
    """Whether a config has a key or a node of that name."""
    for name in key.split("."):
        if not isinstance(cfg, CfgNode) or name not in cfg:
            return False
        cfg = cfg[name]
    return True
