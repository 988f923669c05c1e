"""Names and explanations of the metrics, for people."""

from __future__ import annotations

#: Key in the table, or what it contains; title; explanation.
EDGES = (
    (
        "_f1_0px",
        "Edge F1 at 0 px",
        "The condition is extracted from each picture again, with the parameters of its own map, and compared pixel by "
        "pixel. 1 is perfect. A line that is one pixel off counts as missed.",
    ),
    ("_f1_2px", "Edge F1 at 2 px", "The same, but an edge within two pixels counts as found."),
    (
        "_normalised",
        "Normalised F1",
        "0 is what a wrong map gets, 1 is what the real pictures get. The interval takes in the spread of all three.",
    ),
)
EXACT = {
    "clip_score": (
        "CLIP score ↑",
        "Agreement of picture and caption: 100 times the cosine of their CLIP embeddings, 0 where negative. Only "
        "values of the same CLIP model can be compared.",
    ),
    "fd_lite0": (
        "Fréchet distance (Lite0) ↓",
        "Distance of the generated pictures to the real ones as sets, in features of an ImageNet EfficientNet. "
        "This is not FID. It falls with the number of pictures: compare equal n only. The column of real pictures "
        "says what two real sets differ by: training pictures against these.",
    ),
    "kid_lite0": (
        "Kernel distance (Lite0) ×1000 ↓",
        "The same question without that bias, times 1000; around 0 for equal sets, so it can be negative.",
    ),
    "fid": ("FID ↓", "Fréchet distance in Inception features. Biased upwards at small n: compare equal n only."),
    "kid": ("KID ×1000 ↓", "Kernel distance in Inception features, times 1000; unbiased."),
}


def words(metric: str) -> str:
    """``canny_f1_2px_normalised`` -> ``canny F1 at 2 px, normalised``, with an arrow to where better is."""
    if metric in EXACT:
        return EXACT[metric][0]
    condition, found, rest = metric.partition("_f1_")
    if not found:
        return metric
    radius, _, tail = rest.partition("px")
    return f"{condition} F1 at {radius} px{', normalised' if tail else ''} ↑"


def meanings(metrics: set[str]) -> list[tuple[str, str]]:
    """(title, explanation) of the metrics that occur."""
    edges = [(title, text) for part, title, text in EDGES if any(part in metric for metric in metrics)]
    return edges + [about for metric, about in EXACT.items() if metric in metrics]
