"""Condition extractors. One extractor, one file; the same one re-measures generated images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2

from pipeline.conditions.base import Condition, Params, SourceMap
from pipeline.conditions.blur import Blur
from pipeline.conditions.canny import Canny
from pipeline.conditions.depth import Depth
from pipeline.conditions.grey import Grey
from pipeline.conditions.hed import Hed
from pipeline.conditions.inpaint import Inpaint
from pipeline.conditions.lineart import Lineart
from pipeline.conditions.lines import Lines
from pipeline.conditions.mediapipe_face import MediapipeFace
from pipeline.conditions.mlsd import Mlsd
from pipeline.conditions.normal import Normal
from pipeline.conditions.normalbae import NormalBae
from pipeline.conditions.openpose import OpenPose
from pipeline.conditions.palette import Palette
from pipeline.conditions.pidinet import PidiNet
from pipeline.conditions.scribble import Scribble
from pipeline.conditions.segment import Segment
from pipeline.conditions.shuffle import Shuffle
from pipeline.conditions.softedge import SoftEdge
from pipeline.conditions.tile import Tile
from pipeline.contract.errors import CnlabError

# Intel's primitives inside OpenCV round by where in memory a picture lies: one soft map in 80 came out otherwise
# in another run of the same code. OpenCV's own code is as fast for what is used here.
cv2.ipp.setUseIPP(False)

__all__ = ["REGISTRY", "Condition", "Params", "get_condition", "weight_free"]

WEIGHT_FREE = (Canny, SoftEdge, Lineart, Scribble, Lines, Shuffle, Tile, Blur, Palette, Inpaint, Grey)
WEIGHTED = (Hed, PidiNet, Mlsd, OpenPose, Depth, Normal, NormalBae, Segment, MediapipeFace)


def _without_weights(kind: Callable[[], Condition], weights: str) -> Condition:
    return kind()


#: Name -> constructor. Its argument is where the weights are (folder or hub name), "" for the annotator's default;
#: extractors without weights ignore it.
REGISTRY: dict[str, Callable[[str], Condition]] = {
    **{kind.name: partial(_without_weights, kind) for kind in WEIGHT_FREE},
    **{kind.name: kind for kind in WEIGHTED},
}
#: Names that people look for and that cannot be offered, with what to do instead.
ABSENT = {
    "dwpose": "needs mmpose, mmdet and mmcv, which do not install beside current PyTorch; take 'openpose', or make the "
    "maps elsewhere and give them with the source"
}


def weight_free() -> list[str]:
    """Names of the conditions that need no weights, in the order of the documentation."""
    return [kind.name for kind in WEIGHT_FREE]


def get_condition(name: str, own_maps: tuple[str, ...] = (), weights: str = "") -> Condition:
    """The extractor called ``name``; for a map that comes with the source (``own_maps``) one that only hands it on."""
    if name in own_maps:  # edges drawn by others are stored and screened like our own
        known = next((kind for kind in (*WEIGHT_FREE, *WEIGHTED) if kind.name == name), SourceMap)
        return SourceMap(name, known.binary, known.soft, known.light_on_dark, known.aligned)
    if name in ABSENT:
        raise CnlabError(f"condition {name!r} {ABSENT[name]}")
    if name not in REGISTRY:
        raise CnlabError(f"unknown condition {name!r}; there are {', '.join(sorted({*REGISTRY, *own_maps}))}")
    return REGISTRY[name](weights)
