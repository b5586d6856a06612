"""The figures saved in the notebooks, with a palette of 256 colours: half the bytes, same look.

`python site/pictures.py` rewrites each figure that gets smaller without a visible difference; one
that has a palette already is left alone, so a second run changes nothing."""

import base64
import io
import json
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parent.parent
COLOURS = 256
VISIBLE = 32  # difference of a single pixel, of 255, from which a figure keeps its colours


def difference(first: Image.Image, second: Image.Image) -> int:
    "Largest difference of a channel at a pixel, of 255."
    apart = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    return max(high for low, high in apart.getextrema())


def with_palette(picture: Image.Image) -> Image.Image:
    "The picture in 256 colours; the widest spread of them, for a rare one is a point of a plot."
    widest = Image.Quantize.MAXCOVERAGE
    return picture.convert("RGB").quantize(COLOURS, widest, kmeans=1, dither=Image.Dither.NONE)


def packed(png: bytes) -> bytes:
    "The same picture with a palette, or as it came where that is no gain."
    picture = Image.open(io.BytesIO(png))
    has_palette = picture.mode == "P"
    is_opaque = picture.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    if has_palette or not is_opaque:
        return png
    small = with_palette(picture)
    if difference(picture, small) > VISIBLE:
        return png
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)


def pack_outputs(notebook: dict) -> None:
    "Every saved PNG of the notebook, packed in place."
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                saved = base64.b64decode("".join(data["image/png"]))
                data["image/png"] = base64.b64encode(packed(saved)).decode()


def main() -> None:
    "The command: all notebooks, and what each gained."
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        notebook = json.loads(text)
        pack_outputs(notebook)
        new = json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
        if len(new) < len(text):
            path.write_text(new, encoding="utf-8")
            print(f"{path.name}: {len(text) // 1000} kB, now {len(new) // 1000} kB")


if __name__ == "__main__":
    main()
