"""The README and docs/ say what is there: links, configs, Python blocks, config keys."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fam_det.analysis.study import load_study
from fam_det.config import default_config
from tests.core.core_reference import prefixed, random_released_block

from detectron2.config import CfgNode

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Returns the targets of a page's links within the repository."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    return [target for target in targets if not target.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_name_files_that_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"\b(?:configs|tools|docs|tests|fam_det|classification)/[\w/.-]+\.\w+", text)
    assert [name for name in named if not Path(name).exists()] == []
    modules = re.findall(r"python -m ((?:fam_det|classification|tools)[\w.]*)", text)
    assert [name for name in modules if find_spec(name) is None] == []


def test_readme_fits_a_screen_or_two() -> None:
    lines = Path("README.md").read_text().splitlines()
    assert len(lines) <= 100
    assert [line for line in lines if len(line) > 110] == []


def test_contributing_is_short() -> None:
    assert len(Path("CONTRIBUTING.md").read_text().splitlines()) < 60


def test_docs_are_short() -> None:
    """Together; what belongs to one study stands beside its results, in docs/studies."""
    assert sum(len(page.read_text().split()) for page in Path("docs").glob("*.md")) <= 10_000


def test_yaml_of_the_readme_is_a_valid_config() -> None:
    (text,) = blocks(Path("README.md"), "yaml")
    cfg = default_config()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(text)))
    assert cfg.MODEL.META_ARCHITECTURE == "DistilledDetector"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [Path("README.md")]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            waiting += [(page.parent / x).resolve().relative_to(Path.cwd()) for x in links(page)]
    assert [page for page in PAGES if page not in reached] == []


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
