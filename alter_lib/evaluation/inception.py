"""Inception v3 with FID's weights, as two libraries run it: torch-fidelity (as TensorFlow did; FID, KID, IS, sFID,
precision, recall) and clean-fid's `legacy_pytorch` (pytorch-fid's resizing; what APTP and the paper report).

Both libraries import torchvision, and are imported only here.
"""

import numpy as np
import torch

from ..params import Evaluation
from .features import channels_first
from .weights import all_of, optional_module, state_hash, weight_file

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d"  # checked before the file is opened: torch-fidelity unpickles it


class Inception:
    """torch-fidelity's network. pool [n, 2048]; probabilities [n, 1008]; spatial [n, 2023]: the first 7 channels of
    mixed_6/conv, as the ADM evaluator takes them for sFID."""

    resize = "bilinear as TensorFlow 1, to 299 px"

    def __init__(self, evaluation: Evaluation, device: torch.device | str) -> None:
        """Raises Unavailable without torch-fidelity or weights."""
        library, path = all_of(
            lambda: optional_module("torch_fidelity", "torch-fidelity"),
            lambda: weight_file(evaluation, FILE, URL, SHA256),
        )
        torch.load(path, "cpu", weights_only=True)  # raises where the file holds code: the library would run it
        self.network = library.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        ).to(device)
        self.name = f"Inception v3, pool 2048 (torch-fidelity {library.__version__})"
        self.device, self.weights = device, state_hash(self.network)
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.spatial = output[:, :7].permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order, which ADM's statistics have

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pool, logits = self.network(channels_first(images).to(self.device))
        parts = {"pool": pool, "probabilities": logits.double().softmax(1).float(), "spatial": self.spatial}
        return {name: values.cpu().numpy() for name, values in parts.items()}


class LegacyInception:
    """clean-fid's network and resizing in mode legacy_pytorch. pool [n, 2048]."""

    resize = "bilinear, not antialiased, to 299 px (clean-fid legacy_pytorch)"

    def __init__(self, evaluation: Evaluation, device: torch.device | str) -> None:
        """Raises Unavailable without clean-fid or weights."""
        library, path = all_of(
            lambda: optional_module("cleanfid.inception_pytorch", "clean-fid"),
            lambda: weight_file(evaluation, FILE, URL, SHA256),
        )
        fetch = library.load_state_dict_from_url
        library.load_state_dict_from_url = lambda *_, **__: torch.load(
            path, "cpu", weights_only=True
        )  # it takes no path
        try:
            self.network = library.InceptionV3(output_blocks=[3], resize_input=False).eval().to(device)
        finally:
            library.load_state_dict_from_url = fetch
        self.resizer = optional_module("cleanfid.resize", "clean-fid").build_resizer("legacy_pytorch")
        self.name = "Inception v3, pool 2048 (clean-fid legacy_pytorch)"
        self.device, self.weights = device, state_hash(self.network)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(np.stack([self.resizer(image) for image in images])).permute(0, 3, 1, 2)
        return {"pool": self.network(pixels.to(self.device) / 255)[0].flatten(1).cpu().numpy()}
