from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.samples import EvalSet, split_fingerprint
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.fidelity import other_samples


def test_samples_are_the_first_of_the_split(dataset: Path) -> None:
    assert len(EvalSet(dataset, ["canny"], 1000)) == 6
    first = EvalSet(dataset, ["canny"], 2)
    assert first.keys == ("scene-0", "scene-1")
    assert first.maps("canny", np.array([1]))[1] == [{"low": 61, "high": 151}]
    assert EvalSet(dataset, ["canny"], 2, "train").keys == ("scene-1000", "scene-1001")
    with pytest.raises(CnlabError, match="no condition 'depth'"):
        EvalSet(dataset, ["depth"], 2)


def test_another_samples_map_does_not_depend_on_how_many_are_used(dataset: Path) -> None:
    few, all_of_them = EvalSet(dataset, ["canny"], 2), EvalSet(dataset, ["canny"], 6)
    assert few.other.tolist() == all_of_them.other[:2].tolist()
    assert all_of_them.other.tolist() == other_samples(all_of_them.keys).tolist()


def test_rows_come_in_the_order_asked_for(dataset: Path) -> None:
    samples = EvalSet(dataset, ["canny"], 6)
    whole = samples.images(np.arange(6))
    order = np.array([4, 0, 4, 2])
    assert np.array_equal(samples.images(order), whole[order])
    with pytest.raises(CnlabError, match="sample 6 was asked for"):
        Triplets(dataset).take("eval", ["key"], [0, 6])


def test_a_split_is_known_by_its_header_or_its_shards(dataset: Path) -> None:
    triplets = Triplets(dataset)
    own = split_fingerprint(triplets)
    triplets.header = {**triplets.header, "eval_fingerprint": "abc"}
    assert split_fingerprint(triplets) == "abc" != own
    triplets.header = {**triplets.header, "eval_fingerprint": None, "fingerprint": "another training split"}
    assert split_fingerprint(triplets) == own
