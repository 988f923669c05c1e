from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.pictures import decode_image
from pipeline.sources.fill50k import PALETTE, Fill50k


def test_disc_ground_outline_and_caption_agree() -> None:
    source = Fill50k(3, 128)
    keys = source.keys()
    assert len(set(keys)) == 50_000
    for key in keys[::1000]:
        raw = source.load(key)
        disc, _, ground = raw.captions["template"].partition(" circle with ")
        ground = ground.removesuffix(" background")
        lit = raw.maps["circle"][..., 0] > 127
        padded = np.pad(lit.astype(np.uint8), 1)
        cv2.floodFill(padded, np.zeros((132, 132), np.uint8), (0, 0), 1)  # all that lies outside of the outline
        inner = padded[1:-1, 1:-1] == 0
        assert 300 < inner.sum() < 4000
        assert (raw.image[inner] == PALETTE[disc]).all(-1).mean() > 0.97
        outer = ~inner & (cv2.dilate(inner.astype(np.uint8), np.ones((7, 7))) == 0)
        assert (raw.image[outer] == PALETTE[ground]).all()
        assert disc != ground


def test_samples_depend_on_seed_and_key_alone() -> None:
    key = Fill50k(1, 64).keys()[7]
    first, again = Fill50k(1, 64).load(key), Fill50k(1, 64).load(key)
    assert np.array_equal(first.image, again.image)
    assert Fill50k(1, 64).fingerprint() != Fill50k(2, 64).fingerprint()
    assert not np.array_equal(first.image, Fill50k(2, 64).load(Fill50k(2, 64).keys()[7]).image)


def test_the_build_takes_all_of_it_with_given_and_extracted_maps(tmp_path: Path) -> None:
    config = DatasetConfig(
        source="fill50k", size="150", eval_size=20, image_size=64, workers=0, out=tmp_path, name="f",
        condition=("circle", "canny"),
    )  # fmt: skip
    header = build(config)
    assert header["rejects"] == {}
    assert header["counts"] == {"train": 150, "eval": 20}
    row = pq.read_table(tmp_path / "f" / "train-00000.parquet").slice(0, 1).to_pylist()[0]
    assert np.array_equal(decode_image(row["circle"]["bytes"]), Fill50k(1, 64).load(row["key"]).maps["circle"])
