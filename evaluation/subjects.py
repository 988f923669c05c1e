"""What is judged: one value object, formatted once (`str`) and parsed once (`Subject.parse`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.contract.errors import CnlabError

Arm = Literal["control", "shuffled", "prior", "folder", "real", "autoencoder"]
#: Arms whose pictures are sampled: with the true map, with another sample's map, without a ControlNet.
SAMPLED: tuple[Arm, ...] = ("control", "shuffled", "prior")
REAL, AUTOENCODER = "real", "real/vae"  # as they stand in the column `run`
NAME = re.compile(r"(?:(?:control|model|folder):)?[A-Za-z0-9_][A-Za-z0-9._+-]*")
UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Subject:
    """An arm of a net, a prior, a folder of pictures, real pictures, or real ones through the autoencoder.

    Written as it stands in the column ``run`` of the results:

    ======================  ==========================================================
    ``RUN``                 a run's ControlNet with the true maps (arm ``control``)
    ``RUN/shuffled``        the same with another sample's maps
    ``RUN/prior``           the run's base model without a ControlNet
    ``control:NAME[/ARM]``  a ControlNet that no run of ours made, and its arms
    ``model:NAME/prior``    a base model alone
    ``folder:NAME``         pictures of unknown origin
    ``real``, ``real/vae``  real pictures, real ones through the base model's autoencoder
    ======================  ==========================================================
    """

    arm: Arm
    name: str = ""  # RUN, control:NAME, model:NAME or folder:NAME; "" for real pictures

    def __str__(self) -> str:
        if self.arm == "real":
            return REAL
        if self.arm == "autoencoder":
            return AUTOENCODER
        return self.name if self.arm in ("control", "folder") else f"{self.name}/{self.arm}"

    @classmethod
    def parse(cls, text: str) -> Subject:
        """The subject that `str` wrote as ``text``; raises CnlabError for anything else."""
        if text in (REAL, AUTOENCODER):
            return cls("real" if text == REAL else "autoencoder")
        name, _, tail = text.partition("/")
        if not NAME.fullmatch(name) or tail not in ("", "control", "shuffled", "prior"):
            raise CnlabError(
                f"{text!r} is no subject; write RUN, RUN/shuffled, RUN/prior, control:NAME, folder:NAME, real"
            )
        if name.startswith("folder:"):
            return cls("folder", name)
        arm: Arm = "shuffled" if tail == "shuffled" else "prior" if tail == "prior" else "control"
        return cls(arm, name)

    @property
    def sampled(self) -> bool:
        """Its pictures are made by `evaluation.generations`."""
        return self.arm in SAMPLED


def plain_name(where: str) -> str:
    """Last part of a path or hub name, of characters that a subject's name may have."""
    return UNSAFE.sub("-", Path(where.rstrip("/")).name).strip("-.") or "unnamed"
