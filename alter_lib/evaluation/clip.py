"""CLIP by transformers: CLIP score (Hessel et al. 2021, arXiv 2104.08718) and the embeddings of CMMD (Jayasumana et al.
2024, arXiv 2401.09603). Images are prepared here: transformers' own preparation wants torchvision.
"""

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize
from transformers import CLIPModel, CLIPTokenizer

from ..params import Evaluation
from .features import channels_first
from .resizing import resized
from .weights import hub_source, missing_from_hub, state_hash

CMMD_MODEL = "openai/clip-vit-large-patch14-336"  # CMMD's own choice, which the paper keeps
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of [0, 1]


def load_clip(evaluation: Evaluation, hub_id: str, device: torch.device | str) -> tuple[CLIPModel, CLIPTokenizer]:
    """Both towers and the tokenizer. Raises Unavailable without weights."""
    source, where = hub_source(evaluation, hub_id), {"local_files_only": not evaluation.download}
    try:
        model, told = CLIPModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **where)
        if told["missing_keys"]:  # transformers makes them up, with a warning
            raise OSError(f"{len(told['missing_keys'])} of its tensors are not in the weights of {source}")
        return model.eval().requires_grad_(False).to(device), CLIPTokenizer.from_pretrained(source, **where)
    except OSError as error:
        raise missing_from_hub(evaluation, hub_id, error) from None


def embedded(model: CLIPModel, pixels: torch.Tensor) -> np.ndarray:
    """Unit vectors [n, D] of pixels in [0, 1], [n, 3, size, size]."""
    mean, deviation = (pixels.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    pooled = model.vision_model(pixel_values=(pixels - mean) / deviation).pooler_output
    return normalize(model.visual_projection(pooled), dim=-1).cpu().numpy()


class Clip:
    """Both towers of `evaluation.clip_model`: unit vectors [n, D] of images and captions."""

    def __init__(self, evaluation: Evaluation, device: torch.device | str) -> None:
        """Raises Unavailable without weights."""
        self.model, self.tokenizer = load_clip(evaluation, evaluation.clip_model, device)
        self.size = self.model.config.vision_config.image_size
        self.device, self.weights = device, state_hash(self.model)
        self.name, self.resize = f"{evaluation.clip_model} (transformers)", f"bicubic, antialiased, to {self.size} px"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = channels_first(resized(images, self.size)).to(self.device) / 255  # as CLIP's own: Pillow, then floats
        return {"image": embedded(self.model, pixels)}

    @torch.no_grad()
    def texts(self, captions: list[str], batch_size: int = 256) -> np.ndarray:
        """Unit vectors [n, D]; longer captions than the tower reads are cut."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.device)
        batches = zip(tokens.input_ids.split(batch_size), tokens.attention_mask.split(batch_size), strict=True)
        pooled = [self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output for ids, mask in batches]
        return normalize(self.model.text_projection(torch.cat(pooled)), dim=-1).cpu().numpy()


class Cmmd:
    """The image tower of CLIP ViT-L/14 at 336 px. image [n, 768]: unit vectors."""

    def __init__(self, evaluation: Evaluation, device: torch.device | str) -> None:
        """Raises Unavailable without weights."""
        self.model, _ = load_clip(evaluation, CMMD_MODEL, device)
        self.size = self.model.config.vision_config.image_size
        self.device, self.weights = device, state_hash(self.model)
        self.name, self.resize = f"{CMMD_MODEL} (transformers)", f"bicubic to {self.size} px"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = channels_first(images).to(self.device).float() / 255
        pixels = interpolate(pixels, (self.size, self.size), mode="bicubic")  # as CMMD's code: not antialiased
        return {"image": embedded(self.model, pixels)}
