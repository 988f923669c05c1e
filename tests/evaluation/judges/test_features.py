from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from evaluation.judges.features import Extractor, extract, inception_extractor, lite0_extractor, resize
from evaluation.judges.lite0 import INPUT, _SameConv, load_lite0
from pipeline.contract.errors import CnlabError

PHOTOS = Path(skimage.__file__).parent / "data"


def photo(name: str) -> np.ndarray:
    """Centre square of a photograph that ships with scikit-image, 320 px."""
    with Image.open(PHOTOS / name) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side)).resize((320, 320))
        return np.asarray(square)


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return lite0_extractor()


@pytest.mark.parametrize(("name", "classes"), [("chelsea.png", {281, 282, 285}), ("coffee.png", {504, 967, 968})])
def test_the_network_knows_a_cat_and_a_cup(name: str, classes: set[int]) -> None:
    """ImageNet classes of tabby, tiger and Egyptian cat; coffee mug, espresso and cup."""
    pixels = torch.from_numpy(resize(photo(name), INPUT)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert int(load_lite0().classify(pixels).argmax()) in classes


@pytest.mark.parametrize(("size", "stride", "first"), [(4, 2, 1.0), (5, 2, 0.0)])
def test_same_padding_is_tensorflows(size: int, stride: int, first: float) -> None:
    """Even sizes pad on the right only, so the first window starts at pixel 0; odd ones pad both sides."""
    conv = _SameConv(1, 1, 3, stride, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 0] = 1  # reads the upper left of each window
    image = torch.zeros(1, 1, size, size)
    image[0, 0, 0, 0] = 1
    out = conv(image)
    assert out.shape[-1] == -(-size // stride)
    assert float(out[0, 0, 0, 0].detach()) == first


def test_features_do_not_depend_on_the_batch(lite0: Extractor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    whole = extract(images, lite0)
    assert whole.shape == (5, 1280)
    assert whole.dtype == np.float32
    for batch in (1, 2, 3):
        assert np.array_equal(whole, extract(images, lite0, batch=batch))


def test_resizing_is_antialiased_and_keeps_flat_colour() -> None:
    checks = np.indices((256, 256)).sum(0) % 2 * 255  # the finest pattern there is
    grey = resize(np.repeat(checks[..., None], 3, 2).astype(np.uint8), 64)
    assert grey[8:-8, 8:-8].std() < 2
    flat = resize(np.full((50, 50, 3), 77, np.uint8), INPUT)
    assert np.allclose(flat, 77, atol=1e-3)


def counting(calls: list[int]) -> Extractor:
    def run(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images.flatten(1)[:, :3].float()

    return Extractor("toy", ("fd_toy", "kid_toy"), 3, run)


def test_the_cache_is_used_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    calls: list[int] = []
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    first = extract(images, counting(calls), tmp_path)
    assert np.array_equal(extract(images, counting(calls), tmp_path), first)
    assert calls == [4]
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-8])
    assert np.array_equal(extract(images, counting(calls), tmp_path), first)
    assert calls == [4, 4]
    extract(images[::-1], counting(calls), tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


@pytest.mark.slow
def test_inception_by_the_same_path(tmp_path: Path) -> None:
    """Random weights in torch-fidelity's own layout: the loading and the width are real, the numbers mean nothing."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: object, **kwargs: object) -> None:  # keep the random start
            return None

    torch.save({}, tmp_path / "empty.pth")
    torch.manual_seed(0)
    torch.save(Bare("inception-v3-compat", ["2048"], str(tmp_path / "empty.pth")).state_dict(), tmp_path / "w.pth")
    extractor = inception_extractor(tmp_path / "w.pth")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert extract(images, extractor).shape == (2, 2048)
    assert extractor.distance == ("fid", "kid")
    with pytest.raises(CnlabError, match="does not hold"):
        extract(images, inception_extractor(tmp_path / "empty.pth"))


def test_absent_and_unsafe_inception_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CnlabError, match="does not exist"):
        inception_extractor(tmp_path / "none.pth")
    torch.save({"a": Path("/")}, tmp_path / "code.pth")  # a pickle that builds objects
    with pytest.raises(CnlabError, match="UnpicklingError"):
        extract(np.zeros((2, 8, 8, 3), np.uint8), inception_extractor(tmp_path / "code.pth"))
