"""The field's smoke test, drawn by rule: a coloured disc on a coloured ground, its outline as the map.

After lllyasviel's Fill50K (ControlNet, docs/train.md): 50,000 pairs, "burly wood circle with orange background". Drawn
anew here, nothing is downloaded; colours are CSS's, named as people say them.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import ImageColor

from pipeline.conditions.base import sample_rng
from pipeline.contract.identity import fingerprint
from pipeline.sources.base import Raw

COUNT = 50_000
RULES = 1  # raised when pictures or captions change
CONTRAST = 40.0  # grey levels (ITU-R BT.601) between disc and ground, at least: Canny sees every edge
LUMA = (0.299, 0.587, 0.114)
SHIFT = 4  # bits behind the point of OpenCV's coordinates
COLOURS = """
alice blue, antique white, aqua, aquamarine, azure, beige, bisque, black, blanched almond, blue, blue violet, brown,
burly wood, cadet blue, chartreuse, chocolate, coral, cornflower blue, cornsilk, crimson, dark blue, dark cyan,
dark goldenrod, dark gray, dark green, dark khaki, dark magenta, dark olive green, dark orange, dark orchid, dark red,
dark salmon, dark sea green, dark slate blue, dark slate gray, dark turquoise, dark violet, deep pink, deep sky blue,
dim gray, dodger blue, firebrick, floral white, forest green, fuchsia, gainsboro, ghost white, gold, goldenrod, gray,
green, green yellow, honeydew, hot pink, indian red, indigo, ivory, khaki, lavender, lavender blush, lawn green,
lemon chiffon, light blue, light coral, light cyan, light goldenrod yellow, light green, light gray, light pink,
light salmon, light sea green, light sky blue, light slate gray, light steel blue, light yellow, lime, lime green,
linen, maroon, medium aquamarine, medium blue, medium orchid, medium purple, medium sea green, medium slate blue,
medium spring green, medium turquoise, medium violet red, midnight blue, mint cream, misty rose, moccasin,
navajo white, navy, old lace, olive, olive drab, orange, orange red, orchid, pale goldenrod, pale green,
pale turquoise, pale violet red, papaya whip, peach puff, peru, pink, plum, powder blue, purple, red, rosy brown,
royal blue, saddle brown, salmon, sandy brown, sea green, sea shell, sienna, silver, sky blue, slate blue, slate gray,
snow, spring green, steel blue, tan, teal, thistle, tomato, turquoise, violet, wheat, white, white smoke, yellow,
yellow green
"""
PALETTE = {name: ImageColor.getrgb(name.replace(" ", ""))[:3] for name in " ".join(COLOURS.split()).split(", ")}


class Fill50k:
    """World ``seed``: sample i is a pure function of (seed, i)."""

    notes: tuple[str, ...] = ()
    own_maps: tuple[str, ...] = ("circle",)

    def __init__(self, seed: int, image_size: int) -> None:
        self.seed, self.image_size = seed, image_size

    def keys(self) -> list[str]:
        """``fill50k-SEED-INDEX``."""
        return [f"fill50k-{self.seed}-{i:05d}" for i in range(COUNT)]

    def fingerprint(self) -> str:
        """Of the rules."""
        return fingerprint({"fill50k": RULES, "seed": self.seed, "count": COUNT})

    def load(self, key: str) -> Raw:
        """Draw one pair.

        Radius 1/12 ... 1/4 of the side, the whole circle in the picture; the outline is 1/128 of the side thick.
        """
        rng, size = sample_rng(self.seed, "fill50k", key), self.image_size
        names = list(PALETTE)
        disc, ground = rng.choice(len(names), 2, replace=False)
        while abs(np.subtract(PALETTE[names[disc]], PALETTE[names[ground]]) @ LUMA) < CONTRAST:
            disc, ground = rng.choice(len(names), 2, replace=False)
        radius = size * float(rng.uniform(1 / 12, 1 / 4))
        x, y = rng.uniform(radius + 1, size - radius - 1, 2)
        place, reach = (round(float(x) * 2**SHIFT), round(float(y) * 2**SHIFT)), round(radius * 2**SHIFT)
        image = np.full((size, size, 3), PALETTE[names[ground]], np.uint8)
        cv2.circle(image, place, reach, PALETTE[names[disc]], cv2.FILLED, cv2.LINE_AA, SHIFT)
        outline = np.zeros((size, size, 3), np.uint8)
        cv2.circle(outline, place, reach, (255, 255, 255), max(1, round(size / 128)), cv2.LINE_AA, SHIFT)
        caption = f"{names[disc]} circle with {names[ground]} background"
        return Raw(key, image, {"template": caption}, size, size, {"circle": outline})
