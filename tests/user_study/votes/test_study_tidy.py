from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from user_study.config import Tidy
from user_study.votes.tidy import import_table


@pytest.mark.parametrize(
    ("mode", "lines", "expected"),
    [
        ("paired", ["r1,i1,x", "r1,i2,y", "r2,i1,x", "r2,i2,tie"], 2 / 3),
        ("ranking", ["r1,i1,x>y", "r1,i2,x > y", "r2,i1,y>x", "r2,i2,x>y"], 1.75),
        ("discrimination", ["r1,i1,1", "r1,i2,0", "r2,i1,1", "r2,i2,x"], 0.75),
    ],
)
def test_votes_made_elsewhere(tmp_path: Path, mode: Any, lines: list[str], expected: float) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["rater,item,choice", *lines]).encode())
    import_table(Tidy(path, tmp_path / "s", ("x", "y"), mode))
    assert read_json(tmp_path / "s" / "analysis.json")["numbers"][0]["value"] == pytest.approx(expected)
    assert "left chosen" not in (tmp_path / "s" / "report.html").read_text()  # a table has no sides
    import_table(Tidy(path, tmp_path / "s", ("x", "y"), mode))
    path.write_text("rater,item,choice\nr1,i1,z\n")
    with pytest.raises(CnlabError, match="line 2: 'z'"):
        import_table(Tidy(path, tmp_path / "t", ("x", "y"), mode))


@pytest.mark.parametrize(
    "table",
    [
        "sep=;\n Rater ; ITEM;Choice \n\nr1;i1;x\nr1;i2;y\n;;\nr2;i1;x\nr2;i2;x\n",
        '"choice"\t"note"\t"item"\t"rater"\nx\t"a, b"\ti1\tr1\ny\t\ti2\tr1\nx\t\ti1\tr2\nx\t\ti2\tr2\n',
        "rater|item|choice\rr1|i1|x\rr1|i2|y\rr2|i1|x\rr2|i2|x",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_tables_as_programs_write_them(tmp_path: Path, table: str, encoding: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(table.encode(encoding))
    import_table(Tidy(path, tmp_path / "s", ("x", "y")))
    assert read_json(tmp_path / "s" / "analysis.json")["numbers"][0]["value"] == 0.75
    path.write_text("rater,item\nr1,i1\n")
    with pytest.raises(CnlabError, match="no head with rater, item and choice"):
        import_table(Tidy(path, tmp_path / "t", ("x", "y")))


@pytest.mark.parametrize(
    "bad", [{"subjects": ("x",)}, {"subjects": ("x", "y", "z")}, {"subjects": ("x", "tie")}, {"margin": 0.5}]
)
def test_options_of_votes_made_elsewhere(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(CnlabError, match="--"):
        Tidy(**{"table": tmp_path / "votes.csv", "out": tmp_path / "s", "subjects": ("x", "y"), **bad})
