"""``cnlab-study make``: pictures of two or more subjects -> studies/ID with sheets, key and header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder
from pipeline.contract.identity import check_fingerprint, fingerprint
from user_study.config import Make
from user_study.design.trials import (
    SCRAMBLED,
    Layout,
    Trial,
    digest,
    items_of_sheet,
    passing_share,
    plan_sheet,
    repeated,
    shuffled,
)
from user_study.sheets.page import clean_text, data_uri, page_text, render_sheet
from user_study.sheets.pictures import encode, scramble
from user_study.sheets.sides import Side, condition_of, load_side, matched
from user_study.study_folder import HEADER, write_header, write_key, write_sheets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS = ("kind 1", "kind 2")
CARELESS, LOST = 0.5, 0.01  # chance of a contrary repeat by guessing; of careful people, whom its rule may leave out
CLICKERS = 0.01  # of people who click at random, whom the catch rule should leave in at most
TEACHING = 20  # examples of a discrimination sheet, unless said otherwise


@dataclass(frozen=True)
class Place:
    """Where an item's pictures come from: sample and picture group."""

    key: str
    group: int


@dataclass(frozen=True)
class Encoded:
    """One item as the sheets need it: caption, and data addresses of ``map``, ``a``, ``b``, ..., ``a*``, ``b*``."""

    caption: str
    uris: dict[str, str]


@dataclass(frozen=True)
class Design:
    """Everything that decides the sheets: resolved config, its fingerprint, layout, items in order and spare ones."""

    config: dict[str, Any]
    fingerprint: str
    layout: Layout
    items: dict[str, Place]
    spare: dict[str, Place]


def make_study(config: Make) -> Path:
    """Build the study folder and return the path of its header; does nothing when it is there already.

    Raises CnlabError for unfinished inputs, sides that share too few samples, and a folder of another config.
    """
    dataset = Triplets(config.dataset)
    sides = tuple(load_side(config.results, name, dataset) for name in config.subjects)
    if len({side.name for side in sides}) < len(sides):
        raise CnlabError(f"{', '.join(config.subjects)}: two of them are the same; compare different ones")
    column = _map_column(config, sides, dataset)
    text = page_text(config.show.strings)
    resolved = _resolved(config, sides, dataset, column, text)
    identity = fingerprint(resolved)
    header = config.out / HEADER
    with lock_folder(config.out):
        if check_fingerprint(header, identity):
            print(f"{header} is complete; nothing to do")
            return header
        design = _design(resolved, identity, sides, dataset)
        encoded = _encode_all(design, sides, dataset, column)
        _write(config.out, design, encoded, text)
    _remark_on_catches(design.layout, config.rules.catch_allowed)
    _remark_on_repeats(config.items.per_sheet, config.items.repeats, config.rules.repeats_needed)
    print(
        f"{config.out}: {resolved['sheets']} sheets of {resolved['per_sheet']} items out of {resolved['pool']}; "
        f"give out sheets/, keep key.json to yourself"
    )
    return header


def _remark_on_catches(layout: Layout, allowed: int) -> None:
    """Say when the catch rule leaves in more people who click at random than it should."""
    share = passing_share(layout, allowed)
    if not layout.catch or share <= CLICKERS:
        return
    enough = [n for n in range(4, 21) if passing_share(replace(layout, catch=n), allowed) <= CLICKERS]
    way = f"--items.catch {enough[0]}" if enough else "--rules.catch-allowed 0"
    print(f"note: the catch rule leaves in {share:.1%} of people who click at random; {way} leaves in less than 1 %")


def _remark_on_repeats(items: int, share: float, needed: int) -> None:
    """Say when the rule on repeats cannot speak, or leaves out more careful people than it should.

    Somebody to whom two pictures look the same contradicts the first answer at most every other time: 2 p (1 - p).
    """
    count = repeated(items, share)
    if needed and CARELESS**needed > LOST:
        enough = ceil(log(LOST) / log(CARELESS))
        print(f"note: the rule on repeats may leave out {CARELESS**needed:.1%} of careful people to whom the pictures "
              f"look the same; --rules.repeats-needed {enough} leaves out less than 1 %")  # fmt: skip
    if count < needed:
        way = f"; --items.repeats {needed / items:.3g} makes it {needed}" if 2 * needed <= items else ""
        print(f"note: a sheet repeats {count} of its {items} items and the rule on repeats needs {needed}, so it "
              f"leaves nobody out{way}")  # fmt: skip


def _map_column(config: Make, sides: tuple[Side, ...], dataset: Triplets) -> str | None:
    if not config.show.map or config.mode == "discrimination":
        return None
    there = dataset.header["conditions"]
    if config.show.condition:
        if config.show.condition not in there:
            raise CnlabError(
                f"{config.dataset} has no map column {config.show.condition!r} (it has {', '.join(there)}); choose "
                "another with --show.condition"
            )
        return config.show.condition
    trained = {condition for side in sides if (condition := condition_of(config.runs, side))}
    if len(trained) > 1:
        raise CnlabError(
            f"{' and '.join(side.name for side in sides)} were trained on {' and '.join(sorted(trained))}; say with "
            "--show.condition which map to show"
        )
    return trained.pop() if trained else str(there[0])


def _resolved(
    config: Make, sides: tuple[Side, ...], dataset: Triplets, column: str | None, text: dict[str, str]
) -> dict[str, Any]:
    """Config without paths, and with the inputs' fingerprints: moving the folders does not change the study."""
    items, discrimination = config.items, config.mode == "discrimination"
    pool = items.pool or items.per_sheet
    blocks = -(-pool // items.per_sheet)
    training = items.training if items.training >= 0 else TEACHING if discrimination else 0
    return {
        "mode": config.mode,
        "criterion": config.criterion,
        "subjects": [side.name for side in sides],
        "fingerprints": [side.fingerprint for side in sides],
        "dataset": str(dataset.header["name"]),
        "dataset_fingerprint": dataset.fingerprint,
        "condition": column or str(dataset.header["conditions"][0]),
        "per_sheet": items.per_sheet,
        "pool": pool,
        "sheets": items.sheets or blocks * len(sides),
        "repeats": items.repeats,
        "catch": items.catch,
        "training": training,
        "catch_allowed": config.rules.catch_allowed,
        "repeats_needed": config.rules.repeats_needed,
        "repeats_rule": "contrary",
        "margin": config.rules.margin,
        "question": config.show.question or text[f"question_{config.mode}_{config.criterion}"],
        "labels": list(config.show.labels or LABELS) if discrimination else [],
        "text": fingerprint(text),
        "show_map": column is not None,
        "show_caption": config.show.caption and not discrimination,
        "seed": config.seed,
    }


def _design(resolved: dict[str, Any], salt: str, sides: tuple[Side, ...], dataset: Triplets) -> Design:
    """Items and spare ones, one a sample; what catch and training trials show is taken from the spare ones first."""
    keys = dataset.table("eval", ["key"])["key"].to_pylist()
    groups = matched(sides, keys)
    unknown = sorted(groups.keys() - set(keys))
    if unknown:
        raise CnlabError(
            f"{len(unknown)} of {len(groups)} generated samples are not in the eval split of {dataset.folder} (such as "
            f"{unknown[0]!r}); give the dataset that the pictures were generated from"
        )
    pool, extra = resolved["pool"], resolved["catch"] + resolved["training"]
    if len(groups) < pool:
        raise CnlabError(
            f"{', '.join(side.name for side in sides)} share pictures of {len(groups)} samples, fewer than the {pool} "
            "items asked for; evaluate with more --images, or ask for fewer with --items.pool and --items.per-sheet"
        )
    order = shuffled(groups, salt, "items")[: pool + extra]
    places = [Place(key, int(shuffled(map(str, groups[key]), salt, "groups", key)[0])) for key in order]
    names = [f"i{n:03d}" for n in range(1, len(places) + 1)]
    layout = Layout(resolved["mode"], len(sides), resolved["repeats"], resolved["catch"], resolved["training"])
    items = dict(zip(names[:pool], places[:pool], strict=True))
    return Design(resolved, salt, layout, items, dict(zip(names[pool:], places[pool:], strict=True)))


def _encode_all(design: Design, sides: tuple[Side, ...], dataset: Triplets, column: str | None) -> dict[str, Encoded]:
    """Every picture at one size, the smallest that occurs among the sides."""
    places = design.items | design.spare
    rows = _rows(dataset, {place.key for place in places.values()}, column)
    pictures = {item: [side.read(place.key, place.group) for side in sides] for item, place in places.items()}
    smallest = min((p for shown in pictures.values() for p in shown), key=lambda p: p.shape[0] * p.shape[1])
    size = (smallest.shape[1], smallest.shape[0])
    extra = bool(design.config["catch"] or design.config["training"])
    out = {}
    for item, shown in pictures.items():
        caption, shown_map = rows[places[item].key]
        uris = {name: data_uri(png) for name, png in _encode_item(shown, size, digest(design.fingerprint, item), extra)}
        if shown_map is not None:
            uris["map"] = data_uri(encode(shown_map, size))
        out[item] = Encoded(clean_text(caption) if design.config["show_caption"] else "", uris)
    return out


def _encode_item(
    shown: list[NDArray[np.uint8]], size: tuple[int, int], salt: str, scrambled: bool
) -> Iterator[tuple[str, bytes]]:
    import numpy as np
    from PIL import Image

    for letter, pixels in zip("abcdefghij", shown, strict=False):
        small = pixels
        if (pixels.shape[1], pixels.shape[0]) != size:
            small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        yield letter, encode(small, size, stored=True)
        if scrambled:
            yield letter + SCRAMBLED, encode(scramble(small, salt), size, stored=True)


def _rows(dataset: Triplets, keys: set[str], column: str | None) -> dict[str, tuple[str, NDArray[np.uint8] | None]]:
    """Caption and map of each sample, a shard's worth of rows at a time."""
    from pipeline.contract.pictures import decode_image

    rows: dict[str, tuple[str, NDArray[np.uint8] | None]] = {}
    columns, total = ["key", "text", *([column] if column else [])], dataset.count("eval")
    for first in range(0, total, 256):
        for row in dataset.rows("eval", columns, first, min(first + 256, total)).to_pylist():
            if row["key"] in keys:
                where = f"map {column} of sample {row['key']!r}"
                picture = decode_image(row[column]["bytes"], where) if column else None
                rows[row["key"]] = (row["text"] or "", picture)
    return rows


def _write(out: Path, design: Design, encoded: dict[str, Encoded], text: dict[str, str]) -> None:
    """Sheets, then the key, then the header, so that a header means a whole study."""
    study = digest("study", design.fingerprint)[:12]
    key: dict[str, Any] = {}
    tokens: dict[str, dict[str, Any]] = {}

    def pages() -> Iterator[tuple[str, bytes]]:
        for number in range(design.config["sheets"]):
            name, seed = f"sheet-{number + 1:02d}", digest(design.fingerprint, "order", number)[:16]
            trials = _trials(design, number)
            payload = {
                "study": study,
                "sheet": name,
                "seed": seed,
                "mode": design.config["mode"],
                "question": clean_text(design.config["question"]),
                "labels": [clean_text(label) for label in design.config["labels"]],
                "text": text,
                "trials": [_screen(trial, encoded[trial.item], design) for trial in trials],
            }
            page, token = render_sheet(payload)
            tokens[name] = {"token": token, "trials": len(trials)}
            key[name] = {"seed": seed, "trials": {t.id: _key_entry(t) for t in trials}}
            yield name, page

    sums = write_sheets(out, pages())
    places = design.items | design.spare
    key_sha256 = write_key(
        out,
        {
            "study": study,
            "subjects": dict(zip("abcdefghij", design.config["subjects"], strict=False)),
            "items": {item: place.key for item, place in places.items()},
            "groups": {item: place.group for item, place in places.items()},
            "sheets": key,
        },
    )
    sheets = {name: {**entry, "sha256": sums[name]} for name, entry in tokens.items()}
    header = {"study": study, "config": design.config, "fingerprint": design.fingerprint, "items": len(design.items)}
    write_header(out, {**header, "sheets": sheets, "key_sha256": key_sha256})


def _trials(design: Design, number: int) -> list[Trial]:
    items = items_of_sheet(list(design.items), design.config["per_sheet"], number, design.layout.sides)
    spare = list(design.spare) or [item for item in design.items if item not in items]
    return plan_sheet(items, spare, number, design.layout, design.fingerprint)


def _screen(trial: Trial, sample: Encoded, design: Design) -> dict[str, Any]:
    """What the sheet may know of a trial: neither its kind nor its item nor which side is which."""
    return {
        "id": trial.id,
        "block": trial.block,
        "shown": [sample.uris[side] for side in trial.shown],
        "map": sample.uris.get("map"),
        "caption": sample.caption if design.config["show_caption"] else None,
        "feedback": trial.expected if trial.kind == "training" else None,
    }


def _key_entry(trial: Trial) -> dict[str, Any]:
    return {
        "block": trial.block,
        "kind": trial.kind,
        "item": trial.item,
        "shown": list(trial.shown),
        "expected": trial.expected,
    }
