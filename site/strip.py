"""Draw the strip at the top of the README and of the home page: `python site/strip.py`."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import compsamp
from compsamp.core import tile
from compsamp.sampling import DPMpp2M, grid, sample

OUT = Path(__file__).parent / "images/strip.png"
STAGES = (0, 8, 11, 12, 13, 14, 16)  # of 20 states on the way; the picture itself comes last
ROWS, SCALE = 4, 3


def main():
    "Four runs as rows of stages, and beside them the ends of twenty more."
    denoiser = compsamp.load("fashion-vp-wide")
    process = denoiser.process
    times = grid(process, 20, "karras")
    labels = torch.tensor([9, 1, 8, 3, *(i % 10 for i in range(20))])
    out = sample(DPMpp2M(), denoiser, times, n=len(labels), seed=1, labels=labels, trace=True)
    columns = [out.trace[i][:ROWS].clamp(-2, 2) / 2 for i in STAGES]
    stages = torch.stack([*columns, out.x[:ROWS]], 1).flatten(0, 1)
    left = tile(stages, len(STAGES) + 1)
    right = tile(out.x[ROWS:], 5)
    gap = np.full((left.shape[0], 12), 255, np.uint8)
    sheet = Image.fromarray(np.concatenate([left, gap, right], 1))
    size = (sheet.width * SCALE, sheet.height * SCALE)
    sheet.resize(size, Image.Resampling.NEAREST).save(OUT)
    print(f"{OUT.name}: {size[0]} x {size[1]} pixels")


if __name__ == "__main__":
    main()
