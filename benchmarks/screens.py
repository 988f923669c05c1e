"""What the screens find of each kind of known damage (`pipeline.faults`), at each dose: a table for docs/datasets.md.

    python -m benchmarks.screens FOLDER ...        # photographs: disjoint crops are taken from them, with Canny edges
    python -m benchmarks.screens                   # renders of the embedded world, with Canny edges and true depth

Every training sample of a clean set is damaged once, and the damaged set goes through the screens as a source of its
own, its maps as maps that came along. Doses are nested, so the samples of a smaller dose are some of these; only
copies, which are looked for among what was there before, are looked for at each dose anew.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.duplicates import crops, rate
from pipeline.build.run import build
from pipeline.build.sample import SampleBuilder
from pipeline.config import BuildPlan, DamageConfig, DatasetConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.text import markdown_table
from pipeline.faults import FAULTS, threshold
from pipeline.screen.duplicates import Index, Signature, judge, reason_of
from pipeline.sources import Rejected
from pipeline.variants.damage import damage

DOSES, SEED, COUNT = (0.1, 0.3, 1.0), 1, 200
Screened = list[tuple[str, Signature | None]]  # (reason, None) of a reject, ("", what it is known by) of a sample


def clean_set(root: Path, folders: list[Path]) -> DatasetConfig:
    """Build it."""
    common: dict[str, Any] = {"out": root, "name": "clean", "workers": 0, "eval_size": 8, "size": str(COUNT)}
    if not folders:
        config = DatasetConfig(condition=("canny", "depth"), **common)
    else:
        (root / "photos").mkdir()
        for number, tile in enumerate(crops(folders)):
            Image.fromarray(tile).save(root / "photos" / f"{number:04d}.png")
            (root / "photos" / f"{number:04d}.txt").write_text(f"picture {number} of a place or an animal, seen nearby")
        config = DatasetConfig(source=f"folder:{root / 'photos'}", eval_share=0.05, **common)
    build(config)
    return config


def screened(folder: Path, clean: BuildPlan) -> Screened:
    """The training samples of a set as candidates, with the thresholds of the clean one."""
    plan = DatasetConfig(
        source=f"parquet:{folder}/train-*.parquet", condition=clean.condition, threshold=clean.limits, out=folder,
        image_format=clean.image_format, duplicates="on",
    ).resolve()  # fmt: skip
    builder = SampleBuilder(plan)
    results: Screened = []
    for rank, key in enumerate(sorted(builder.source.keys())):
        try:
            row = {**builder.row(builder.source.load(key)), "key": key, "rank": rank}
            results.append(("", Signature(**{name: row[name] for name in Signature._fields})))
        except Rejected as error:
            results.append((error.reason, None))
    return results


def reasons_of(chosen: list[bool], sound: Screened, damaged: Screened, limits: dict[str, float]) -> list[str]:
    """Reasons, "" for none, of the ``chosen`` samples, if these are damaged and the others sound."""
    rows = [bad if hit else good for hit, good, bad in zip(chosen, sound, damaged, strict=True)]
    index = Index(int(limits["duplicate_bits"]), int(limits["mirror_bits"]), limits["min_crop_fit"])
    copies = judge(index, [signature for _, signature in rows if signature], set(), "train", len(rows))
    named = {rank: reason_of(twin)[0] for rank, twin in copies.items()}
    return [reason or named.get(rank, "") for rank, (reason, _) in enumerate(rows) if chosen[rank]]


def main(folders: list[Path]) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
        config = clean_set(Path(place), folders)
        plan, triplets = config.resolve(), Triplets(config.folder)
        keys = triplets.table("train", ["key"])["key"].to_pylist()
        sound = screened(config.folder, plan)
        alarms = sum(bool(reason) for reason, _ in sound)
        lines = [["none (false alarms)", str(len(keys)), "", "", rate(alarms, len(keys)), _words(r for r, _ in sound)]]
        for kind, fault in FAULTS.items():
            try:
                fault.check(plan.condition)
            except CnlabError:
                continue
            damage(DamageConfig(config.folder, (f"{kind}=1",), name=kind, seed=SEED))
            faults = Triplets(config.folder.parent / kind).table("train", ["faults"])["faults"].to_pylist()
            hit = [bool(json.loads(text)) for text in faults]
            damaged = screened(config.folder.parent / kind, plan)
            damaged = [bad if h else good for h, good, bad in zip(hit, sound, damaged, strict=True)]
            doses = [[threshold(SEED, kind, key) < dose for key in keys] for dose in DOSES]
            reasons_by_dose = [reasons_of(chosen, sound, damaged, plan.limits) for chosen in doses]
            cells = [rate(sum(map(bool, reasons)), len(reasons)) if reasons else "" for reasons in reasons_by_dose]
            lines.append([f"`{kind}`", str(sum(hit)), *cells, _words(reasons_by_dose[-1])])
            print(lines[-1], flush=True)
    print(markdown_table(["kind", "n", *(f"dose {dose:g}" for dose in DOSES), "reasons at dose 1"], lines))


def _words(reasons: Any) -> str:
    counts = Counter(reason for reason in reasons if reason)
    return ", ".join(f"`{reason}` {count}" for reason, count in counts.most_common(3)) or "–"


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
