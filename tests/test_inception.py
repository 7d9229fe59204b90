"""Inception as torch-fidelity and clean-fid run it, with random weights: our figures are the libraries' own.

Both import torchvision, whose registry builds are for CUDA machines: elsewhere these tests are skipped.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alter_lib.evaluation import inception
from alter_lib.evaluation.influence import frechet_influence, kid_influence
from alter_lib.evaluation.metrics import Moments
from alter_lib.evaluation.scale_judge import inception_score, manifold_share
from alter_lib.params import Evaluation

try:
    import torch_fidelity
    from cleanfid import fid, inception_pytorch
except Exception as error:  # torchvision beside another build of torch raises a RuntimeError
    pytest.skip(f"torch-fidelity and clean-fid: {error}", allow_module_level=True)

N = 8
RANDOM = np.random.default_rng(0)
REAL, DRAWN = (RANDOM.integers(0, high, (N, 40, 40, 3), dtype=np.uint8) for high in (256, 128))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """A folder with a file of random weights in the released file's place."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch_fidelity.FeatureExtractorInceptionV3
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        torch.save({}, folder / "nothing.pth")
        made = network("x", ["2048"], feature_extractor_weights_path=str(folder / "nothing.pth"))
    torch.save(made.state_dict(), folder / inception.FILE)
    return Evaluation(weights=str(folder))


@pytest.fixture(autouse=True)
def _any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SHA256", "")


class Tensors(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.images[i]


def test_our_figures_are_torch_fidelitys(options: Evaluation) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=Tensors(DRAWN), input2=Tensors(REAL), cuda=False, fid=True, kid=True, isc=True, prc=True, verbose=False,
        feature_extractor="inception-v3-compat", kid_subsets=1, kid_subset_size=N, isc_splits=1, batch_size=N,
        cache=False, save_cpu_ram=True,
        feature_extractor_weights_path=str(Path(options.weights) / inception.FILE),
    )  # fmt: skip
    extractor, draws = inception.Inception(options, "cpu"), np.ones((2, N), int)
    drawn, real = extractor(DRAWN), extractor(REAL)
    pools = real["pool"].astype(float), drawn["pool"].astype(float)
    assert frechet_influence(Moments.of(pools[0]), pools[1])[0] == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-3
    )
    assert kid_influence(*pools)[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert inception_score(drawn["probabilities"], draws)[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    for name in ("precision", "recall"):
        ours = manifold_share(name, drawn["pool"], real["pool"], draws, Evaluation(bootstrap=2))[0]
        assert ours == pytest.approx(theirs[name])
    assert drawn["spatial"].shape == (N, 7 * 17 * 17) and drawn["probabilities"].sum(1) == pytest.approx(1, rel=1e-5)


def test_legacy_features_are_clean_fids_own(options: Evaluation, tmp_path: Path, monkeypatch) -> None:
    for i, image in enumerate(DRAWN):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    ours = inception.LegacyInception(options, "cpu")(DRAWN)["pool"]
    state = torch.load(Path(options.weights) / inception.FILE, weights_only=True)
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *a, **k: state)
    model = fid.build_feature_extractor("legacy_pytorch", torch.device("cpu"), use_dataparallel=False)
    theirs = fid.get_folder_features(
        str(tmp_path), model, num_workers=0, device=torch.device("cpu"), mode="legacy_pytorch", verbose=False
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_two_resizings_are_not_the_same(options: Evaluation) -> None:
    a, b = (
        inception.Inception(options, "cpu")(DRAWN[:2])["pool"],
        inception.LegacyInception(options, "cpu")(DRAWN[:2])["pool"],
    )
    assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()
