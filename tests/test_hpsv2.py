"""HPSv2 scores by open_clip's own cosine, with the file's weights. Skipped where torchvision can't be imported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from alter_lib.evaluation.hpsv2 import FILE, HpsV2
from alter_lib.evaluation.weights import Unavailable, state_hash
from alter_lib.params import Evaluation

try:
    import open_clip
except Exception as error:  # torchvision beside another build of torch raises a RuntimeError
    pytest.skip(f"open_clip: {error}", allow_module_level=True)

SMALL = "ViT-S-32-alt"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
CAPTIONS = ["a red apple", "a ghost", "a house"]


def test_scores_are_open_clips_cosines(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, _, prepare = open_clip.create_model_and_transforms(SMALL)
    torch.save({"state_dict": model.state_dict()}, tmp_path / FILE)
    scorer = HpsV2(Evaluation(weights=str(tmp_path)), "cpu", SMALL)
    assert scorer.weights == state_hash(model) and SMALL in scorer.name
    pixels = torch.stack([prepare(Image.fromarray(image)) for image in IMAGES])
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(SMALL)(CAPTIONS)
        expected = cosine_similarity(model.eval().encode_image(pixels), model.encode_text(tokens))
    found = (scorer(IMAGES)["image"] * scorer.texts(CAPTIONS, batch_size=2)).sum(1)
    assert found == pytest.approx(expected.numpy(), abs=1e-5) and np.ptp(found) > 1e-4


def test_without_the_file_it_says_where_it_goes(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"{FILE}: put it at {tmp_path}/{FILE}, from https://"):
        HpsV2(Evaluation(weights=str(tmp_path)), "cpu", SMALL)
