"""Options of the three sub-commands of ``cnlab-study``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.contract.errors import CnlabError

QUESTION = "Which picture follows the edge map and the caption better?"


@dataclass(frozen=True)
class Make:
    """Build blinded sheets from two folders of generated pictures."""

    a: str
    """First side: RUNID (its arm `control`), RUNID/shuffled or RUNID/prior, below RESULTS/generations."""
    b: str
    """Second side, written the same way."""
    dataset: Path
    """Dataset folder (data/NAME) with the condition maps and captions of the eval split."""
    out: Path
    """Study folder to make (studies/ID)."""
    results: Path = Path("results")
    """Results folder that holds generations/."""
    runs: Path = Path("runs")
    """Folder of training runs, read for the condition of both sides."""
    items: int = 20
    """Pairs a rater sees, one a sample of the eval split."""
    sheets: int = 2
    """Number of sheets, even: sheet 2k shows every pair of sheet 2k-1 the other way round."""
    repeats: float = 0.1
    """Share of the pairs shown a second time, sides swapped, to measure a rater's consistency (0 to 0.5)."""
    catch: int = 2
    """Catch trials: in turn a picture against its scrambled self, and a picture against itself."""
    catch_allowed: int = 1
    """A filled sheet with more failed catch trials than this is left out of the analysis; fixed in advance."""
    margin: float = 0.1
    """Equivalence margin around a win rate of 0.5, fixed in advance."""
    seed: int = 0
    """Chooses the samples, the sides and the order."""
    question: str = QUESTION
    """The question over every pair."""
    show_map: bool = True
    """Show the condition map."""
    show_caption: bool = True
    """Show the caption."""
    condition: str = ""
    """Map column to show; by default the condition the run was trained on, else the dataset's first."""

    def __post_init__(self) -> None:
        """Raise CnlabError for values outside their range."""
        checks = {
            "--items must be at least 2": self.items >= 2,
            "--sheets must be a positive even number, so that each pair is shown both ways": (
                self.sheets >= 2 and self.sheets % 2 == 0
            ),
            "--repeats must lie in [0, 0.5]": 0 <= self.repeats <= 0.5,
            "--catch must lie in [0, 20]": 0 <= self.catch <= 20,
            "--catch-allowed must not be negative": self.catch_allowed >= 0,
            "--margin must lie in (0, 0.5)": 0 < self.margin < 0.5,
            "--question must not be empty": bool(self.question.strip()),
        }
        for message, good in checks.items():
            if not good:
                raise CnlabError(message)


@dataclass(frozen=True)
class Import:
    """Check answer files, write votes.parquet and analysis.json, and add rows to the results table."""

    study: Path
    """Study folder (studies/ID)."""
    answers: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Answer files that the sheets exported, or folders of them."""
    results: Path = Path("results")
    """Results folder whose table gets the win rate."""
    runs: Path = Path("runs")
    """Folder of training runs, read for the subset size, seed and step of the result rows."""
    label: str = ""
    """Put behind the metric's name (study_win_rate_LABEL) when one run has several studies."""


@dataclass(frozen=True)
class Analyse:
    """Print the analysis of the imported votes and write it to analysis.json."""

    study: Path
    """Study folder (studies/ID)."""
