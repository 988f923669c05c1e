from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, lock_folder, read_json, write_json
from pipeline.contract.identity import check_fingerprint, fingerprint
from pipeline.contract.sizes import format_size, parse_size


@pytest.mark.parametrize(("text", "number"), [("50k", 50_000), ("2K", 2_000), ("1.5k", 1_500), ("7", 7), (200, 200)])
def test_sizes(text: str | int, number: int) -> None:
    assert parse_size(text) == number
    assert parse_size(format_size(number)) == number


@pytest.mark.parametrize("text", ["", "k", "-3", "0", "1.5", "many", "5kk"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(CnlabError, match="is not a positive number"):
        parse_size(text)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "header.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_and_damaged_headers(tmp_path: Path) -> None:
    header = tmp_path / "dataset.json"
    assert not check_fingerprint(header, "x")
    write_json(header, {"fingerprint": "x"})
    assert check_fingerprint(header, "x")
    with pytest.raises(CnlabError, match="another configuration"):
        check_fingerprint(header, "y")
    header.write_text("{")
    with pytest.raises(CnlabError, match="not valid JSON"):
        check_fingerprint(header, "x")


def test_second_process_is_refused(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.contract.files import lock_folder\n"
        f"with lock_folder(Path({str(tmp_path)!r})): pass"
    )
    with lock_folder(tmp_path):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "in use by another process" in found.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_fingerprint_ignores_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
