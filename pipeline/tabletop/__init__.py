"""Procedural still lifes with true captions and exact depth, normal and segmentation maps."""

from pipeline.tabletop.render import Render, render
from pipeline.tabletop.scene import Scene, sample_scene

__all__ = ["Render", "Scene", "render", "sample_scene"]
