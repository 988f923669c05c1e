"""Curves of validation tables, their picture, and the verdict on runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from convergence_curves import STEPS, sudden
from PIL import Image
from scipy import stats

from pipeline.contract.errors import CnlabError
from trainer.convergence.curves import draw
from trainer.convergence.detect import Curve, detect, gap_curve


def table(metric: str, arms: dict[str, list[float]], half: float = 0.1, n: int = 16) -> pd.DataFrame:
    rows = [
        {"step": 100 * (i + 1), "images": 1600, "metric": metric, "arm": arm, "value": v, "ci_low": v - half, "n": n}
        | {"ci_high": v + half}
        for arm, values in arms.items()
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_gap_is_true_minus_shuffled_fidelity_with_errors_in_quadrature() -> None:
    losses = table("loss", {"true": [0.3, 0.2], "shuffled": [0.3, 0.35], "none": [0.3, 0.3]})
    fidelity = table("fidelity", {"shuffled": [0.2, 0.2, 0.1], "true": [0.2, 0.7, 0.9]})
    both = pd.concat([losses, fidelity]).sample(frac=1, random_state=1)
    curve = gap_curve(both)
    assert curve.name == "fidelity"
    np.testing.assert_array_equal(curve.steps, [100, 200, 300])
    np.testing.assert_allclose(curve.values, [0, 0.5, 0.8])
    np.testing.assert_allclose(curve.errors, np.sqrt(2) * 0.1 / stats.t.ppf(0.975, 15))


def test_without_fidelity_the_gap_is_that_of_the_loss() -> None:
    arms = {"true": [0.3, 0.2], "shuffled": [0.3, 0.35], "none": [0.3, 0.3]}
    curve = gap_curve(table("loss", arms))
    assert (curve.name, curve.errors) == ("loss_gap", None)
    np.testing.assert_allclose(curve.values, [0, 0.15])
    paired = pd.concat([table("loss", arms), table("loss", {"gap": [0.0, 0.15]}, half=0.01)])
    np.testing.assert_allclose(gap_curve(paired).errors, 0.01 / stats.t.ppf(0.975, 15))
    with pytest.raises(CnlabError, match="shuffled"):
        gap_curve(table("loss", {"true": [0.1]}))


def test_steps_that_only_one_arm_has_are_left_out_and_a_repeated_row_counts_once() -> None:
    rows = pd.concat([table("fidelity", {"true": [0.1, 0.6, 0.7], "shuffled": [0.1, 0.1]})] * 2)
    np.testing.assert_array_equal(gap_curve(rows).steps, [100, 200])


def test_the_figure_is_written_whole_with_a_mark_for_each_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    runs = {}
    for seed in (1, 2):
        steps, values, _ = sudden(rng)
        curve = Curve(steps, values, np.ones(30), "fidelity")
        runs[f"seed {seed}"] = (curve, detect(*curve[:3]))
    flat = Curve(STEPS, np.zeros(30), None, "fidelity")
    runs["flat"] = (flat, detect(*flat[:3]))
    draw(runs, tmp_path / "a.png")
    draw({"flat": runs["flat"]}, tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        pixels, few = np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(-1).sum() > 200
    assert not (few == (0xD5, 0x5E, 0x00)).all(-1).any()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]


def test_verdict_on_runs_and_their_picture(tmp_path: Path) -> None:

    from trainer.convergence.verdict import VerdictConfig, verdict
    from trainer.run_folder import COLUMNS

    rng = np.random.default_rng(0)
    for name, rise in (("learns", 0.5), ("does-not", 0.0)):
        rows = [
            (
                step,
                step,
                "fidelity",
                "gap",
                value := rise * (step > 120) + 0.01 * rng.normal(),
                value - 0.02,
                value + 0.02,
                8,
            )
            for step in range(0, 400, 20)
        ]
        (tmp_path / name).mkdir()
        pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(tmp_path / name / "validation.parquet")
    runs = (tmp_path / "learns", tmp_path / "does-not")
    lines = verdict(VerdictConfig(runs, tmp_path / "curves.png"))
    assert lines[0].startswith("learns: converged suddenly at step 13")
    assert lines[1].startswith("does-not: not converged")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 400
        alone = picture.height
    growth = 0.1 / (1 + np.exp(-(np.arange(0, 400, 20) - 130) / 5))  # 1e-12 at first: seen on a logarithmic scale alone
    losses = [(s, s, "loss", "gap", g, g, g, 8) for s, g in zip(range(0, 400, 20), growth, strict=True)]
    table = pd.concat([pd.read_parquet(runs[0] / "validation.parquet"), pd.DataFrame(losses, columns=list(COLUMNS))])
    table.to_parquet(runs[0] / "validation.parquet")
    assert verdict(VerdictConfig(runs, tmp_path / "both.png")) == lines
    with Image.open(tmp_path / "both.png") as picture:
        lower = np.asarray(picture.convert("RGB"))[picture.height * 2 // 3 :]
        assert picture.height > 1.4 * alone
        assert (lower == (0x00, 0x72, 0xB2)).all(-1).sum() > 200
    with pytest.raises(CnlabError, match=r"no validation\.parquet"):
        verdict(VerdictConfig((tmp_path,)))
    with pytest.raises(CnlabError, match="which runs"):
        verdict(VerdictConfig(()))
