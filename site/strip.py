"""Draw the strip at the top of the README and of the home page: `python site/strip.py`."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as fn
from PIL import Image

import compsamp
from compsamp.core import tile
from compsamp.sampling import DPMpp2M, grid, sample

OUT = Path(__file__).parent / "images/strip.png"
STAGES = (0, 8, 11, 12, 13, 14, 16)  # of 20 states on the way; the picture itself comes last
ROWS = {  # the classes of the runs seen on their way
    "fashion-vp": ["Boot", "Dress"],
    "emoji": ["animal-bird", "face-smiling"],
}
ENDS = {  # the classes of which two more are seen ended; garments: all
    "emoji": [
        "face-smiling",
        "heart",
        "person-role",
        "person-gesture",
        "plant-other",
        "food-fruit",
        "time",
        "person-sport",
        "country-flag",
        "zodiac",
    ],
}
SIDE, SCALE, GAP = 32, 3, 12


def coloured(pictures: torch.Tensor) -> torch.Tensor:
    "Pictures of any size up to 32 x 32, grey or not, as 32 x 32 in colour, `(n, 3, 32, 32)`."
    margin = (SIDE - pictures.shape[-1]) // 2
    return fn.pad(pictures, [margin] * 4, value=-1.0).expand(-1, 3, -1, -1)


def runs(name: str) -> tuple:
    "Stages of two runs of a network, row by row, and the ends of twenty more."
    denoiser = compsamp.load(name, amp=None)
    times = grid(denoiser.process, 20, "karras")
    kinds = [label.split(": ")[-1] for label in denoiser.card["labels"]]
    ends = ENDS.get(name, kinds)
    asked = [*ROWS[name], *ends, *ends]
    labels = torch.tensor([kinds.index(kind) for kind in asked])
    out = sample(DPMpp2M(), denoiser, times, n=len(labels), seed=1, labels=labels, trace=True)
    shown = len(ROWS[name])
    columns = [coloured(out.trace[i][:shown].clamp(-2, 2) / 2) for i in STAGES]
    stages = torch.stack([*columns, coloured(out.x[:shown])], 1).flatten(0, 1)
    return stages, coloured(out.x[shown:])


def main():
    "Runs of two networks as rows of stages, and beside them what others end as."
    parts = [runs(name) for name in ROWS]
    left = np.concatenate([tile(stages, len(STAGES) + 1) for stages, _ in parts])
    right = np.concatenate([tile(ends, len(ends) // 2) for _, ends in parts])
    gap = np.full((left.shape[0], GAP, 3), 255, np.uint8)
    sheet = Image.fromarray(np.concatenate([left, gap, right], 1))
    size = (sheet.width * SCALE, sheet.height * SCALE)
    sheet.resize(size, Image.Resampling.NEAREST).save(OUT, optimize=True)
    print(f"{OUT.name}: {size[0]} x {size[1]} pixels")


if __name__ == "__main__":
    main()
