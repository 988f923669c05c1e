"""Options of the sub-commands of ``cnlab-study``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.contract.errors import CnlabError

Mode = Literal["paired", "ranking", "discrimination"]
Criterion = Literal["fidelity", "quality"]


def _check(checks: dict[str, bool]) -> None:
    for message, good in checks.items():
        if not good:
            raise CnlabError(message)


@dataclass(frozen=True)
class Items:
    """How many items, and how they are dealt to sheets."""

    per_sheet: int = 40
    """Items a rater judges, one a sample of the eval split."""
    pool: int = 0
    """Items of the whole study, dealt to the sheets in blocks; 0: as many as a sheet holds."""
    sheets: int = 0
    """Number of sheets, a multiple of the number of methods, so that each item is shown every way; 0: every block
    once for each."""
    repeats: float = 0.175
    """Share of the items shown a second time, sides swapped, to measure a rater's consistency (0 to 0.5)."""
    catch: int = 7
    """Catch trials of a sheet: a scrambled picture, or the same picture twice (0, or 4 to 20)."""
    training: int = -1
    """Training trials with feedback; -1: none, in discrimination 20."""


@dataclass(frozen=True)
class Rules:
    """Rules of the analysis; they are hashed into the study before there is an answer."""

    catch_allowed: int = 1
    """A rater with more failed catch trials on a sheet is left out."""
    repeats_needed: int = 7
    """A rater who contradicts the first answer at every repeat of a sheet, at least so many, is left out; 0: no such
    rule."""
    margin: float = 0.1
    """Equivalence margin around 0.5."""


@dataclass(frozen=True)
class Show:
    """What a screen shows beside the pictures."""

    map: bool = True
    """Show the condition map (never in discrimination)."""
    caption: bool = True
    """Show the caption (never in discrimination)."""
    condition: str = ""
    """Map column; by default the condition the runs were trained on, else the dataset's first."""
    question: str = ""
    """Question over every screen instead of the mode's own."""
    labels: tuple[str, ...] = ()
    """Discrimination: what raters call the two kinds, e.g. "a photograph" "made by a computer"."""
    strings: Path | None = None
    """JSON file with the page's texts in another language (see user_study/sheets/templates/strings.en.json)."""


@dataclass(frozen=True)
class Make:
    """Build blinded sheets from generated or real pictures."""

    subjects: tuple[str, ...]
    """What is compared, two to ten: RUNID, RUNID/shuffled, RUNID/prior, folder:NAME, real. Rates are the first's."""
    dataset: Path
    """Dataset folder (data/NAME) with the condition maps and captions of the eval split."""
    out: Path
    """Study folder to make (studies/ID)."""
    mode: Mode = "paired"
    """paired: which of two is better; ranking: order all; discrimination: which of two kinds is this one picture."""
    criterion: Criterion = "fidelity"
    """What is asked: how well a picture follows map and caption, or how good it is. Two criteria are two studies."""
    items: Items = field(default_factory=Items)
    rules: Rules = field(default_factory=Rules)
    show: Show = field(default_factory=Show)
    results: Path = Path("results")
    """Results folder that holds the generated pictures."""
    runs: Path = Path("runs")
    """Folder of training runs, read for their condition."""
    seed: int = 0
    """Chooses the samples, the sides and the order."""

    def __post_init__(self) -> None:
        """Raise CnlabError for values outside their range."""
        items, rules, count = self.items, self.rules, len(self.subjects)
        pair = self.mode != "ranking"
        labels = self.show.labels
        _check(
            {
                "--subjects must be two different ones; three and more are for --mode ranking": (
                    2 <= count <= 10 and len(set(self.subjects)) == count and not (pair and count != 2)
                ),
                "--items.per-sheet must be at least 2": items.per_sheet >= 2,
                "--items.pool must be 0 or at least --items.per-sheet": items.pool == 0
                or items.pool >= items.per_sheet,
                f"--items.sheets must be a multiple of {count}, so that each item is shown every way": (
                    items.sheets >= 0 and items.sheets % count == 0
                ),
                "--items.repeats must lie in [0, 0.5]": 0 <= items.repeats <= 0.5,
                "--items.catch must be 0 or 4 to 20; fewer tell nothing": items.catch == 0 or 4 <= items.catch <= 20,
                "--items.training must lie in [-1, 200]": -1 <= items.training <= 200,
                "--rules.catch-allowed must not be negative": rules.catch_allowed >= 0,
                "--rules.repeats-needed must not be negative": rules.repeats_needed >= 0,
                "--rules.margin must lie in (0, 0.5)": 0 < rules.margin < 0.5,
                "--show.labels must be two different names": len(labels) == 0
                or (len(labels) == 2 and labels[0] != labels[1] and all(label.strip() for label in labels)),
                "--show.question must not be blank": not self.show.question or bool(self.show.question.strip()),
            }
        )


@dataclass(frozen=True)
class Import:
    """Check answers, write votes.parquet, analysis.json and report.html, and add rows to the results table."""

    study: Path
    """Study folder (studies/ID)."""
    answers: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Answer files that the sheets exported, or folders or zip files of them."""
    results: Path = Path("results")
    """Results folder whose table gets the rows."""
    runs: Path = Path("runs")
    """Folder of training runs, read for the subset size, seed and step of the rows."""
    label: str = ""
    """Put behind the metric's name (study_win_rate_LABEL) when one pair of methods has several studies."""
    simulated_rows: bool = False
    """Write rows of simulated votes to the results table too, where they are labelled."""


@dataclass(frozen=True)
class Tidy:
    """Analyse votes made elsewhere: a CSV with the columns rater, item, choice becomes a study folder."""

    table: Annotated[Path, tyro.conf.Positional]
    """CSV file: a row a vote; choice is the name of a method, tie, or names from best to worst joined by >. In
    discrimination: the kind that was said, with a column `shown` for the true one, or 1 and 0 for right and wrong."""
    out: Path
    """Study folder to make."""
    subjects: tuple[str, ...]
    """Names of the methods as they stand in the table; rates are the first's."""
    mode: Mode = "paired"
    """What the votes are."""
    criterion: Criterion = "fidelity"
    """What was asked."""
    margin: float = 0.1
    """Equivalence margin around 0.5."""

    def __post_init__(self) -> None:
        """Raise CnlabError for values outside their range."""
        names = self.subjects
        _check(
            {
                "--subjects must be two different ones; three and more are for --mode ranking": (
                    2 <= len(names) <= 10
                    and len(set(names)) == len(names)
                    and (len(names) == 2 or self.mode == "ranking")
                ),
                "--subjects must not be called tie or unseen": not {"tie", "unseen"} & set(names),
                "--margin must lie in (0, 0.5)": 0 < self.margin < 0.5,
            }
        )


@dataclass(frozen=True)
class Analyse:
    """Print the analysis of the imported votes and write analysis.json and report.html."""

    study: Path
    """Study folder (studies/ID)."""
    simulated: bool = False
    """Analyse the simulated votes of the study."""
    results: Path = Path("results")
    """Results folder; its scores say how often each metric agrees with the votes."""


@dataclass(frozen=True)
class Plan:
    """How many raters and items a wanted effect needs, by simulation."""

    effect: float = 0.6
    """Win rate to be told from 0.5."""
    power: float = 0.8
    """Wanted chance of finding it."""
    margin: float = 0.0
    """Plan for showing equivalence within 0.5 +- margin instead."""
    raters: tuple[int, ...] = (6, 12, 18, 24, 36, 48, 72, 96)
    """Numbers of raters to try, ascending."""
    per_rater: int = 40
    """Pairs a rater judges."""
    pools: tuple[int, ...] = (40, 80, 120)
    """Numbers of items to try, dealt to the raters in blocks."""
    rater_sd: float = 0.4
    """Standard deviation between raters, in logits."""
    item_sd: float = 0.8
    """Standard deviation between items, in logits."""
    ties: float = 0.15
    """Share of votes that are ties."""
    pilot: Path | None = None
    """votes.parquet of a pilot study: both deviations and the ties are taken from it."""
    repetitions: int = 2000
    """Simulated studies of each design."""
    seed: int = 0
    """Of the simulation."""

    def __post_init__(self) -> None:
        """Raise CnlabError for values outside their range."""
        _check(
            {
                "--effect must lie in (0, 1) and differ from 0.5": 0 < self.effect < 1 and self.effect != 0.5,
                "--power must lie in (0, 1)": 0 < self.power < 1,
                "--margin must lie in [0, 0.5)": 0 <= self.margin < 0.5,
                "--raters must be at least 2": bool(self.raters) and min(self.raters) >= 2,
                "--pools must be at least 2": bool(self.pools) and min(self.pools) >= 2,
                "--per-rater must be at least 2": self.per_rater >= 2,
                "--rater-sd and --item-sd must not be negative": min(self.rater_sd, self.item_sd) >= 0,
                "--ties must lie in [0, 1)": 0 <= self.ties < 1,
                "--repetitions must be at least 100": self.repetitions >= 100,
            }
        )


@dataclass(frozen=True)
class Simulate:
    """Fill a study's sheets with simulated raters, labelled so in every file; for planning, tests and documents."""

    study: Path
    """Study folder (studies/ID)."""
    raters: int = 12
    """Number of raters; each fills one sheet."""
    abilities: tuple[float, ...] = (0.5, 0.0)
    """Ability of each method, in the order of the study; further methods get 0."""
    item_sd: float = 0.8
    """Spread of what an item does for a method."""
    rater_sd: float = 0.4
    """Spread of raters' own tastes."""
    ties: float = 0.25
    """Differences smaller than this are called a tie."""
    careless: float = 0.05
    """Share of raters who click at random throughout."""
    bursts: float = 0.03
    """Chance that a careful rater begins a burst of carelessness at a trial; half of the bursts end at each further
    one."""
    results: Path = Path("results")
    """Results folder; its scores say how often each metric agrees with the votes. No rows are written to it."""
    seed: int = 0
    """Of the simulation."""

    def __post_init__(self) -> None:
        """Raise CnlabError for values outside their range."""
        _check(
            {
                "--raters must be at least 1": self.raters >= 1,
                "--careless and --bursts must lie in [0, 1]": min(self.careless, self.bursts) >= 0
                and max(self.careless, self.bursts) <= 1,
                "--item-sd, --rater-sd and --ties must not be negative": min(self.item_sd, self.rater_sd, self.ties)
                >= 0,
            }
        )
