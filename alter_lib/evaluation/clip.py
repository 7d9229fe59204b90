"""CLIP by transformers: CLIP score (Hessel et al. 2021, arXiv 2104.08718) and the embeddings of CMMD (Jayasumana et al.
2024, arXiv 2401.09603). Images are prepared here: transformers' own preparation wants torchvision.
"""

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..params import Evaluation
from .features import channels_first
from .resizing import resized
from .weights import hub_source, missing_from_hub, state_hash

CMMD_MODEL = "openai/clip-vit-large-patch14-336"  # CMMD's own choice, which the paper keeps
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of [0, 1]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1], [n, 3, H, W], as CLIP takes them."""
    return (pixels - pixels.new_tensor(MEAN).view(3, 1, 1)) / pixels.new_tensor(DEVIATION).view(3, 1, 1)


class Clip:
    """Both towers of `evaluation.clip_model`: unit vectors [n, D] of images and captions."""

    def __init__(self, evaluation: Evaluation, device: torch.device | str) -> None:
        """Raises Unavailable without weights."""
        source, where = hub_source(evaluation, evaluation.clip_model), {"local_files_only": not evaluation.download}
        try:
            self.model = CLIPModel.from_pretrained(source, dtype=torch.float32, **where).eval().to(device)
            self.tokenizer = CLIPTokenizer.from_pretrained(source, **where)
        except OSError as error:
            raise missing_from_hub(evaluation, evaluation.clip_model, error) from None
        self.size = self.model.config.vision_config.image_size
        self.device, self.weights = device, state_hash(self.model)
        self.name, self.resize = f"{evaluation.clip_model} (transformers)", f"bicubic, antialiased, to {self.size} px"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = normalised(channels_first(resized(images, self.size)).to(self.device) / 255)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return {"image": normalize(self.model.visual_projection(pooled), dim=-1).cpu().numpy()}

    @torch.no_grad()
    def texts(self, captions: list[str], batch_size: int = 256) -> np.ndarray:
        """Unit vectors [n, D]; longer captions than the tower reads are cut."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.device)
        pooled = [
            self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            for ids, mask in zip(
                tokens.input_ids.split(batch_size), tokens.attention_mask.split(batch_size), strict=True
            )
        ]
        return normalize(self.model.text_projection(torch.cat(pooled)), dim=-1).cpu().numpy()


class Cmmd:
    """The image tower of CLIP ViT-L/14 at 336 px. image [n, 768]: unit vectors."""

    def __init__(self, evaluation: Evaluation, device: torch.device | str) -> None:
        """Raises Unavailable without weights."""
        source = hub_source(evaluation, CMMD_MODEL)
        try:
            self.model = CLIPVisionModelWithProjection.from_pretrained(
                source, dtype=torch.float32, local_files_only=not evaluation.download
            ).eval().to(device)  # fmt: skip
        except OSError as error:
            raise missing_from_hub(evaluation, CMMD_MODEL, error) from None
        self.size = self.model.config.image_size
        self.device, self.weights = device, state_hash(self.model)
        self.name, self.resize = f"{CMMD_MODEL} (transformers)", f"bicubic to {self.size} px"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = channels_first(images).to(self.device).float() / 255
        pixels = interpolate(pixels, (self.size, self.size), mode="bicubic")  # as CMMD's code: not antialiased
        return {"image": normalize(self.model(pixel_values=normalised(pixels)).image_embeds, dim=-1).cpu().numpy()}
