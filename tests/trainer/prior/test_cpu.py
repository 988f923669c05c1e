"""What the recipes do to be fast on a CPU changes no function."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from trainer.prior import cpu
from trainer.prior.models import build_unet, build_vae


def test_plain_attention_is_the_same_function_in_transformers() -> None:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=50,
        max_position_embeddings=12, eos_token_id=49,
    )  # fmt: skip
    model = CLIPTextModel(config).eval()
    ids = torch.randint(0, 49, (3, 12))
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, 7:] = 0
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).last_hidden_state
        cpu.use_plain_attention(model)
        after = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert model.config._attn_implementation == cpu.PLAIN
    assert torch.allclose(before, after, atol=1e-5)
    changed = ids.clone()
    changed[:, -1] = 3
    with torch.no_grad():
        assert torch.equal(
            model(input_ids=changed).last_hidden_state[:, :-1], model(input_ids=ids).last_hidden_state[:, :-1]
        )


def test_plain_attention_is_the_same_function_in_diffusers() -> None:
    torch.manual_seed(0)
    unet, vae = build_unet().eval(), build_vae().eval()
    x, text = torch.randn(2, unet.config.in_channels, 16, 16), torch.randn(2, 32, 128)
    with torch.no_grad():
        before = unet(x, torch.tensor([3, 700]), text).sample, vae.decode(x).sample
        for model in (unet, vae):
            cpu.use_plain_attention(model)
        after = unet(x, torch.tensor([3, 700]), text).sample, vae.decode(x).sample
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("native", [True, False])
def test_products_are_bf16_only_where_the_cpu_has_them(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    with cpu.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert not cpu.has_bf16()
