"""Screening: each check returns a reason or passes; nothing is dropped in silence."""

from pipeline.screen.captions import screen_caption
from pipeline.screen.images import FIGURES, figures, screen_image, screen_raw
from pipeline.screen.maps import screen_map

__all__ = ["FIGURES", "figures", "screen_caption", "screen_image", "screen_map", "screen_raw"]
