from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.contract.errors import CnlabError
from trainer.schedule import learning_rate
from trainer.state.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    save_tensors,
)


def put(root: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(
        root, step, lambda p: save_tensors({"w": torch.full((2,), step)}, p / "w.safetensors"), {}, keep
    )


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        put(tmp_path, step)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-0000002", "step-0000010"]
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert read_state(found)["step"] == 10


def test_a_save_that_dies_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    put(tmp_path, 1)

    def dies(place: Path) -> None:
        (place / "w.safetensors").write_bytes(b"half")
        raise OSError(28, "disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, dies, {})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "step-0000001"
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = put(tmp_path, 1) / "w.safetensors"
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(CnlabError, match=r"w\.safetensors is damaged"):
        load_tensors(path)


def test_optimizer_state_survives_bit_equal(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = build()
    step(model, optimizer)
    save_tensors(optimizer_tensors(optimizer), tmp_path / "o.safetensors")
    copy, other = build()
    copy.load_state_dict(model.state_dict())
    load_optimizer(other, load_tensors(tmp_path / "o.safetensors"))
    step(model, optimizer)
    step(copy, other)
    assert torch.equal(model.weight, copy.weight)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names parameter 1"):
        load_optimizer(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]), load_tensors(tmp_path / "o.safetensors"))


def test_learning_rate() -> None:
    assert [learning_rate(s, 1.0, 4, 10) for s in (0, 3, 4, 9)] == [0.25, 1.0, 1.0, 1.0]
    cosine = [learning_rate(s, 1.0, 2, 12, "cosine") for s in range(13)]
    assert cosine[2] == 1.0
    assert cosine[7] == pytest.approx(0.525)
    assert cosine[12] == pytest.approx(0.05)
    trapezoid = [learning_rate(s, 1.0, 2, 20, "trapezoid") for s in range(21)]
    assert trapezoid[0] == 0.5
    assert trapezoid[2:17] == [1.0] * 15
    assert trapezoid[16:] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
