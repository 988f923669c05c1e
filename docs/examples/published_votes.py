"""Published and public votes, analysed again: prints the figures of docs/study-statistics.md.

    python docs/examples/published_votes.py DGM_EVAL IMAGENHUB

DGM_EVAL: folder with the CSV files of layer6ai-labs/dgm-eval, data/human-evaluation-realism (one row a participant).
IMAGENHUB: folder with the three TSV files of TIGER-AI-Lab/ImagenHub, eval/human_ratings/Control-Guided_IG.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from user_study.analysis import two_way as tw
from user_study.analysis.statistics import d_prime, overdispersion
from user_study.config import Criterion, Tidy
from user_study.votes.tidy import import_table

TRIALS = 200  # answers of a participant, in the paper and in dgm-eval: half real, half generated


def over_raters(rates: np.ndarray, n: int = TRIALS) -> tw.Mean:
    """Mean of the raters' rates with its variance between raters; every rater has answered ``n`` times."""
    g = len(rates)
    values = (rates.mean(), rates.var(ddof=1) / g, g - 1, g * n, g, n)
    return tw.Mean(*(np.asarray(value, dtype=float) for value in values))


def paper() -> None:
    """The ControlNet paper: precision .52 +- .17 of 12 users, and its average user rankings."""
    spread = np.linspace(-1, 1, 12)
    rates = 0.52 + 0.17 * spread / spread.std(ddof=1)
    found, mean = overdispersion(TRIALS * rates, np.full(12, TRIALS)), over_raters(rates)
    low, high = tw.rate_interval(mean)
    assert found is not None
    print(f"paper: chi square {found.chi_square:.0f} on {found.df}, effective n {found.effective_n:.0f}, "
          f"95 % interval {float(low):.2f} to {float(high):.2f}")  # fmt: skip
    for margin in (0.05, 0.1):
        p, growth = float(tw.equivalence_test(mean, margin)), tw.needed_growth(mean, 0.5, equal_within=margin)
        print(f"  equality within {margin}: p = {p:.2f}; needs {np.ceil(12 * (growth or np.nan)):.0f} raters")
    error = np.hypot(0.43, 0.59)  # quality 4.22 +- .43 against lite's 3.93 +- .59
    for n, what in ((12, "12 users"), (100, "100 rankings"), (240, "240 rankings")):
        score = (4.22 - 3.93) / (error / np.sqrt(n))
        print(f"  ControlNet - lite, +- over {what}: t = {score:.1f}, p = {2 * t.sf(score, 2 * n - 2):.2g}")


def dgm_eval(folder: Path) -> None:
    """1,036 participants who told real from generated pictures of 41 models."""
    files = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("per-image"))
    votes = pd.concat([pd.read_csv(path).assign(data=path.stem) for path in files])
    random, rows = np.random.default_rng(0), []
    for name, part in votes.groupby(["data", "model"]):
        rates = part["num_correct"].to_numpy(float) / TRIALS
        mean, spread = over_raters(rates), overdispersion(part["num_correct"], np.full(len(part), TRIALS))
        half = TRIALS // 2 * len(part)
        d, _ = d_prime(round((1 - part["f_err_rt"].mean()) * half), half, round(part["r_err_rt"].mean() * half), half)
        inside = []
        for _ in range(2000):
            low, high = tw.rate_interval(over_raters(random.choice(rates, len(rates))))
            inside.append(low <= rates.mean() <= high)
        assert spread is not None
        p = [float(tw.equivalence_test(mean, margin)) for margin in (0.05, 0.1)]
        rows.append((*name, len(part), float(mean.value), d, spread.factor, spread.icc, spread.effective_n,
                     spread.effective_n / (TRIALS * len(part)), *p, np.mean(inside)))  # fmt: skip
    measures = ["accuracy", "d'", "factor", "icc", "effective_n", "share", "p_05", "p_10", "coverage"]
    table = pd.DataFrame(rows, columns=["data", "model", "raters", *measures])
    print(f"dgm-eval: {len(votes)} participants, {len(table)} models")
    print(table.drop(columns=["data", "model"]).describe().loc[["min", "50%", "mean", "max"]].round(3).to_string())
    print("equal to real within .05:", table.query("p_05 <= .05")["model"].to_list(), "; within .10:")
    print(table.query("p_10 <= .05").round(3).to_string())
    print("after Holm over the models, within .10:", int(sum(np.array(tw.holm(table["p_10"])) <= 0.05)))


def imagenhub(folder: Path) -> None:
    """Three raters of ControlNet and UniControl, as paired votes on consistency and on quality."""
    questions: tuple[Criterion, ...] = ("fidelity", "quality")
    for place, criterion in enumerate(questions):
        lines = ["rater,item,choice"]
        for path in sorted(folder.glob("*.tsv")):
            for row in pd.read_csv(path, sep="\t").itertuples():
                ours, theirs = (float(str(cell).strip("[] ").split(",")[place]) for cell in row[2:4])
                choice = "tie" if ours == theirs else "ControlNet" if ours > theirs else "UniControl"
                lines.append(f"{path.stem},{row[1]},{choice}")
        with tempfile.TemporaryDirectory() as folder_:
            table = Path(folder_) / "votes.csv"
            table.write_text("\n".join(lines))
            print(f"ImagenHub, {criterion}:")
            import_table(Tidy(table, Path(folder_) / "study", ("ControlNet", "UniControl"), criterion=criterion))


if __name__ == "__main__":
    paper()
    dgm_eval(Path(sys.argv[1]))
    imagenhub(Path(sys.argv[2]))
