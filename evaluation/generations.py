"""The folder ``results/generations``: the one writer and reader of generated pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Executor, Future, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.samples import EvalSet, Indices
from evaluation.subjects import Subject
from pipeline.conditions.inpaint import signed_map
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json, remove_parts, write_json
from pipeline.contract.identity import canonical, fingerprint
from pipeline.contract.pictures import Picture, Pictures, read_picture, stack_images, write_picture
from trainer.run_folder import feeds_signed

if TYPE_CHECKING:
    from evaluation.sampling import Painter, Recipe

REQUEST, MANIFEST = "request.json", "manifest.json"


def file_of(key: str, group: int) -> str:
    """KEY-GROUP.png, KEY being 16 hex digits of sha256(key)."""
    return f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}-{group}.png"


@dataclass(frozen=True)
class Order:
    """Pictures to be made; picklable, so that another process can make a part of them.

    ``identity`` is what decides their pixels. How many samples and groups are asked for is no part of it: a folder
    grows.
    """

    folder: Path
    identity: dict[str, Any]
    dataset: Path
    conditions: tuple[str, ...]
    arm: str
    model: str
    controls: tuple[str, ...]
    recipe: Recipe
    device: str
    count: int
    groups: tuple[int, ...]

    def eval_set(self) -> EvalSet:
        """The samples whose pictures are made."""
        return _eval_set(self.dataset, self.conditions, self.count)

    def missing(self) -> list[tuple[int, int]]:
        """(group, block) of which a picture is not there."""
        samples, block = self.eval_set(), self.recipe.block
        return [
            (group, start // block)
            for group in self.groups
            for start in range(0, len(samples), block)
            if any(not (self.folder / file_of(k, group)).exists() for k in samples.keys[start : start + block])
        ]


@lru_cache(maxsize=2)
def _eval_set(dataset: Path, conditions: tuple[str, ...], count: int) -> EvalSet:
    return EvalSet(dataset, conditions, count)


@lru_cache(maxsize=1)
def load_painter(model: str, controls: tuple[str, ...], recipe: Recipe, device: str) -> Painter:
    """The pipeline that paints; the last one stays in memory."""
    from evaluation.sampling import Painter

    return Painter(model, controls, recipe, device)


def paint_block(order: Order, group: int, block: int) -> int:
    """Paint a block and write those of its pictures that are not there; returns how many."""
    samples, size = order.eval_set(), order.recipe.block
    own = np.arange(block * size, min((block + 1) * size, len(samples)))
    painter = load_painter(order.model, order.controls, order.recipe, order.device)
    from evaluation.threads import one_thread  # torch, which readers do without

    with one_thread(order.device):
        pictures = painter(_prompts(order, own), _maps(order, own), _seeds(samples, own, group), samples.size)
    written = 0
    for index, picture in zip(own, pictures, strict=True):
        path = order.folder / file_of(samples.keys[index], group)
        if not path.exists():
            write_picture(path, picture)
            written += 1
    return written


def _seeds(samples: EvalSet, own: Indices, group: int) -> list[int]:
    from evaluation.sampling import seed_of

    return [seed_of(samples.keys[index], group) for index in own]


def _prompts(order: Order, own: Indices) -> list[str]:
    from evaluation.sampling import INSUFFICIENT

    samples, mode = order.eval_set(), order.recipe.prompt
    if mode == "conflicting":
        rows = samples.dataset.take(samples.split, ["text"], samples.other[own].tolist())
        return [str(text) for text in rows["text"].to_pylist()]
    fixed = {"none": "", "insufficient": INSUFFICIENT}
    return [fixed.get(mode, samples.texts[index]) for index in own]


def _maps(order: Order, own: Indices) -> list[NDArray[Any]]:
    if order.arm == "prior":
        return []
    samples = order.eval_set()
    rows = samples.other[own] if order.arm == "shuffled" else own
    pairs = zip(order.conditions, order.controls, strict=False)
    maps = [(samples.maps(name, rows)[0], feeds_signed(control, name)) for name, control in pairs]
    return [signed_map(own_maps) if signed else own_maps for own_maps, signed in maps]


def generate(order: Order, subject: Subject, executor: Executor | None = None) -> int:
    """Make what ``order`` asks for and its folder lacks; returns how many pictures were made.

    Pictures are placed one by one, the manifest after the last: stopped anywhere, the same call goes on. A folder of
    another identity is refused.
    """
    from tqdm import tqdm

    with lock_folder(order.folder):
        if _complete(order, subject):
            return 0
        _claim(order)
        remove_parts(order.folder)
        todo, total = order.missing(), 0
        with tqdm(total=len(todo), desc=str(subject), unit="block", disable=not todo) as bar:
            if executor is None:
                for group, block in todo:
                    total += paint_block(order, group, block)
                    bar.update()
            else:
                futures: list[Future[int]] = [executor.submit(paint_block, order, *part) for part in todo]
                for future in as_completed(futures):
                    total += future.result()
                    bar.update()
        write_json(order.folder / MANIFEST, _manifest(order, subject))
        return total


def _claim(order: Order) -> None:
    """Write the request, or refuse a folder that holds pictures of another identity."""
    path, expected = order.folder / REQUEST, fingerprint(order.identity)
    if not path.exists():
        write_json(path, {**order.identity, "fingerprint": expected})
        return
    there = read_json(path)
    if there.get("fingerprint") != expected:
        own = order.identity
        names = [key for key in {**there, **own} if canonical(there.get(key)) != canonical(own.get(key))]
        differ = ", ".join(sorted(set(names) - {"fingerprint"}))
        raise CnlabError(
            f"{order.folder} holds pictures of another configuration ({differ} differ); delete that folder"
        )


def _complete(order: Order, subject: Subject) -> bool:
    path = order.folder / MANIFEST
    if not path.exists():
        return False
    manifest = read_json(path)
    listed = {(entry["key"], entry["group"]) for entry in manifest["images"]}
    requested = {(key, group) for key in order.eval_set().keys for group in order.groups}
    same = manifest.get("fingerprint") == fingerprint(order.identity)
    return same and requested <= listed and str(subject) in manifest["subjects"]


def _manifest(order: Order, subject: Subject) -> dict[str, Any]:
    """Everything that is there: of this order and of earlier ones into the same folder."""
    samples, path = order.eval_set(), order.folder / MANIFEST
    before = read_json(path) if path.exists() else {"images": [], "subjects": []}
    whole = samples.dataset.table(samples.split, ["key"])["key"].to_pylist()
    used = {"control": range(len(samples)), "shuffled": samples.other.tolist()}.get(order.arm)
    images = [
        {
            "file": file_of(key, group),
            "key": key,
            "text": text,
            "map_key": None if used is None else whole[used[i]],
            "group": group,
            "seed": _seeds(samples, np.array([i]), group)[0],
        }
        for group in order.groups
        for i, (key, text) in enumerate(zip(samples.keys, _prompts(order, np.arange(len(samples))), strict=True))
    ]
    own = {entry["file"] for entry in images}
    return {
        "fingerprint": fingerprint(order.identity),
        "subjects": sorted({*before["subjects"], str(subject)}),
        "dataset": samples.name,
        "arm": order.arm,
        "recipe": order.recipe.label,
        "images": images + [entry for entry in before["images"] if entry["file"] not in own],
        "config": order.identity,
    }


def order_for(
    results: Path, subject: Subject, samples: EvalSet, nets: dict[str, Any], recipe: Recipe, device: str
) -> Order:
    """The order of a subject's pictures, without count and groups: `asking` adds those.

    ``nets``: ``model`` (path or hub name), ``model_label``, ``controls`` (paths) and ``weights`` (their identities).
    The prior's pictures need no map, so they are the same for every run on that model and lie in one folder.
    """
    alone = subject.arm == "prior"
    identity = {
        "arm": subject.arm,
        "model": nets["model_label"],
        "controls": [] if alone else nets["weights"],
        "conditions": [] if alone else list(samples.conditions),
        "eval": samples.fingerprint,
        "recipe": asdict(_without_control(recipe) if alone else recipe),
    }
    place = f"{recipe.name}-{fingerprint(identity)[:12]}"
    owner = "prior/" + nets["model_label"].replace("/", "--") if alone else f"{_folder(subject.name)}/{subject.arm}"
    return Order(
        results / "generations" / owner / place,
        identity,
        samples.folder,
        samples.conditions,
        subject.arm,
        nets["model"],
        () if alone else tuple(map(str, nets["controls"])),
        _without_control(recipe) if alone else recipe,
        device,
        len(samples),
        (0,),
    )


def _without_control(recipe: Recipe) -> Recipe:
    """What of a recipe matters to the prior alone: neither strength nor weighting of a ControlNet."""
    return replace(recipe, strength=(1.0,), weighting="both")


def _folder(name: str) -> str:
    return name.replace(":", "-")


@dataclass(frozen=True)
class Generated:
    """A folder of generated pictures that is complete, as its manifest lists it."""

    subject: str
    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the pictures."""
        return str(self.manifest["fingerprint"])

    @property
    def recipe(self) -> str:
        """Label of the recipe."""
        return _recipe_label(self.manifest)

    @property
    def images(self) -> dict[str, str]:
        """File name -> sample key."""
        return {entry["file"]: entry["key"] for entry in self.manifest["images"]}

    def path(self, file: str) -> Path:
        """A picture's place; the name comes from the manifest, so it is kept inside the folder."""
        return self.folder / Path(file).name

    @cached_property
    def _files(self) -> dict[tuple[str, int], str]:
        return {(entry["key"], entry["group"]): entry["file"] for entry in self.manifest["images"]}

    def picture(self, key: str, group: int) -> Picture:
        """One picture, (H, W, 3) uint8; raises CnlabError when the manifest does not list it."""
        if (key, group) not in self._files:
            raise CnlabError(f"{self.folder} has no picture of {key!r} in group {group}; evaluate with more --images")
        return read_picture(self.path(self._files[key, group]))

    def pictures(self, keys: list[str], group: int) -> Pictures:
        """Pictures of one group in the order of ``keys``, (B, H, W, 3) uint8."""
        return stack_images([self.picture(key, group) for key in keys], str(self.folder), 1)


def open_generated(order: Order, subject: Subject) -> Generated:
    """The pictures that an order asked for; raises CnlabError when they are not complete."""
    return Generated(str(subject), order.folder, _read_manifest(order.folder / MANIFEST))


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest with the fields that readers need; raises CnlabError naming a damaged one."""
    manifest = read_json(path)
    try:
        for entry in manifest["images"]:
            if Path(str(entry["file"])).name != str(entry["file"]):
                raise CnlabError(f"{path} names {entry['file']!r}, which is no plain file name")
            str(entry["key"]), int(entry["group"])
        str(manifest["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise CnlabError(f"{path} lacks {error}; delete the folder and evaluate again") from error
    return dict(manifest)


def find_generated(results: Path, name: str, recipe: str = "") -> Generated:
    """The complete pictures of the subject written ``name`` (``RUN``, ``RUN/prior`` ...), for readers of other stages.

    Raises CnlabError when there are none, or several recipes or eval sets and ``recipe`` (a label) names none of them.
    """
    subject = str(Subject.parse(name))
    there = [each for each in _all_of(results, subject) if not recipe or each.recipe == recipe]
    if not there:
        by = f" by {recipe}" if recipe else ""
        raise CnlabError(f"{results / 'generations'} holds no complete pictures of {subject}{by}; evaluate it first")
    if len(there) > 1:
        choices = "; ".join(f"{each.recipe} on {each.manifest['dataset']}" for each in there)
        raise CnlabError(
            f"{subject} has pictures by several recipes or on several datasets ({choices}); name the recipe"
        )
    return there[0]


def _all_of(results: Path, subject: str) -> list[Generated]:
    return [Generated(subject, path.parent, m) for path, m in _manifests(results) if subject in _subjects(m)]


def _manifests(results: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((results / "generations").glob(f"**/{MANIFEST}")):
        yield path, _read_manifest(path)


def _subjects(manifest: dict[str, Any]) -> list[str]:
    """Subjects that a manifest serves; one of commit 084dc56 names a run and an arm."""
    if "subjects" in manifest:
        return [str(each) for each in manifest["subjects"]]
    run, arm = manifest.get("run", ""), manifest.get("arm")
    return [str(run) if arm == "control" else f"{run}/{arm}"]


def _recipe_label(manifest: dict[str, Any]) -> str:
    """The column ``recipe``; of a manifest of commit 084dc56 from its settings, which had no name."""
    from evaluation.sampling import make_recipe

    if "recipe" in manifest:
        return str(manifest["recipe"])
    settings = manifest.get("config", {}).get("recipe", {})
    return make_recipe("tabletop", {**settings, "block": 16}).label


def describe_generated(results: Path) -> dict[str, dict[str, str]]:
    """Subject -> columns ``model`` and ``recipe``, of pictures of commit 084dc56, for the rows of its table."""
    columns: dict[str, dict[str, str]] = {}
    for _, manifest in _manifests(results):
        if "subjects" not in manifest:
            model = manifest.get("config", {}).get("model")
            label = model.get("sha256", "")[:12] if isinstance(model, dict) else str(model or "")
            own = {"recipe": _recipe_label(manifest), **({"model": label} if label else {})}
            columns |= {subject: own for subject in _subjects(manifest)}
    return columns
