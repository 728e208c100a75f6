"""The help of every tool."""

import pytest

from tests.tools.in_process import ROOT, run_tool

TOOLS = sorted(file.stem for file in (ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_one_screen_with_an_example(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run_tool(tool, "--help")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert [line for line in lines if len(line) > 100] == []
    assert any("example" in line for line in lines)
