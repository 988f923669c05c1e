"""Names and explanations of the metrics, and what a table says, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation.scores import FLOOR, NORMALISED
from evaluation.subjects import AUTOENCODER
from pipeline.fidelity import LOWER_IS_BETTER

if TYPE_CHECKING:
    import pandas as pd

#: Suffix of a fidelity metric; its title; its explanation.
MEASURES = {
    "f1_0px": ("F1, exact", "edges are extracted from the picture again and compared pixel by pixel (ControlNet++)"),
    "f1_2px": ("F1 within 2 px", "the same, but an edge within two pixels counts"),
    "precision": (
        "edge precision",
        "share of the picture's edge pixels matched one to one with the map's, within .75 % of the diagonal (BSDS)",
    ),
    "recall": ("edge recall", "share of the map's edge pixels so matched"),
    "f1": ("edge F1", "harmonic mean of the two"),
    "ssim": ("SSIM", "structural similarity of the map and the one extracted from the picture"),
    "ms_ssim": ("MS-SSIM", "the same at five scales"),
    "psnr": ("PSNR, dB", "peak signal-to-noise ratio of the two maps, at most 100"),
    "rmse": ("RMSE", "root mean squared error in 8-bit units"),
    "scale_invariant": ("scale-invariant error", "spread of the difference of logarithms (Eigen et al., 2014)"),
    "angle": ("angle, degrees", "mean angle between normals"),
    "miou": ("mIoU", "intersection over union, mean over the classes of either map"),
    "lab_error": ("colour error", "mean distance in CIE Lab"),
    "colour_distance": ("colour distance", "distance of colour statistics in CIE Lab"),
}  # fmt: skip
EXACT = {
    "clip_score": (
        "CLIP score",
        "Agreement of picture and caption: 100 times the cosine of their CLIP embeddings, 0 where negative. Only "
        "values of the same CLIP model can be compared.",
    ),
    "fid": ("FID", "Fréchet distance in Inception features. Biased upwards at small n: compare equal n only."),
    "kid": ("KID ×1000", "Kernel distance in Inception features, times 1000; unbiased."),
    "study_win_rate": ("win rate in the study", "Share of votes that the subject won, a tie counting half."),
}  # fmt: skip
#: Start of a metric of sets of pictures, before the name of the features; its title; its explanation.
SETS = {
    "fd": (
        "Fréchet distance ({})",
        "Distance of the pictures to the real ones as sets, in these features: not FID, which is in Inception's. "
        "It falls with the number of pictures: compare equal n only. For real pictures: training pictures against "
        "these.",
    ),
    "kid": (
        "Kernel distance ({}) ×1000",
        "The same question without that bias, times 1000; around 0 for equal sets, so it can be negative.",
    ),
    "mind": ("MIND ({})", "Sliced Wasserstein distance in these features; steadier at small n."),
    "precision": (
        "precision ({})",
        "Share of the pictures that lie among real ones: inside a real picture's ball of 5 neighbours. Depends on n.",
    ),
    "recall": ("recall ({})", "Share of real pictures that lie among the generated ones. Depends on n."),
    "density": ("density ({})", "How many real balls hold a picture, over 5; about 1 for equal sets."),
    "coverage": ("coverage ({})", "Share of real pictures whose ball holds a generated one."),
    "copied": (
        "copied ({})",
        "Share of pictures nearer to a training sample than to any unseen one, among equally many: .5 where nothing is "
        "copied, 1 where everything is.",
    ),
    "effective_rank": (
        "effective rank ({})",
        "In how many directions the real pictures differ: a distance in far more features than that rests on few.",
    ),
    "spacing": (
        "spacing ({})",
        "Distance of a real picture to its fifth neighbour over that of any two: 1 where there is no neighbourhood.",
    ),
}  # fmt: skip


def split_metric(metric: str) -> tuple[str, str, str]:
    """(condition, measure, suffix) of a fidelity metric, such as (canny, f1_2px, _floor); else (``metric``, "", "")."""
    suffix = next((end for end in (FLOOR, NORMALISED) if metric.endswith(end)), "")
    plain = metric.removesuffix(suffix)
    for name in sorted(MEASURES, key=len, reverse=True):
        if plain.endswith(f"_{name}"):
            return plain.removesuffix(f"_{name}"), name, suffix
    return metric, "", ""


def _set_metric(metric: str) -> str:
    """``kid_lite0`` -> ``kid``; "" for what is no metric of sets."""
    return next((start for start in SETS if metric.startswith(f"{start}_")), "")


def words(metric: str) -> str:
    """``canny_f1_2px_normalised`` -> ``canny F1 within 2 px, normalised``."""
    if metric in EXACT:
        return EXACT[metric][0]
    if start := _set_metric(metric):
        features = metric.removeprefix(f"{start}_")
        return SETS[start][0].format("Lite0" if features == "lite0" else features)
    condition, measure, suffix = split_metric(metric)
    if not measure:
        return metric
    tail = {FLOOR: ", on other samples' maps", NORMALISED: ", normalised"}.get(suffix, "")
    return f"{condition} {MEASURES[measure][0]}{tail}"


def meanings(metrics: set[str]) -> list[tuple[str, str]]:
    """(title, explanation) of the metrics that occur."""
    measures = {split_metric(metric)[1] for metric in metrics}
    lines = [(title, text[0].upper() + text[1:] + ".") for name, (title, text) in MEASURES.items() if name in measures]
    if any(metric.endswith(FLOOR) for metric in metrics):
        floor = "The floor: what the subject's own pictures score against maps that they were not made from."
        lines.append(("on other samples' maps", floor))
    if any(metric.endswith(NORMALISED) for metric in metrics):
        scale = "0 is the subject's own floor, 1 what real pictures reach through the base model's autoencoder. "
        lines.append(("normalised", scale + "The interval takes in the spread of all three."))
    lines += [EXACT[metric] for metric in EXACT if metric in metrics]
    return lines + [(words(m), SETS[start][1]) for start in SETS for m in sorted(metrics) if _set_metric(m) == start]


def verdict(rows: pd.DataFrame, subject: str) -> list[str]:
    """What the rows of one evaluation say about ``subject``, in sentences that follow from values and intervals alone.

    ``rows``: of one dataset, condition, generation group and n: the subject's and those it is set beside.
    """
    own = _by_metric(rows, subject)
    return [
        line for line in (_obedience(own, subject), _against_prior(rows, own, subject), _likeness(rows, own)) if line
    ]


def _by_metric(rows: pd.DataFrame, subject: str) -> dict[str, Any]:
    return {str(row.metric): row for row in rows[rows.run == subject].itertuples()}


def _obedience(own: dict[str, Any], subject: str) -> str:
    name = next((m for m in own if m.endswith(FLOOR)), "")
    if not name:
        return f"How far {subject} obeys its maps was not measured."
    plain = name.removesuffix(FLOOR)
    value, floor = own[plain], own[name]
    measure = words(plain)
    better = _apart(value, floor, split_metric(plain)[1] in LOWER_IS_BETTER)
    facts = f"{measure} {_value(value)} on its own maps, {_value(floor)} on other samples'"
    if better is None:
        return f"{subject} cannot be told from one that ignores its maps: {facts}."
    if not better:
        return f"{subject} obeys its maps less than chance would: {facts}."
    scaled = own.get(plain + NORMALISED)
    if scaled is None:
        return f"{subject} obeys its maps: {facts}."
    share = float(scaled.value)
    degree = "fully" if share >= 0.9 else "largely" if share >= 0.6 else "in part" if share >= 0.25 else "only a little"
    way = f"{100 * share:.0f} % of the way from chance to what the autoencoder allows {interval(scaled)}"
    return f"{subject} obeys its maps {degree}: {way}; {facts}."


def _against_prior(rows: pd.DataFrame, own: dict[str, Any], subject: str) -> str:
    prior = _by_metric(rows, f"{subject}/prior")
    if "clip_score" not in own or "clip_score" not in prior:
        return ""
    a, b = own["clip_score"], prior["clip_score"]
    better = _apart(a, b, False)
    facts = f"CLIP score {_value(a)} against {_value(b)}"
    if better is None:
        return f"No difference to the base model alone is seen in how captions are followed: {facts}."
    return f"Its captions are followed {'better' if better else 'less well'} than by the base model alone: {facts}."


def _likeness(rows: pd.DataFrame, own: dict[str, Any]) -> str:
    name = next((m for m in own if m.startswith("kid")), "")
    best = _by_metric(rows, AUTOENCODER)
    if not name or name not in best:
        return ""
    a, b = own[name], best[name]
    if not interval(a) or not interval(b):
        return "How its pictures lie to real ones as a set cannot be said of so few."
    better = _apart(a, b, True)
    facts = f"kernel distance {_value(a)}, of real pictures through the autoencoder {_value(b)}"
    if better is None:
        return f"As a set its pictures cannot be told from the best that the autoencoder allows: {facts}."
    place = "closer to" if better else "farther from"
    return f"As a set its pictures are {place} real ones than the autoencoder's: {facts}."


def _apart(a: Any, b: Any, lower_is_better: bool) -> bool | None:
    """Whether a is better than b; None where their intervals overlap or one is missing."""
    import pandas as pd

    limits = (a.ci_low, a.ci_high, b.ci_low, b.ci_high)
    if any(pd.isna(limit) for limit in limits):
        return None
    above, below = limits[0] > limits[3], limits[1] < limits[2]
    return None if not above and not below else bool(above != lower_is_better)


def _value(row: Any) -> str:
    return f"{number(float(row.value))} {interval(row)}".strip()


def number(value: float) -> str:
    """Three significant digits, no exponent: 0.421, 11.9, 458; of the smallest values five decimals."""
    digits = next((d for least, d in ((100, 0), (10, 1), (1, 2), (0.01, 3)) if abs(value) >= least), 5 if value else 3)
    return f"{value:.{digits}f}"


def interval(row: Any) -> str:
    """``[low, high]`` of a row, "" where it has none."""
    import pandas as pd

    return "" if pd.isna(row.ci_low) else f"[{number(row.ci_low)}, {number(row.ci_high)}]"
