"""What a run takes, told before it starts, and how it is made to fit: micro-batches, caches, the loader's queue."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from trainer.config import Engine, Training
from trainer.data.batches import look_ahead
from trainer.data.cache import cache_folder
from trainer.memory import GIB, Architecture, Plan, architecture_of, gib_line, plan

ENOUGH = 8  # images at once that keep a GPU busy; where fewer fit, activations are recomputed to fit more
CARDS = (12, 16, 24, 40, 80)  # GB of usual GPUs


@dataclass(frozen=True)
class Split:
    """How a rank computes its share of a batch: micro-batches, and whether activations are recomputed."""

    accumulate: int
    engine: tuple[Engine, ...]
    plan: Plan


class Planner:
    """Plans of one run with and without recomputed activations, each made when it is first asked for."""

    def __init__(self, architecture: Architecture, training: Training, size: int) -> None:
        """``size``: of the pictures, in pixels."""
        self.architecture, self.training, self.size = architecture, training, size
        self.plans: dict[tuple[Engine, ...], Plan] = {}

    def of(self, engine: tuple[Engine, ...]) -> Plan:
        """The plan of the run computed by ``engine``."""
        if engine not in self.plans:
            self.plans[engine] = plan(self.architecture, replace(self.training, engine=engine), self.size)
        return self.plans[engine]

    def split(self, capacity: float, world: int = 1) -> Split:
        """As few micro-batches of the batch over ``world`` ranks as fit ``capacity`` bytes.

        Where fewer than `ENOUGH` images fit at once, activations are recomputed in the backward pass (gradient
        checkpointing, which changes no bit) if more fit that way; not with ``compile``. Raises CnlabError with what
        would help when one image alone does not fit.
        """
        training, share = self.training, self.training.batch // world
        engine, frugal = training.engine, (*training.engine, "checkpointing")
        part = self.of(engine).micro_batch(share, capacity)
        if part < min(share, ENOUGH) and not {"checkpointing", "compile"} & set(engine):
            other = self.of(frugal).micro_batch(share, capacity)
            part, engine = (other, frugal) if other > part else (part, engine)
        if part:
            return Split(share // part, engine, self.of(engine))
        ways = {
            "--engine without compile, with checkpointing": "compile" in engine and "checkpointing" not in engine,
            "--precision bf16": training.precision in ("fp32", "tf32"),
            "--optimizer.eight-bit": not training.optimizer.eight_bit,
            "--engine text_cache": "text_cache" not in engine,
        }
        help_ = ", ".join(name for name, helps in ways.items() if helps) or "a smaller model or a larger device"
        needed = min(own.needs(1) for own in self.plans.values()) / GIB
        raise CnlabError(
            f"one image at a time needs {needed:.1f} GiB, the device has {capacity / GIB:.1f}; what lowers that: "
            + help_
        )

    def cards(self) -> list[str]:
        """For people: what the run would do by itself on GPUs of usual sizes."""
        lines = []
        for card in CARDS:
            try:
                own = self.split(card * 1e9)
            except CnlabError:
                lines.append(f"  {card} GB: not one image fits")
                continue
            part = self.training.batch // own.accumulate
            engine = " --engine " + " ".join(own.engine) if own.engine != self.training.engine else ""
            size = f"{part} images at once, {own.plan.needs(part) / GIB:.1f} GiB"
            lines.append(f"  {card} GB: --accumulate {own.accumulate}{engine} ({size})")
        return lines


def step_advice(training: Training, world: int) -> str:
    """Options that make the same run's steps need less: the next larger --accumulate that shares the batch first."""
    share = training.batch // world
    more = [n for n in range(training.accumulate + 1, share + 1) if share % n == 0]
    if more:
        return f"--accumulate {next((n for n in more if n >= 2 * training.accumulate), more[-1])}"
    for name in ("checkpointing", "text_cache"):
        if name not in training.engine:
            return f"--engine {' '.join((*training.engine, name))}"
    return "--device cpu"


def validation_advice(training: Training, begun: bool) -> str:
    """Options that make validations need less. ``begun``: the run has steps, which other pictures would not fit."""
    if "text_cache" not in training.engine:
        engine = " ".join((*training.engine, "text_cache"))
        return f"run the same command with --engine {engine} (what is computed stays the same)"
    samples = "--watch.fidelity-samples 0" if training.watch.fidelity_samples else "--watch.loss-samples 1"
    return (
        f"{'train anew under another --name' if begun else 'run it'} with {samples}, which needs less at a validation"
    )


#: Encoding takes a few pictures at a time, whatever the options of a run are.
ENCODING_ADVICE = (
    "no option makes it need less: end other programs on the device, or encode with --device cpu, stop that once it "
    "trains, and run the same command as before, which finds what was encoded"
)


def forecast(training: Training, triplets: Triplets, settled: bool) -> list[str]:
    """For people: what the run will take. ``settled``: whether the number of micro-batches was asked for."""
    architecture, size = architecture_of(training.model, training.base), triplets.header["image_size"]
    planner, part = Planner(architecture, training, size), training.batch // training.accumulate
    lines = [f"memory of a GPU with micro-batches of {part}:", *planner.of(training.engine).lines(part)]
    if not settled:
        lines += ["left open, --accumulate is as the device allows:", *planner.cards()]
    total = triplets.count("train")
    samples = min(training.subset or total, total)
    latent, text, hint = _sample_bytes(architecture, size)
    cached = "text_cache" in training.engine
    rows = {
        "latents": samples * latent * (2 if training.flip else 1),
        "maps": _column_bytes(triplets, "conditioning_image") * samples // max(total, 1),
        "text states": samples * text if cached else 0,
    }
    step = training.batch * (3 * latent + hint + (2 * text if cached else 0))  # moments, and noise in float32
    folder = cache_folder(triplets.folder, triplets.fingerprint)
    lines += [f"caches on disk, in {folder}:", *(gib_line(name, value) for name, value in rows.items())]
    lines.append("memory of the machine, a rank:")
    try:
        return [*lines, gib_line("batches that wait for a GPU", look_ahead(step).bytes(step))]
    except CnlabError as error:  # too little shared memory on this machine, which need not be the one with the GPU
        return [*lines, f"  note: {error}"]


def _sample_bytes(architecture: Architecture, size: int) -> tuple[int, int, int]:
    """Bytes of one sample's latents and text states (float16), and of its map with three channels."""
    side = size // 2 ** (len(architecture.vae["block_out_channels"]) - 1)
    latent = 2 * 2 * int(architecture.vae.get("latent_channels", 4)) * side**2
    width = architecture.unet["cross_attention_dim"]
    pooled = architecture.unet.get("projection_class_embeddings_input_dim") or 0
    return latent, 2 * (architecture.tokens * int(width) + int(pooled)), 3 * size**2


def _column_bytes(triplets: Triplets, column: str) -> int:
    """Of a column in the train shards, as it lies in them."""
    sizes = []
    for shard in triplets.header["shards"]:
        if shard["split"] == "train":
            file = pq.ParquetFile(triplets.folder / shard["file"]).metadata
            groups = [file.row_group(i).column(k) for i in range(file.num_row_groups) for k in range(file.num_columns)]
            sizes += [part.total_compressed_size for part in groups if part.path_in_schema.startswith(f"{column}.")]
    return sum(sizes)
