"""HPSv2 (Wu et al. 2023, arXiv 2306.09341): cosine x 100 of a CLIP ViT-H/14 fine-tuned on preferences, loaded by
open_clip from the released weights. The hpsv2 package pins versions that break an environment and is not used.
"""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ..params import Evaluation
from .weights import all_of, optional_module, state_hash, weight_file

FILE = "HPS_v2_compressed.pt"
URL = f"https://huggingface.co/xswu/HPSv2/resolve/main/{FILE}"


class HpsV2:
    """Unit vectors of images and captions; their product x 100 is the score."""

    def __init__(self, evaluation: Evaluation, device: torch.device | str, architecture: str = "ViT-H-14") -> None:
        """Raises Unavailable without open_clip or weights."""
        library, path = all_of(
            lambda: optional_module("open_clip", "open-clip-torch"), lambda: weight_file(evaluation, FILE, URL)
        )
        self.model, _, self.prepare = library.create_model_and_transforms(architecture)
        content = torch.load(path, "cpu", weights_only=True)
        self.model.load_state_dict(content.get("state_dict", content))
        self.model.eval().to(device)
        self.tokenizer, self.device = library.get_tokenizer(architecture), device
        self.name, self.weights = f"HPSv2, {architecture} (open_clip {library.__version__})", state_hash(self.model)
        self.resize = "bicubic, antialiased, to 224 px"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = torch.stack([self.prepare(Image.fromarray(image)) for image in images]).to(self.device)
        return {"image": normalize(self.model.encode_image(pixels), dim=-1).cpu().numpy()}

    @torch.no_grad()
    def texts(self, captions: list[str], batch_size: int = 256) -> np.ndarray:
        """Unit vectors [n, D]."""
        tokens = self.tokenizer(captions).split(batch_size)
        encoded = torch.cat([self.model.encode_text(ids.to(self.device)) for ids in tokens])
        return normalize(encoded, dim=-1).cpu().numpy()
