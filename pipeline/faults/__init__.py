"""Known damage: one fault, one file. What each does to a row, and to how many, is recorded in the row."""

from __future__ import annotations

from pipeline.faults.base import Fault, Neighbours, Sample, threshold
from pipeline.faults.blurred import Blurred
from pipeline.faults.dropped_caption import DroppedCaption
from pipeline.faults.erased_map import ErasedMap
from pipeline.faults.greyscale import Greyscale
from pipeline.faults.jpeg import Jpeg
from pipeline.faults.near_duplicate import NearDuplicate
from pipeline.faults.noisy_map import NoisyMap
from pipeline.faults.other_thresholds import OtherThresholds
from pipeline.faults.shifted_map import ShiftedMap
from pipeline.faults.swapped_words import SwappedWords
from pipeline.faults.wrong_caption import WrongCaption
from pipeline.faults.wrong_map import WrongMap

__all__ = ["FAULTS", "Fault", "Neighbours", "Sample", "threshold"]

#: Name -> fault, in the order in which several are applied to one row: pictures (extracted maps follow them), then
#: maps, then captions.
FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        NearDuplicate(), Greyscale(), Blurred(), Jpeg(),
        OtherThresholds(), WrongMap(), ShiftedMap(), NoisyMap(), ErasedMap(),
        WrongCaption(), SwappedWords(), DroppedCaption(),
    )
}  # fmt: skip
