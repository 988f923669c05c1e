"""What a run records while it goes on: log.jsonl, validation.parquet, TensorBoard, a progress bar."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from trainer.run_folder import BOARD, COLUMNS, LOG, VALIDATION, log_lines, read_validation

HOPELESS = 3  # lines of log.jsonl in a row whose loss is no number


class Recorder:
    """Lines and rows past the resumed step are dropped first, so a resumed run leaves what an unbroken one would."""

    def __init__(self, folder: Path, start: int, steps: int, batch: int) -> None:
        """``folder`` of the run, resumed at step ``start`` of ``steps``, ``batch`` images each."""
        self.folder, self.start, self.batch = folder, start, batch
        lines = [line for line in log_lines(folder) if line["step"] <= start]
        with atomic(folder / LOG) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.skipped = int(lines[-1].get("skipped", 0)) if lines else 0  # before this process
        self.validation = read_validation(folder)
        self.validation = self.validation[self.validation["step"] <= start]
        self.board = SummaryWriter(str(folder / BOARD), purge_step=start + 1)
        self.bar: Any = tqdm(total=steps, initial=start, desc="train", unit="step", mininterval=1)
        self.began = time.perf_counter()
        self.aside = 0.0  # seconds spent on anything but training
        self.bad = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile is no training time: ``images_per_second`` leaves it out."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.aside += time.perf_counter() - began

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One line of log.jsonl and its TensorBoard scalars; raises CnlabError when the loss stays no number."""
        rate = (step - self.start) * self.batch / (time.perf_counter() - self.began - self.aside)
        figures = {**figures, "skipped": int(figures["skipped"]) + self.skipped}
        plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}  # JSON has no NaN
        row = {"step": step, "images": step * self.batch, **plain, "images_per_second": round(rate, 2)}
        row["looking_seconds"] = round(self.aside, 2)
        with (self.folder / LOG).open("a") as out:
            out.write(json.dumps(row) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"train/{name}", value, step)
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix(loss=f"{figures['loss']:.4f}", img_s=f"{rate:.1f}")
        self.bad = 0 if math.isfinite(figures["loss"]) else self.bad + 1
        if self.bad >= HOPELESS:
            raise CnlabError(
                f"{self.folder}: the loss is no number since step {step}, {figures['skipped']} steps were skipped; "
                "lower --lr, take another --precision, or look at the data"
            )

    def validate(self, rows: list[dict[str, Any]]) -> None:
        """Rewrite validation.parquet with the new rows of one step."""
        new = pd.DataFrame(rows, columns=list(COLUMNS))
        old = self.validation[self.validation["step"] != new["step"].iloc[0]]
        self.validation = pd.concat([old, new], ignore_index=True) if len(old) else new
        with atomic(self.folder / VALIDATION) as temporary:
            self.validation.to_parquet(temporary, index=False)
        for row in rows:
            self.board.add_scalar(f"validation/{row['metric']}/{row['arm']}", row["value"], row["step"])

    def close(self) -> None:
        """Flush and close."""
        self.bar.close()
        self.board.close()
