"""The layers, budgets and promises of the design that can be checked mechanically."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted(p for k in ("pipeline", "trainer", "evaluation", "user_study") for p in (ROOT / k).rglob("*.py"))


def test_imports_run_one_way_only() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_files_and_functions_keep_their_budget() -> None:
    over = []
    for path in PRODUCT:
        text = path.read_text()
        if text.count("\n") > 400:
            over.append(f"{path}: {text.count(chr(10))} lines")
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        over += [f"{path}:{n.name}" for n in nodes if n.end_lineno and n.end_lineno - n.lineno >= 60]
    assert not over


def test_no_pickle_is_read_or_written() -> None:
    for path in PRODUCT:
        text = path.read_text()
        assert "torch.save(" not in text, path
        assert "pickle.load" not in text, path
        assert "pickle.dump" not in text, path
        if "torch.load(" in text:
            assert text.count("torch.load(") == text.count("weights_only=True"), path


@pytest.mark.parametrize("module", ["pipeline", "trainer", "evaluation", "user_study"])
def test_help_is_quick_and_imports_no_torch(module: str) -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']\nfrom {module}.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert e.code == 0, e.code\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "usage" in found.stdout.lower()
