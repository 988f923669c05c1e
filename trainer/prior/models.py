"""The tabletop models: sizes and constructors. Classes are those of SD 1.x, only smaller.

`tabletop-clip`  CLIPModel + tokenizer; its text tower is the prior's text encoder, as in SD 1.5.
`tabletop-sd`    AutoencoderKL (f = 8, 8 channels) and UNet2DConditionModel with four levels and two layers a
                 level: 12 encoder blocks and a middle one, hence 13 control outputs (ControlNet, section 3.2).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

IMAGE_SIZE = 128
TOKENS = 32  # captions of three objects take 26
TEXT_WIDTH = 128
LATENT_CHANNELS = 8


def build_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's conventions, trained on ``captions`` so that each of their words is one token.

    Writes the tokenizer's files to ``folder`` and returns it. Any other text still encodes, in bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1024, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    # CLIP's order of ids: 256 bytes, 256 bytes that end a word, merges, then the two specials.
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(m) for m in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    built = CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        model_max_length=TOKENS,
        unk_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    built.save_pretrained(folder)
    return built


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP small enough for two cores: 64 patches of 16 px, 128-wide text."""
    tower = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return CLIPModel(
        CLIPConfig(
            text_config={
                **tower,
                **ids,
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 4 * TEXT_WIDTH,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": TOKENS,
                "pad_token_id": tokenizer.pad_token_id,
                "projection_dim": 128,
            },
            vision_config={
                **tower,
                "hidden_size": 192,
                "intermediate_size": 768,
                "image_size": IMAGE_SIZE,
                "patch_size": 16,
                "projection_dim": 128,
            },
            projection_dim=128,
        )
    )


def build_vae(latent_channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """8x autoencoder with thin full-resolution layers."""
    channels = (16, 32, 64, 96)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def build_unet(latent_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """SD 1.5's block layout at a fraction of its width."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=2,
        block_out_channels=(48, 80, 112, 112),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 2, 4, 4),  # numbers of heads, as in SD's own configs
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """SD's noise schedule (scaled linear, 1000 steps), velocity prediction as in SD 2.x: it settles sooner.

    Rescaled so that the last step is pure noise (Lin et al., 2024): at 16 x 16 latents the mean colour of a picture
    would outshine the noise there (signal to noise 1.5), and a sampler, which starts without it, would miss it.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,  # as in SD 1.x; diffusers warns of 0 though trailing spacing does not use it
        prediction_type="v_prediction",
        timestep_spacing="trailing",  # few-step samplers start at pure noise (Lin et al., 2024, section 3.3)
        rescale_betas_zero_snr=True,
    )


def caption_words(caption: str) -> list[str]:
    """Words and commas of a caption, each of which is one token of `build_tokenizer`'s."""
    return caption.replace(",", " ,").split()


def swapped(caption: str, words: tuple[tuple[str, ...], ...]) -> str:
    """The caption with the first two different words of one kind exchanged; unchanged if there are none.

    Hard negatives after NegCLIP (Yuksekgonul et al., ICLR 2023): they teach which word belongs to which object.
    """
    parts = caption_words(caption)
    for kind in words:
        places = [i for i, w in enumerate(parts) if w in kind]
        for i, j in itertools.combinations(places, 2):
            if parts[i] != parts[j]:
                parts[i], parts[j] = parts[j], parts[i]
                return " ".join(parts).replace(" ,", ",")
    return caption
