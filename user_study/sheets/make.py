"""``cnlab-study make``: two generation folders -> studies/ID with sheets, key and header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, lock_folder, read_json, write_json
from pipeline.contract.identity import check_fingerprint, code_version, fingerprint, sha256_file
from user_study.config import Make
from user_study.design.trials import Trial, digest, plan_sheet, shuffled
from user_study.sheets.page import clean_text, data_uri, render_sheet
from user_study.sheets.pictures import (
    Side,
    encode,
    load_side,
    matched,
    open_rgb,
    read_picture,
    read_samples,
    run_summary,
    scramble,
)

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1  # of study.json and key.json


@dataclass(frozen=True)
class Sample:
    """One sample of the eval split with its pictures, still at their own sizes."""

    caption: str
    map: Image | None
    pictures: dict[str, Image]  # a, b


@dataclass(frozen=True)
class Encoded:
    """One sample as the sheet needs it: caption, and data addresses of ``map``, ``a``, ``b``, ``a*``, ``b*``."""

    caption: str
    uris: dict[str, str]


def make_study(config: Make) -> Path:
    """Build the study folder and return the path of its header; does nothing when it is there already.

    Raises CnlabError for unfinished inputs, sides that share too few samples, and a folder of another config.
    """
    sides = _load_sides(config)
    dataset = read_json(config.dataset / "dataset.json")
    _check_dataset(config, sides, dataset)
    column = _map_column(config, sides, dataset)
    resolved = _resolved(config, sides, dataset, column)
    mark = fingerprint(resolved)
    header = config.out / "study.json"
    with lock_folder(config.out):
        if check_fingerprint(header, mark):
            print(f"{header} is complete; nothing to do")
            return header
        items, spare = _choose(config, sides, mark)
        encoded = _encode_all(_read(config, sides, items | spare, column), mark)
        _write(config, resolved, mark, items, spare, encoded)
    print(f"{config.out}: {config.sheets} sheets of {config.items} pairs; give out sheets/, keep key.json to yourself")
    return header


def _load_sides(config: Make) -> tuple[Side, Side]:
    a, b = load_side(config.results, config.a), load_side(config.results, config.b)
    if a.name == b.name:
        raise CnlabError(f"both sides are {a.name}; compare two different runs or arms")
    return a, b


def _check_dataset(config: Make, sides: tuple[Side, Side], dataset: dict[str, Any]) -> None:
    for side in sides:
        if side.manifest.get("dataset") != dataset.get("name"):
            raise CnlabError(
                f"{side.name} was generated from dataset {side.manifest.get('dataset')!r}, not from {config.dataset} "
                f"({dataset.get('name')!r}); both sides and the maps have to come from one dataset"
            )
        made_from = side.manifest.get("config", {}).get("dataset")
        if made_from not in (None, dataset.get("fingerprint")):
            raise CnlabError(f"{side.name} was generated from {config.dataset} before it changed; generate it again")


def _map_column(config: Make, sides: tuple[Side, Side], dataset: dict[str, Any]) -> str | None:
    if not config.show_map:
        return None
    if config.condition:
        return config.condition
    trained = {str(c) for side in sides if (c := run_summary(config.runs, side.run).get("condition"))}
    if len(trained) > 1:
        raise CnlabError(
            f"{sides[0].name} and {sides[1].name} were trained on {' and '.join(sorted(trained))}; say with "
            "--condition which map to show"
        )
    return trained.pop() if trained else str((dataset.get("conditions") or ["conditioning_image"])[0])


def _resolved(config: Make, sides: tuple[Side, Side], dataset: dict[str, Any], column: str | None) -> dict[str, Any]:
    """Config without paths, and with the inputs' fingerprints: moving the folders does not change the study."""
    plain = ("items", "sheets", "repeats", "catch", "catch_allowed", "margin", "seed", "question", "show_caption")
    return {
        **{name: getattr(config, name) for name in plain},
        "a": sides[0].name,
        "b": sides[1].name,
        "a_fingerprint": sides[0].manifest["fingerprint"],
        "b_fingerprint": sides[1].manifest["fingerprint"],
        "dataset": str(dataset.get("name", config.dataset.name)),
        "dataset_fingerprint": dataset.get("fingerprint"),
        "condition": column or str((dataset.get("conditions") or [""])[0]),
        "show_map": config.show_map,
    }


def _choose(config: Make, sides: tuple[Side, Side], salt: str) -> tuple[dict[str, str], dict[str, str]]:
    """File name of each pair, and of the spare samples for catch trials, by item name; one item a sample."""
    common = matched(*sides)
    if len(common) < config.items:
        raise CnlabError(
            f"{sides[0].name} and {sides[1].name} share pictures of {len(common)} samples, fewer than --items "
            f"{config.items}; generate more or ask for fewer"
        )
    order = shuffled(common, salt, "items")
    files = [shuffled(common[key], salt, "groups")[0] for key in order[: config.items + config.catch]]
    names = [f"i{n:03d}" for n in range(1, len(files) + 1)]
    pairs = dict(zip(names[: config.items], files, strict=False))
    return pairs, dict(zip(names[config.items :], files[config.items :], strict=True))


def _read(config: Make, sides: tuple[Side, Side], files: dict[str, str], column: str | None) -> dict[str, Sample]:
    keys = {item: sides[0].images[file] for item, file in files.items()}
    samples = read_samples(config.dataset, set(keys.values()), column)
    out = {}
    for item, file in files.items():
        caption, png = samples[keys[item]]
        shown = open_rgb(png, f"map {column} of sample {keys[item]!r}") if png is not None else None
        pictures = {name: read_picture(side, file) for name, side in zip("ab", sides, strict=True)}
        out[item] = Sample(caption if config.show_caption else "", shown, pictures)
    return out


def _encode_all(samples: dict[str, Sample], salt: str) -> dict[str, Encoded]:
    """Every picture at one size, the smallest that occurs among the generated ones, so that size tells nothing."""
    import numpy as np
    from PIL import Image

    size = min((p.size for sample in samples.values() for p in sample.pictures.values()), key=lambda wh: wh[0] * wh[1])
    out = {}
    for item, sample in samples.items():
        small = {
            name: picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
            for name, picture in sample.pictures.items()
        }
        uris = {name: data_uri(encode(picture, size)) for name, picture in small.items()}
        for name, picture in small.items():
            mixed = Image.fromarray(scramble(np.asarray(picture), digest(salt, item)))
            uris[name + "*"] = data_uri(encode(mixed, size))
        if sample.map is not None:
            uris["map"] = data_uri(encode(sample.map, size))
        out[item] = Encoded(clean_text(sample.caption), uris)
    return out


def _write(
    config: Make,
    resolved: dict[str, Any],
    mark: str,
    items: dict[str, str],
    spare: dict[str, str],
    encoded: dict[str, Encoded],
) -> None:
    """Sheets, then the key, then the header, so that a header means a whole study."""
    study = digest("study", mark)[:12]
    folder = config.out / "sheets"
    for stale in folder.glob("*.html"):
        stale.unlink()  # of a build that was stopped before its header
    sheets: dict[str, dict[str, Any]] = {}
    key: dict[str, Any] = {}
    for number in range(config.sheets):
        name = f"sheet-{number + 1:02d}"
        trials = plan_sheet(list(items), list(spare), number, config.repeats, config.catch, mark)
        seed = digest(mark, "order", number)[:16]
        payload = {
            "study": study,
            "sheet": name,
            "seed": seed,
            "question": clean_text(config.question),
            "trials": [_screen(trial, encoded[trial.item], config.show_caption) for trial in trials],
        }
        page, token = render_sheet(payload)
        with atomic(folder / f"{name}.html") as temporary:
            temporary.write_bytes(page)
        sheets[name] = {"sha256": sha256_file(folder / f"{name}.html"), "token": token, "trials": len(trials)}
        key[name] = {"seed": seed, "trials": {t.id: _key_entry(t) for t in trials}}
    names = {"a": resolved["a"], "b": resolved["b"]}
    write_json(config.out / "key.json", {"study": study, **names, "items": items | spare, "sheets": key})
    header = {"format": FORMAT, "study": study, "config": resolved, "fingerprint": mark, "items": config.items}
    files = {"sheets": sheets, "key_sha256": sha256_file(config.out / "key.json")}
    write_json(config.out / "study.json", {**header, **files, **code_version()})


def _screen(trial: Trial, sample: Encoded, show_caption: bool) -> dict[str, Any]:
    """What the sheet may know of a trial: neither its kind nor its item nor which side is which."""
    return {
        "id": trial.id,
        "block": trial.block,
        "left": sample.uris[trial.left],
        "right": sample.uris[trial.right],
        "map": sample.uris.get("map"),
        "caption": sample.caption if show_caption else None,
    }


def _key_entry(trial: Trial) -> dict[str, Any]:
    return {"block": trial.block, "kind": trial.kind, "item": trial.item, "left": trial.left, "right": trial.right}
