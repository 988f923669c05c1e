from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics.sets import copied_share, geometry_estimates, set_estimates, set_names

LITE0, FID = ("fd_lite0", "kid_lite0"), ("fid", "kid")


def test_every_measure_of_two_sets_has_a_name_and_a_direction() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 12, 4))
    names = set_names(LITE0)
    geometry = geometry_estimates(LITE0, x)
    assert set(geometry) == {"effective_rank_lite0", "spacing_lite0"} == {k for k, up in names.items() if up is None}
    assert 1 < geometry["effective_rank_lite0"].value <= 4
    assert geometry_estimates(LITE0, x[:5]) == {}
    assert set(set_estimates(LITE0, x, y)) | set(geometry) == set(names) - {"copied_lite0"}
    assert set(set_estimates(LITE0, x[:4], y)) == {"fd_lite0", "kid_lite0", "mind_lite0"}  # too few for 5 neighbours
    assert [name for name, higher in set_names(FID).items() if higher] == [
        "precision_inception", "recall_inception", "density_inception", "coverage_inception",
    ]  # fmt: skip


def test_copying_is_a_half_where_nothing_is_copied_although_each_picture_is_like_its_sample() -> None:
    rng = np.random.default_rng(1)
    unseen, training = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    pictures = unseen + 0.01 * rng.normal(size=unseen.shape)  # they follow their maps
    nothing = copied_share(pictures, training, unseen)
    assert nothing.low is not None and nothing.high is not None and nothing.low < 0.5 < nothing.high
    assert copied_share(training + 0.01, training, unseen).value > 0.9
    few = copied_share(pictures, training[:4], unseen)  # a small training set: pools of four
    assert few.value == pytest.approx(0.5, abs=0.08)
