"""The study's report: lines for a terminal, and one page for people."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from pipeline.contract.figures import GREY, PALETTE, new_figure
from pipeline.contract.text import for_html, for_terminal

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
WARNING = "SIMULATED VOTES: no person took part"
WHAT = {
    "win_rate": "{subject} preferred to {against}",
    "tie_rate": "ties",
    "win_rate_ties_half": "{subject} preferred, a tie as half",
    "average_rank": "average rank of {subject} (1 worst)",
    "accuracy": "right answers",
    "agreement": "{subject} agrees with the votes",
}


def verdict(result: dict[str, Any]) -> str:
    """The answer in words, with what the study could have found where it found nothing."""
    tests, numbers = result["tests"], result["numbers"]
    if result["mode"] == "ranking":
        order = sorted((n for n in numbers if n["name"] == "average_rank"), key=lambda n: -n["value"])
        clear = [n for n in numbers if n["name"] == "win_rate" and n.get("holm_p", 1) <= ALPHA]
        of = sum(n["name"] == "win_rate" for n in numbers)
        names = " > ".join(n["subject"] for n in order)
        return f"Order by average rank: {names}. {len(clear)} of {of} pairs differ (two-way test, Holm, 5 %)."
    if not tests or numbers[0]["value"] is None or numbers[0]["ci_low"] is None:
        return "Too few votes: a statement needs decided votes of two raters on two items."
    a, b, rate = result["subjects"][0], result["subjects"][1], numbers[0]["value"]
    guess = result["mode"] == "discrimination"
    if tests["difference_p"] <= ALPHA:
        if guess:
            return f"People tell {a} from {b}: {rate:.0%} right answers."
        better, worse = (a, b) if rate > 0.5 else (b, a)
        return f"{better} is preferred to {worse}, in {max(rate, 1 - rate):.0%} of decided votes."
    equal = f"within 50 % +- {result['margin']:.0%}"
    if tests["equivalence_p"] <= ALPHA:
        return f"{a} and {b} are equal {equal}." if not guess else f"People cannot tell {a} from {b}: {equal}."
    effect = tests["minimal_detectable_effect"]
    needs = "" if effect is None else f" A rate {100 * effect:.0f} points off 50 % would have been found 4 times in 5."
    return f"Neither a difference nor equality {equal} is shown.{needs}{_needed(result)}"


def _needed(result: dict[str, Any]) -> str:
    """What would have been needed, in words; empty where the study cannot tell."""
    goals = {
        "needed_for_difference": f"find a rate of {result['numbers'][0]['value']:.1%}, as seen here,",
        "needed_for_equality": f"show equality within {result['margin']:.0%}, if there is no difference,",
    }
    sizes = {name: result["tests"].get(name) for name in goals}
    return "".join(
        f" To {goals[name]} as surely takes about {size['raters']} raters on {size['items']} items, each judging as "
        "many as here."
        for name, size in sizes.items()
        if size is not None
    )


def report_text(result: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [WARNING] if result["simulated"] else []
    lines += [verdict(result), *(f"{_what(n)}: {_number(n)}" for n in result["numbers"]), *_tests(result)]
    for entry in result.get("abilities", []):
        lines.append(f"ability of {entry['subject']} (Plackett-Luce, logits): {_number(entry)}")
    if result["mode"] == "discrimination":
        lines.append(f"d' = {result['d_prime']:.2f}, criterion c = {result['criterion_c']:.2f}")
        spread = result["overdispersion"]
        if spread:
            lines.append(
                f"raters differ {spread['factor']:.1f} times chance (p = {spread['p']:.2g}); "
                f"effective votes {spread['effective_n']:.0f}"
            )
    lines += _care(result)
    lines += _metrics(result)
    return "\n".join(for_terminal(line) for line in lines)


def _tests(result: dict[str, Any]) -> list[str]:
    tests = result["tests"]
    if not tests:
        return []
    alone = tests["if_votes_were_independent"]
    lines = [
        f"difference p = {tests['difference_p']:.4g}; equivalence within 0.5 +- {result['margin']:g} "
        f"p = {tests['equivalence_p']:.4g} (both over raters and items)",
        f"permutation by raters, for these items only: p = {tests['permutation_by_raters_p']:.4g}",
        f"if votes were independent: p = {alone['sign_test_p']:.4g}, [{alone['ci_low']:.3f}, {alone['ci_high']:.3f}]",
    ]
    if tests["difference_p"] > ALPHA and tests["minimal_detectable_effect"] is not None:
        lines.insert(1, f"minimal detectable effect (power 80 %): 0.5 +- {tests['minimal_detectable_effect']:.3f}")
    return lines


def _care(result: dict[str, Any]) -> list[str]:
    alpha, rules = result["agreement_alpha"], result["rules"]
    needed = rules["repeats_needed"]
    what = f"all of at least {needed} repeats contrary" if rules.get("repeats_rule") == "contrary" else (
        f"none of at least {needed} repeats alike"
    )  # fmt: skip
    steady = f", or {what}" if needed else ""
    rule = f"rules fixed before the votes: left out with more than {rules['catch_allowed']} failed catch trials{steady}"
    if result["foreign"]:
        return [f"votes made elsewhere, all counted; agreement between raters (Krippendorff's alpha): {_alpha(alpha)}"]
    return [
        rule,
        f"filled sheets used {result['sheets_used']}, left out {len(result['excluded'])}; catch trials failed "
        f"{result['catch']['failed']} of {result['catch']['trials']}",
        *(f"  left out: rater {e['rater']}, {e['sheet']}: {e['reason']}" for e in result["excluded"]),
        f"repeats answered alike: {_number(result['repeats'])}; left chosen: {_number(result['left_share'])}",
        f"agreement between raters (Krippendorff's alpha): {_alpha(alpha)}",
    ]


def _metrics(result: dict[str, Any]) -> list[str]:
    """How often metrics agree with the votes, below what a metric would reach that sees no picture."""
    if not result["metrics"]:
        return []
    rate, subjects = result["numbers"][0]["value"], result["subjects"]
    better = subjects[0] if rate >= 0.5 else subjects[1]
    return [
        f"a metric that prefers {better} whatever the picture would agree with the votes: {max(rate, 1 - rate):.3f}",
        *(f"{_what(entry)}: {_number(entry)}" for entry in result["metrics"]),
    ]


def _alpha(alpha: float | None) -> str:
    return "not defined" if alpha is None else f"{alpha:.3f}"


def _what(number: dict[str, Any]) -> str:
    return WHAT[number["name"]].format(subject=number["subject"], against=number.get("against"))


def _number(number: dict[str, Any] | None) -> str:
    if number is None or number["value"] is None:
        return "no votes"
    bounds = (
        "too few raters or items for an interval"
        if number["ci_low"] is None
        else f"[{number['ci_low']:.3f}, {number['ci_high']:.3f}]"
    )
    more = f", Holm p = {number['holm_p']:.3g}" if "holm_p" in number else ""
    if number.get("holm_p", 0) > ALPHA and number.get("minimal_detectable_effect") is not None:
        more += f", detectable 0.5 +- {number['minimal_detectable_effect']:.3f}"
    if number.get("sd_over_raters") is not None:
        more += f", sd over raters {number['sd_over_raters']:.2f}"
    count = f", n = {number['n']}" if "n" in number else ""
    return f"{number['value']:.3f} {bounds}{count}{more}"


def report_page(result: dict[str, Any], votes: pd.DataFrame) -> str:
    """One self-contained HTML page: verdict, figures, plots by rater and item, exclusions and why."""
    from user_study.sheets.page import data_uri

    lines = report_text(result).splitlines()
    head = 1 if result["simulated"] else 0
    warning = f'<p class="warning">{WARNING}</p>' if result["simulated"] else ""
    picture = _figure(result)
    plot = "" if picture is None else (
        f'<img src="{data_uri(picture)}" alt="By rater and by item, with mean and interval">'
    )  # fmt: skip
    items = "\n".join(f"<li>{for_html(line.strip())}</li>" for line in lines[head + 1 :])
    title = for_html(" / ".join(result["subjects"]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{WARNING + " - " if result["simulated"] else ""}User study</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }} .warning {{ background: #fff3c4; border: 2px solid #7a5b00; padding: .5rem; }}
.verdict {{ font-size: 1.3rem; font-weight: 600; }}</style></head>
<body><main><h1>User study: {title}</h1>{warning}
<p>{for_html(result["question"])}</p>
<p class="verdict">{for_html(lines[head])}</p>
{plot}
<h2>Figures</h2><p>95 % intervals in brackets, over raters and items where not said otherwise.</p>
<ul>{items}</ul></main></body></html>
"""


def _figure(result: dict[str, Any]) -> bytes | None:
    """PNG of rates (of a ranking, ranks) by rater and by item, with mean and interval; None without votes."""
    ranks = [n for n in result["numbers"] if n["name"] == "average_rank"][::-1]
    if not ranks and (result["mode"] == "ranking" or result["numbers"][0]["value"] is None):
        return None
    figure, axes = new_figure(9, 3.2, 1, 2)
    for axis, by in zip(axes[0], ("per_rater", "per_item"), strict=True):
        if ranks:
            _draw_ranks(axis, ranks, result[by], names=by == "per_rater")
        else:
            _draw_rates(axis, result["numbers"][0], result[by])
        axis.set_title(f"by {by.replace('per_', '')}")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _short(name: str) -> str:
    """At most 32 characters; of a run's arms the ends differ, so the middle goes."""
    return name if len(name) <= 32 else f"{name[:11]}…{name[-20:]}"


def _draw_ranks(axis: Any, ranks: list[dict[str, Any]], entries: list[dict[str, Any]], names: bool) -> None:
    for row, number in enumerate(ranks):
        own = [entry["value"] for entry in entries if entry["subject"] == number["subject"]]
        axis.plot(own, [row - 0.2] * len(own), "|", color=GREY)
        if number["ci_low"] is not None:
            axis.plot([number["ci_low"], number["ci_high"]], [row, row], color=PALETTE[0])
        axis.plot(number["value"], row, "o", color=PALETTE[0])
    axis.set_yticks(range(len(ranks)), [_short(n["subject"]) if names else "" for n in ranks])
    axis.set(xlim=(0.9, len(ranks) + 0.1), ylim=(-0.5, len(ranks) - 0.5), xlabel="average rank, 1 worst")


def _draw_rates(axis: Any, mean: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    rates = sorted(entry["value"] for entry in entries)
    axis.plot(rates, range(len(rates)), "o", markersize=4, color=PALETTE[0])
    axis.axvline(0.5, color=GREY, linestyle=":")
    axis.axvline(mean["value"], color=PALETTE[1])
    if mean["ci_low"] is not None:
        axis.axvspan(mean["ci_low"], mean["ci_high"], color=PALETTE[1], alpha=0.15, linewidth=0)
    what = "right answers" if mean["name"] == "accuracy" else f"{_short(mean['subject'])} preferred"
    axis.set(xlim=(-0.03, 1.03), xlabel=what, yticks=[])
