"""The base model as people have it: a diffusers folder, a hub name at a commit, or one file; with another VAE.

Whatever it is becomes one plain folder in diffusers' layout, which training, evaluation and transfer read alike. What
is not such a folder by itself is put together once, in the user's cache, under its identity.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.files import read_json
from pipeline.contract.hub import NAMES, require_hub
from pipeline.contract.models import weights_identity
from trainer.nets.model_cache import cache_entry, sole_maker

WEIGHTS = Path(__file__).parents[1] / "prior" / "weights"  # what ships with the package
SINGLE = (".safetensors", ".ckpt")
KEPT = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


@dataclass(frozen=True)
class BaseOptions:
    """What else decides the base model, beside ``--model``."""

    vae: str = ""
    """Another autoencoder: a folder, a hub name or one .safetensors file."""
    weights_variant: str = ""
    """Of the files of weights, as fp16 in model.fp16.safetensors."""
    revision: str = ""
    """Of a hub model: branch, tag or commit."""
    single_file_config: str = ""
    """For a model in one file: folder or hub name of a model of its kind, whose configurations and tokenizer it has.
    Left open: told from the file and fetched from the hub."""

    @property
    def chosen(self) -> dict[str, str]:
        """Those that are not left open."""
        return {name: value for name, value in asdict(self).items() if value}


PLAIN = BaseOptions()


def is_hub(name: str) -> bool:
    """Whether ``name`` names a model on a hub: it is neither the shipped one nor at hand."""
    return bool(name) and name != "tabletop" and not Path(name).exists()


def hub_commit(name: str, revision: str = "") -> str:
    """The commit that a hub name stands for, by the hub or, where that cannot be reached, by its cache; "" for none."""
    if not NAMES["model"].fullmatch(name) or Path(name).suffix in SINGLE:
        return ""
    require_hub(name, "model", "give a local folder or file with --model")
    from huggingface_hub import hf_hub_download

    for file in ("model_index.json", "config.json"):
        try:
            return Path(hf_hub_download(name, file, revision=revision or None)).parent.name
        except (OSError, ValueError):
            continue
    return ""


def model_identity(name: str, options: BaseOptions = PLAIN) -> str:
    """What identifies a base model wherever it lies.

    A folder or file: sha256 over its weights and configurations. A hub name: with its commit. Another autoencoder, the
    weights' variant and the configuration of a single file are part of it. "" for none.
    """
    if is_hub(name):
        commit = hub_commit(name, options.revision)
        own = f"hub:{name}@{commit}" if commit else f"hub:{name}"
    else:
        own = weights_identity(str(WEIGHTS / "tabletop-sd") if name == "tabletop" else name)
    further = {key: value for key, value in options.chosen.items() if key != "revision"}
    for key in ("vae", "single_file_config"):
        if key in further:
            further[key] = model_identity(further[key])
    return " ".join([own, *(f"{key}:{value}" for key, value in sorted(further.items()))])


def model_record(name: str, options: BaseOptions, identity: str) -> dict[str, str]:
    """What a run records of its base model; ``revision`` is the commit of a hub model."""
    commit = identity.split(" ")[0].partition("@")[2] if is_hub(name) else ""
    return {"path": name, "sha256": identity, **options.chosen, **({"revision": commit} if commit else {})}


def options_of(record: Any) -> BaseOptions:
    """The options in a `model_record`, pinned to its commit."""
    known = {f.name for f in fields(BaseOptions)}
    return BaseOptions(**{k: str(v) for k, v in record.items() if k in known}) if isinstance(record, dict) else PLAIN


def model_folder(name: str, options: BaseOptions = PLAIN, configs_only: bool = False) -> str:
    """The base model as a plain folder in diffusers' layout.

    ``tabletop`` is the shipped one. ``configs_only``: of a hub model the configurations are enough. Raises CnlabError.
    """
    if name == "tabletop":
        return _checked(str(WEIGHTS / "tabletop-sd"), options)
    with _one_line(name):
        if is_hub(name):
            source = _downloaded(name, options, configs_only)
        else:
            source = name if Path(name).is_dir() else _converted(name, options)
    return _checked(source, options) if configs_only else _composed(name, source, options)


def _checked(source: str, options: BaseOptions) -> str:
    if options.chosen and Path(source).is_relative_to(WEIGHTS):
        names = ", ".join(f"--{key.replace('_', '-')}" for key in options.chosen)
        raise CnlabError(f"{names}: not for the shipped model; name another --model")
    return source


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that are not used here
            yield
    except CnlabError:
        raise
    except Exception as error:  # files of others and unreachable hubs raise nearly anything
        raise CnlabError(
            f"model {name!r} is neither a diffusers folder, a single file nor reachable on the hub: {first_line(error)}"
        ) from error


def _downloaded(name: str, options: BaseOptions, configs_only: bool) -> str:
    """The snapshot of a hub model's commit in the hub's own cache."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    if Path(name).suffix in SINGLE:
        raise CnlabError(f"model {name!r}: there is no such file")
    revision = hub_commit(name, options.revision) or options.revision or None
    if configs_only:
        return str(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.txt"]))
    return str(
        DiffusionPipeline.download(
            name,
            revision=revision,
            variant=options.weights_variant or None,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
        )
    )


def _converted(name: str, options: BaseOptions) -> str:
    """A model in one file (``.safetensors``, ``.ckpt``; SD 1.x, 2.x, SDXL), brought into diffusers' layout once."""
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    path = Path(name)
    if path.suffix not in SINGLE:
        raise CnlabError(f"model {name!r} is neither a folder nor a {' or '.join(SINGLE)} file")
    config = options.single_file_config
    folder = cache_entry({"file": weights_identity(name), "config": model_identity(config)})
    with sole_maker(folder, name, {"single_file_config": config}) as part:
        if part is None:
            return str(folder)
        if config == "tabletop":
            config = str(WEIGHTS / "tabletop-sd")
        if not config:
            config = fetch_diffusers_config(load_single_file_checkpoint(name))["pretrained_model_name_or_path"]
            if config.endswith("stable-diffusion-2-1"):  # what diffusers takes every SD 2.x file for
                raise CnlabError(
                    f"model {name!r}: an SD 2.x file does not say whether it predicts velocity (768 px) or noise (base "
                    f"models, 512 px); say it with --single-file-config {config}, the same with -base at its end, or "
                    "a folder of the same kind of model"
                )
        try:
            xl = "text_encoder_2" in DiffusionPipeline.load_config(config)
        except OSError as error:
            raise CnlabError(
                f"model {name!r}: the configuration of {config} cannot be had ({first_line(error)}); give a folder in "
                "diffusers' layout of the same kind of model with --single-file-config"
            ) from error
        kind: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
        further = {} if xl else {"safety_checker": None}
        print(f"bringing {name} into diffusers' layout, once", flush=True)
        pipe = kind.from_single_file(name, config=config, local_files_only=Path(config).is_dir(), **further)
        pipe.save_pretrained(part, safe_serialization=True)
    return str(folder)


def _composed(name: str, source: str, options: BaseOptions) -> str:
    """``source`` with another autoencoder, or with the files of a variant under their usual names: links, mostly."""
    variant = options.weights_variant
    if not variant and not options.vae:
        return source
    folder = cache_entry({"model": model_identity(name, options)})
    with sole_maker(folder, name, options.chosen) as part:
        if part is None:
            return str(folder)
        for sub in (s for s in KEPT if (Path(source) / s).is_dir()):
            if sub == "vae" and options.vae:
                with _one_line(options.vae):
                    _load_vae(options.vae, source).save_pretrained(part / "vae")
                continue
            (part / sub).mkdir()
            _link_files(Path(source) / sub, part / sub, variant)
        (part / "model_index.json").write_bytes((Path(source) / "model_index.json").read_bytes())
    return str(folder)


def _link_files(source: Path, folder: Path, variant: str) -> None:
    """Link a part's files, weights of ``variant`` under the usual name; raises CnlabError where it has none."""
    infix = f".{variant}." if variant else ""
    weights = sorted(source.glob("*.safetensors"))
    chosen = [file for file in weights if not infix or infix in file.name]
    if weights and not chosen:
        names = ", ".join(file.name for file in weights)
        raise CnlabError(f"{source} has no weights of the variant {variant!r} (--weights-variant); it has {names}")
    for file in [*chosen, *(f for f in source.iterdir() if f.is_file() and f.suffix != ".safetensors")]:
        name = file.name.replace(infix, ".") if infix and file in chosen else file.name
        (folder / name).symlink_to(file.resolve())


def _load_vae(name: str, source: str) -> Any:
    """An autoencoder by folder (its own, or a model's), hub name or single file; ``source`` tells a file's layout."""
    from diffusers import AutoencoderKL

    path = Path(name)
    if path.is_file():
        return AutoencoderKL.from_single_file(name, config=source, subfolder="vae", local_files_only=True)
    sub = {"subfolder": "vae"} if (path / "vae" / "config.json").is_file() else {}
    vae = AutoencoderKL.from_pretrained(name, use_safetensors=True, **sub)
    own = read_json(Path(source) / "vae" / "config.json")
    if vae.config.latent_channels != own.get("latent_channels", 4):
        raise CnlabError(
            f"--vae {name}: its latents have {vae.config.latent_channels} channels, the model's "
            f"{own.get('latent_channels', 4)}; take an autoencoder of the model's kind"
        )
    return vae
