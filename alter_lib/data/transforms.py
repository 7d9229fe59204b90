"""From the file of a picture to the square that the VAE sees: decode, resize the shorter side, crop. PIL only."""

from dataclasses import dataclass

import numpy as np
from datasets import Image as Decoder
from PIL import Image, ImageOps

from ..params import Data
from .records import Encoded, Record

CENTRE = (0.5, 0.5)


class Unreadable(ValueError):
    """A picture whose file is missing or damaged."""


def decode(image: Encoded) -> Image.Image:
    """RGB, turned as its EXIF orientation says; transparent parts become white. Raises Unreadable, and OSError where
    the disk or the network fails: that is no property of the picture."""
    value = {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": image}
    try:
        picture = Decoder().decode_example(value)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")
    except Exception as error:  # damaged bytes raise whatever the decoder of their format raises
        if getattr(error, "errno", None) is not None and not isinstance(error, FileNotFoundError):
            raise
        raise Unreadable(str(error)) from error


def square(picture: Image.Image, resolution: int, centering: tuple[float, float] = CENTRE) -> np.ndarray:
    """uint8 [resolution, resolution, 3]: the shorter side resized to `resolution`, the longer one cropped.

    centering: where the crop lies, (0, 0) left and top, (1, 1) right and bottom. Bicubic: the paper names no filter;
    the SD recipe that its code builds on is bilinear, DiT's is box halvings and bicubic.
    """
    return np.asarray(ImageOps.fit(picture, (resolution, resolution), Image.Resampling.BICUBIC, centering=centering))


@dataclass(frozen=True)
class Selection:
    """Which samples a run can use: `classes` is the number of class labels, None where captions are wanted."""

    data: Data
    resolution: int
    classes: int | None

    def reason(self, record: Record) -> str | None:
        """Why a record is left out before its picture is decoded; None: it is not."""
        lowest = self.data.min_aesthetic
        if record.fault:
            return record.fault
        if self.classes is None and not record.captions:
            return "no caption"
        if self.classes is not None and record.label is None:
            return "no label"
        if self.classes is not None and not 0 <= record.label < self.classes:
            return f"label not in 0..{self.classes - 1}"
        if lowest is not None and record.score is None:
            return "no aesthetic score"
        return "low aesthetic score" if lowest is not None and record.score < lowest else None

    def prepare(self, record: Record) -> np.ndarray | str:
        """The square of a record, or why it is left out."""
        if reason := self.reason(record):
            return reason
        try:
            picture = decode(record.image)
        except Unreadable:
            return "unreadable picture"
        size = min(*picture.size, record.size or picture.width)
        return "small" if size < (self.data.min_size or 0) else square(picture, self.resolution)
