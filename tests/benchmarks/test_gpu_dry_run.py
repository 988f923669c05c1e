from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from diffusers import ControlNetModel
from public_script import STAND_IN
from torch import nn

from benchmarks import device, gpu, record
from benchmarks.clock import Clock, steady
from benchmarks.flops import count, denoising, known_peak, matmul_peak, sd15_unet
from benchmarks.random_models import TINY, write_triplets
from trainer.nets.control import decoder_parameters

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_a_dry_run_takes_every_path_and_records_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.md")
    # tracing takes a quarter of a minute and warns; that compiling computes the same is tested with the trainer
    compiled: list[type] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, backend: compiled.append(type(self)))
    gpu.main(script, tuple(part for part in gpu.PARTS if part != "ranks"), dry_run=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dry run of a tiny model: ")]
    assert len(compiled) == 2
    assert not (tmp_path / "results.md").exists()
    said = "\n".join(lines)
    cases = len(gpu.DRY.batches) + 4 + len(gpu.ENGINES) + 12
    assert said.count("SD 1.5 at 512 px") == cases
    assert said.count("ms a step") == 12
    assert "out of memory" not in said
    assert sum("ControlNet over" in line and "time" in line for line in lines) == 8
    assert sum("cnlab-train over" in line for line in lines) == 2
    assert sum("planned" in line and "GiB" in line for line in lines) == 3
    for what in ("encoding latents", "encoding captions", "painting 4 pictures", "saving a checkpoint of"):
        assert number(lines, what) > 0


def number(lines: list[str], what: str) -> float:
    """Of the one line that speaks of it."""
    (line,) = [line for line in lines if what in line]
    return float(line.rsplit(": ", 1)[1].split(" ")[0])


@pytest.mark.slow
def test_two_processes_are_timed_as_whole_runs(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(parts=("ranks",), dry_run=True)
    assert number(capsys.readouterr().out.splitlines(), "two processes over one") > 0


def test_nothing_is_begun_after_the_time_is_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.md")
    gpu.main(dry_run=True, minutes=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dry run")]
    assert len(lines) == len(gpu.PARTS)
    assert all("not measured: the 0 minutes are over" in line for line in lines)


def test_the_public_library_reads_the_triplets(tmp_path: Path) -> None:
    folder = write_triplets(tmp_path / "triplets", TINY, 18)
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(rows) == 18
    assert rows[17]["image"].size == rows[17]["conditioning_image"].size == (64, 64)
    assert rows[17]["text"] == rows[1]["text"] != rows[2]["text"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> gpu.Bench:
    return gpu.Bench(gpu.DRY, tmp_path_factory.mktemp("bench"), Path("train.py"), dry=True)


def test_out_of_memory_is_a_row(bench: gpu.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: gpu.Case) -> gpu.Reading:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(bench, "_train", full)
    case = gpu.Case(4)
    reading = bench.ours(case)
    assert bench.described(reading, case) == "out of memory" == gpu.over(bench, reading, {"seconds": [1.0]})
    assert gpu.largest_that_fits(bench, case)["batch"] == 1


def test_the_public_script_is_tried_at_half_the_batch(bench: gpu.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*given: Any) -> gpu.Reading:
        if given[5]["train_batch_size"] > 2:
            raise RuntimeError("train.py failed:\ntorch.OutOfMemoryError: CUDA out of memory")
        return {"seconds": [1.0]}

    monkeypatch.setattr(device, "theirs", small)
    assert bench.public(8, {}, Path(), Path()) == {"seconds": [1.0], "batch": 2}


def test_the_public_script_failing_otherwise_is_an_error(bench: gpu.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> gpu.Reading:
        raise RuntimeError("train.py failed:\nunknown option")

    monkeypatch.setattr(device, "theirs", broken)
    with pytest.raises(RuntimeError, match="unknown option"):
        bench.public(8, {}, Path(), Path())


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="--dry-run"):
        gpu.main()


@pytest.mark.parametrize(
    ("method", "gflop"), [("ControlNet", 2265), ("full fine-tune", 2407), ("decoder fine-tune", 1885)]
)
def test_operations_of_sd15(method: str, gflop: int) -> None:
    with torch.device("meta"):
        unet = sd15_unet().requires_grad_(False)
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False) if method == "ControlNet" else None
    for parameter in decoder_parameters(unet) if method == "decoder fine-tune" else unet.parameters():
        parameter.requires_grad_(method != "ControlNet")
    assert count(denoising(unet, control, 512)) / 1e9 == pytest.approx(gflop, abs=0.5)


def test_operations_of_attention_and_products() -> None:
    a, q = torch.ones(3, 4), torch.ones(1, 2, 5, 8)
    assert count(lambda: a @ a.T) == 2 * 3 * 4 * 3
    assert count(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 2 * 5 * 5 * 8)


def test_peaks() -> None:
    assert known_peak("NVIDIA H100 80GB HBM3", "bf16") == 989.5e12
    assert known_peak("NVIDIA H100 PCIe", "bf16") == 756e12
    assert math.isnan(known_peak("some CPU", "bf16"))
    assert matmul_peak(torch.device("cpu"), side=64) > 0


def test_the_clock_times_every_step_of_a_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\nw = torch.nn.Parameter(torch.ones(1))\no = torch.optim.AdamW([w], fused=True)\n"
        "for _ in range(int(sys.argv[1])):\n    w.sum().backward()\n    o.step()\nsys.exit(0)\n"
    )
    out = tmp_path / "clock.json"
    subprocess.run([sys.executable, "-m", "benchmarks.clock", str(out), str(program), "6"], check=True)
    from pipeline.contract.files import read_json

    assert len(read_json(out)["seconds"]) == 5
    assert all(second > 0 for second in read_json(out)["seconds"])


def test_the_clock_forgets_its_hook() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    step: Callable[[], object] = optimizer.step
    weight.sum().backward()
    with Clock(torch.device("cpu")) as clock:
        for _ in range(4):
            step()
    step()
    assert len(clock.marks) == 4
    assert len(steady(clock.reading())) == 2
