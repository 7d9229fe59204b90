"""Builds the captioned emoji set (emoji.npz, captions.json) from two npm packages.

    npm pack emoji-datasource-google@16.0.0 emojilib@4.0.3      # in an empty folder
    python assets/emoji/make.py --packages THAT_FOLDER

Images: Noto emoji 64 x 64, composited on white, reduced to 32 x 32 (Lanczos). Flags are dropped. Captions: the emoji's
name and further keywords. 10 % of the base emoji are held out, together with all of their skin-tone variants.
"""

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE, HELD_OUT, SEED = 32, 0.1, 0
SKIN_TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}


def read_image(tar: tarfile.TarFile, file_name: str) -> np.ndarray:
    """[SIZE, SIZE, 3] uint8: the RGBA picture on a white ground."""
    rgba = Image.open(io.BytesIO(tar.extractfile(f"package/img/google/64/{file_name}").read())).convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return np.asarray(white.convert("RGB").resize((SIZE, SIZE), Image.LANCZOS))


def words(keyword: str) -> str:
    return keyword.replace("_", " ").replace("-", " ").lower().strip()


def skin_caption(name: str, tones: str) -> str:
    return f"{name} " + " and ".join(f"{SKIN_TONES[tone]} skin" for tone in tones.split("-"))


def collect(emoji: list[dict], keywords: dict[str, list[str]], tar: tarfile.TarFile) -> tuple[np.ndarray, list[dict]]:
    """One row an image: base emoji first, each followed by its skin-tone variants."""
    images, rows = [], []
    for entry in emoji:
        character = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        known = keywords.get(character) or keywords.get(character.replace("\ufe0f", "")) or [entry["name"]]
        name, *more = (words(keyword) for keyword in known if keyword.isascii())
        more = [keyword for keyword in more if any(letter.isalpha() for letter in keyword) and keyword != name]
        variants = {"": entry} | entry.get("skin_variations", {})
        for tones, variant in variants.items():
            if not variant["has_img_google"]:
                continue
            images.append(read_image(tar, variant["image"]))
            rows.append(
                {
                    "base": entry["unified"],
                    "variant": tones,
                    "name": skin_caption(name, tones) if tones else name,
                    "keywords": more,
                    "category": entry["category"],
                }
            )
    return np.stack(images), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the two .tgz files of `npm pack`")
    folder = parser.parse_args().packages
    with tarfile.open(folder / "emojilib-4.0.3.tgz") as tar:
        keywords = json.load(tar.extractfile("package/dist/emoji-en-US.json"))
    with tarfile.open(folder / "emoji-datasource-google-16.0.0.tgz") as tar:
        emoji = json.load(tar.extractfile("package/emoji.json"))
        emoji = [entry for entry in sorted(emoji, key=lambda e: e["sort_order"]) if entry["category"] != "Flags"]
        images, rows = collect(emoji, keywords, tar)
    bases = sorted({row["base"] for row in rows})
    held_out = set(np.random.default_rng(SEED).choice(bases, round(HELD_OUT * len(bases)), replace=False).tolist())
    for row in rows:
        row["split"] = "test" if row["base"] in held_out else "train"
    np.savez_compressed(HERE / "emoji.npz", images=images)
    (HERE / "captions.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(len(rows), "images,", len(bases), "base emoji,", len(held_out), "of them held out")


if __name__ == "__main__":
    main()
