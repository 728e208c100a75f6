"""The README and docs/ say what is there: links, configs, Python blocks, config keys."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fam_det.analysis.study import load_study
from fam_det.config import add_distillation_config
from tests.core.core_reference import prefixed, random_released_block

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


def test_every_page_is_linked_from_the_readme() -> None:
    readme = Path("README.md").read_text()
    assert [str(page) for page in PAGES if page.parent.name and f"]({page})" not in readme] == []


def test_python_of_the_page_on_the_method_loads_released_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks(Path("docs/method.md"), "python")
    channels, sizes, state = [16, 32, 64, 64], [32, 16, 8, 1], {}
    for i in reversed(range(4)):
        c, residual = channels[i], [*channels[1:], 1][i]
        block = random_released_block(c, residual, c, c, sizes[i], fuse=i < 3)
        state |= prefixed(f"atfs.{3 - i}.", block)
    torch.save({"model": state}, tmp_path / "latest")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "method.md", "exec"), names)
    assert all(torch.isfinite(x).all() for x in names["review"].state_dict().values())


def test_yaml_of_the_page_on_studies_is_a_study(tmp_path: Path) -> None:
    (text,) = blocks(Path("docs/studies.md"), "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    study = load_study(tmp_path / "mine.yaml")
    assert [*study.runs] == ["teacher", "student alone", "ReviewKD"]
