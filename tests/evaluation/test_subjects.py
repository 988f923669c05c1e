from __future__ import annotations

import pytest

from evaluation.subjects import Subject, plain_name
from pipeline.contract.errors import CnlabError


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (Subject("control", "run-1"), "run-1"),
        (Subject("shuffled", "run-1"), "run-1/shuffled"),
        (Subject("prior", "run-1"), "run-1/prior"),
        (Subject("control", "control:canny+palette"), "control:canny+palette"),
        (Subject("prior", "model:sd-1.5"), "model:sd-1.5/prior"),
        (Subject("folder", "folder:pictures"), "folder:pictures"),
        (Subject("real"), "real"),
        (Subject("autoencoder"), "real/vae"),
    ],
)
def test_a_subject_is_written_once_and_read_back(subject: Subject, text: str) -> None:
    assert str(subject) == text
    assert Subject.parse(text) == subject


@pytest.mark.parametrize("text", ["", "../x", "run/depth", "run/", "a b", "control:/x", "folder:"])
def test_what_is_no_subject_is_refused(text: str) -> None:
    if text == "run/":
        assert Subject.parse(text) == Subject("control", "run")
        return
    with pytest.raises(CnlabError, match="is no subject"):
        Subject.parse(text)


def test_names_of_paths_and_hubs() -> None:
    assert plain_name("lllyasviel/control_v11p_sd15_canny") == "control_v11p_sd15_canny"
    assert plain_name("/a/b c (1)/") == "b-c-1"
    assert plain_name("/") == "unnamed"
