"""Extractors with weights, run on randomly initialised checkpoints of the very classes they load."""

from __future__ import annotations

import json
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data

from pipeline.conditions import (
    ABSENT,
    REGISTRY,
    depth,
    get_condition,
    hed,
    mlsd,
    normalbae,
    openpose,
    segment,
    weight_free,
)
from pipeline.conditions.base import sample_rng
from pipeline.conditions.weights import RESOLUTIONS, annotate
from pipeline.contract.errors import CnlabError

Picture = NDArray[np.uint8]
NAMES = ["hed", "pidinet", "mlsd", "openpose", "depth", "normal", "normalbae", "segment"]
SMALL = {"resolution": 64}  # the annotators' own sizes are too slow for tests


def aux(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return __import__(f"controlnet_aux.{module}", fromlist=["x"])


def small_state(network: torch.nn.Module, gain: float = 1) -> dict[str, torch.Tensor]:
    """Random weights of every shape and scale of the network's, in files of kilobytes: each is a Hankel view of a few
    numbers, which torch saves as a view.
    """
    generator = torch.Generator().manual_seed(0)

    def shrink(value: torch.Tensor) -> torch.Tensor:
        if value.ndim < 2:
            return value.clone()
        few = torch.randn(sum(value.shape), generator=generator) * value.abs().mean() * gain
        return few.as_strided(value.shape, (1,) * value.ndim)

    return {name: shrink(value) for name, value in network.state_dict().items()}


def save_aux(folder: Path) -> None:
    torch.manual_seed(0)
    pose = aux("open_pose.model")
    networks = {
        "ControlNetHED.pth": aux("hed").ControlNetHED_Apache2(),
        "facenet.pth": aux("open_pose.face").FaceNet(),
    }
    for file, network in networks.items():
        torch.save(small_state(network), folder / file)
    lines = aux("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    torch.save(small_state(lines, gain=2), folder / "mlsd_large_512_fp32.pth")
    pidinet = small_state(aux("pidi.model").pidinet(), gain=5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in pidinet.items()}}, folder / "table5_pidinet.pth")
    for file, network in (("body", pose.bodypose_model()), ("hand", pose.handpose_model())):
        state = {k.partition(".")[2]: v for k, v in small_state(network).items()}  # as converted from Caffe
        torch.save(state, folder / f"{file}_pose_model.pth")
    options = types.SimpleNamespace(
        mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
    )
    torch.save({"model": small_state(aux("normalbae.nets.NNET").NNET(options))}, folder / "scannet.pt")


def save_depth(folder: Path, kind: str = "depth_anything") -> None:
    import transformers as tf

    torch.manual_seed(0)
    if kind == "depth_anything":
        backbone = tf.Dinov2Config(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14, mlp_ratio=2,
            initializer_range=0.2,
            out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
        )  # fmt: skip
        config = tf.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 16, 16],
            fusion_hidden_size=16, head_hidden_size=8, initializer_range=0.2,
        )  # fmt: skip
        tf.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
        size = {"height": 518, "width": 518}
        tf.DPTImageProcessor(size=size, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(folder)
    else:
        config = tf.GLPNConfig(
            hidden_sizes=[8, 16, 16, 32], num_attention_heads=[1, 1, 2, 2], depths=[1, 1, 1, 1], decoder_hidden_size=16
        )
        tf.GLPNForDepthEstimation(config).save_pretrained(folder)
        tf.GLPNImageProcessor().save_pretrained(folder)


def save_segment(folder: Path, kind: str = "upernet", classes: int = 150) -> None:
    import transformers as tf

    torch.manual_seed(0)
    if kind == "upernet":
        backbone = tf.ConvNextConfig(
            hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
        )
        config = tf.UperNetConfig(
            backbone_config=backbone, hidden_size=16, num_labels=classes, use_auxiliary_head=False, pool_scales=[1, 2]
        )
        tf.UperNetForSemanticSegmentation(config).save_pretrained(folder)
    else:
        config = tf.SegformerConfig(
            hidden_sizes=[8, 16, 16, 32], num_attention_heads=[1, 1, 2, 2], depths=[1, 1, 1, 1],
            decoder_hidden_size=16, num_labels=classes,
        )  # fmt: skip
        tf.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    tf.SegformerImageProcessor().save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name of the condition -> folder of its checkpoint."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in ("annotators", "depth", "segment")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as where they are loaded
        save_aux(made["annotators"])
    save_depth(made["depth"])
    save_segment(made["segment"])
    return {n: str(made[{"normal": "depth"}.get(n, n if n in made else "annotators")]) for n in NAMES}


@pytest.fixture(scope="module")
def photo() -> Picture:
    return cv2.resize(data.astronaut(), (128, 128), interpolation=cv2.INTER_AREA)


def drawn(name: str, key: str = "a") -> dict[str, Any]:
    return get_condition(name).draw(sample_rng(1, name, key)) | SMALL


def test_twenty_names_are_offered() -> None:
    assert set(REGISTRY) == {*weight_free(), *NAMES, "mediapipe_face"}
    assert not set(ABSENT) & set(REGISTRY)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_vary_and_building_one_loads_nothing(name: str) -> None:
    condition = get_condition(name, weights="/nowhere")
    draws = [condition.draw(sample_rng(1, name, str(i))) for i in range(40)]
    assert {d["resolution"] for d in draws} == set(RESOLUTIONS)
    assert draws[0] == condition.draw(sample_rng(1, name, "0"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_map_is_a_function_of_image_and_recorded_parameters(name: str, folders: dict[str, str], photo: Picture) -> None:
    condition, params = get_condition(name, weights=folders[name]), drawn(name)
    condition.prepare()
    image = photo.copy()
    image.setflags(write=False)
    made = condition.extract(image, params)
    torch.rand(3), np.random.default_rng().random()
    again = get_condition(name, weights=folders[name]).extract(photo, json.loads(json.dumps(params)))
    assert np.array_equal(made, again)
    assert np.array_equal(image, photo)
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    assert np.array_equal(condition.extract(photo[:, ::-1], params), condition.extract(mirrored, params))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_any_size(name: str, folders: dict[str, str], photo: Picture) -> None:
    condition = get_condition(name, weights=folders[name])
    for image in (photo[:37, :53], np.zeros((37, 53, 3), np.uint8)):
        made = condition.extract(image, drawn(name))
        assert made.dtype == np.uint8
        assert made.shape[:2] == (37, 53)
        assert made.ndim == (3 if name in ("openpose", "normal", "normalbae", "segment") else 2)
        assert not condition.binary or np.isin(made, (0, 255)).all()


def test_models_are_loaded_once_a_process(folders: dict[str, str], photo: Picture) -> None:
    loaded = {
        "hed": hed._detector, "mlsd": mlsd._network, "normalbae": normalbae._detector,
        "depth": depth._model, "segment": segment._model,
    }  # fmt: skip
    for name, load in loaded.items():
        first = load(folders[name])
        misses = load.cache_info().misses
        get_condition(name, weights=folders[name]).extract(photo, drawn(name))
        assert load.cache_info().misses == misses
        assert load(folders[name]) is first
    assert depth._model(folders["normal"]) is depth._model(folders["depth"])


# ---- controlnet-aux


@pytest.mark.parametrize("name", ["hed", "pidinet"])
def test_soft_edges_are_the_annotators_own_where_nothing_is_resized(
    name: str, folders: dict[str, str], photo: Picture
) -> None:
    kind = {"hed": "HEDdetector", "pidinet": "PidiNetDetector"}[name]
    detector = getattr(aux("hed" if name == "hed" else "pidi"), kind).from_pretrained(folders[name])
    expected = detector(photo, detect_resolution=128, image_resolution=128, output_type="np")[..., 0]
    assert np.array_equal(get_condition(name, weights=folders[name]).extract(photo, {"resolution": 128}), expected)
    assert np.ptp(expected) > 0
    assert get_condition(name).soft


def test_annotate_lays_the_map_on_the_image() -> None:
    """An annotator that answers with its input shows shifts and stretches; a ramp shows them at once."""
    seen: list[tuple[int, ...]] = []

    def echo(image: Picture, **options: Any) -> Picture:
        seen.append(image.shape)
        assert options["detect_resolution"] == options["image_resolution"] == min(image.shape[:2])
        return image

    for height, width in ((100, 150), (64, 64), (37, 53), (300, 200)):
        ramp = np.repeat(np.linspace(0, 250, width)[None].repeat(height, 0)[..., None], 3, 2).astype(np.uint8)
        made = annotate(echo, ramp, 128)
        assert made.shape == ramp.shape
        assert np.abs(made.astype(int) - ramp)[:, 2:-2].max() <= 4
    assert all(h % 64 == 0 and w % 64 == 0 and min(h, w) == 128 for h, w, _ in seen)


def test_mlsd_draws_the_segments_of_the_annotator(folders: dict[str, str], photo: Picture) -> None:
    params = {"resolution": 128, "score": 0.1, "distance": 0.1}
    made = get_condition("mlsd", weights=folders["mlsd"]).extract(photo, params)
    detector = aux("mlsd").MLSDdetector.from_pretrained(folders["mlsd"])
    expected = detector(photo, detect_resolution=128, image_resolution=128, output_type="np")[..., 0]
    assert made.any()
    touched = cv2.dilate(made, np.ones((3, 3), np.uint8)) > 0  # it cuts coordinates off, where we round,
    inner = np.s_[1:-1, 1:-1]  # and so draws on the border what ends just outside
    assert expected[inner].any()
    assert touched[inner][expected[inner] > 0].all()
    nothing = get_condition("mlsd", weights=folders["mlsd"]).extract(photo, params | {"score": 1.0})
    assert not nothing.any()


def test_openpose_draws_a_figure_where_it_stands(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    detector = openpose._detector(folders["openpose"])
    joints = np.array(  # x, y of the 18 key points of COCO, in shares of the picture
        [[.5, .15], [.5, .25], [.4, .25], [.35, .4], [.35, .5], [.6, .25], [.65, .4], [.65, .5], [.45, .5],
         [.45, .7], [.45, .9], [.55, .5], [.55, .7], [.55, .9], [.48, .13], [.52, .13], [.46, .14], [.54, .14]]
    )  # fmt: skip

    class Body:
        format_body_result = staticmethod(detector.body_estimation.format_body_result)

        def __call__(self, image: Picture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            assert image.shape == (64, 128, 3)
            whole = joints * (92, 64)  # the picture without its margin
            candidate = np.concatenate([whole, np.ones((18, 1)), np.arange(18)[:, None]], 1)
            return candidate, np.concatenate([np.arange(18.0), [20.0, 18.0]])[None]

    monkeypatch.setattr(detector, "body_estimation", Body())
    image = np.zeros((37, 53, 3), np.uint8)  # at resolution 64: 92 x 64 pixels, with a margin up to 128 x 64
    made = get_condition("openpose", weights=folders["openpose"]).extract(
        image, {"resolution": 64, "hand": False, "face": False}
    )
    rows, columns = np.nonzero(made.max(2) > 60)
    assert columns.min() == pytest.approx(0.35 * 53, abs=3)
    assert columns.max() == pytest.approx(0.65 * 53, abs=3)
    assert rows.min() == pytest.approx(0.13 * 37, abs=3)
    assert rows.max() == pytest.approx(0.90 * 37, abs=3)
    assert np.ptp(made.reshape(-1, 3).astype(int), axis=1).max() > 60  # coloured


# ---- transformers


@pytest.mark.parametrize("kind", ["depth_anything", "glpn"])
def test_depth_is_the_models_with_near_white(kind: str, tmp_path: Path, photo: Picture) -> None:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    save_depth(tmp_path, kind)
    made = get_condition("depth", weights=str(tmp_path)).extract(photo, {"resolution": 64})
    processor, model = (
        AutoImageProcessor.from_pretrained(tmp_path),
        AutoModelForDepthEstimation.from_pretrained(tmp_path),
    )
    size = {"size": {"height": 64, "width": 64}} if kind == "depth_anything" else {}
    pixels = processor(images=photo, return_tensors="pt", **size)
    with torch.inference_mode():
        outputs = model.eval()(**pixels)
    found = processor.post_process_depth_estimation(outputs, target_sizes=[(128, 128)])[0]["predicted_depth"].numpy()
    near = found if kind == "depth_anything" else 1 / np.maximum(found, 1e-3)
    near = (near - near.min()) / np.ptp(near)
    assert np.abs(made - 255 * near).max() <= 1
    assert (made.min(), made.max()) == (0, 255)


def test_a_depth_model_of_unknown_sense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_depth(tmp_path, "glpn")
    monkeypatch.setattr(depth, "METRIC", ())
    with pytest.raises(CnlabError, match="'glpn' it is not known whether near is large or small"):
        get_condition("depth", weights=str(tmp_path)).prepare()


@pytest.mark.parametrize("kind", ["upernet", "segformer"])
def test_segments_have_the_colours_of_their_classes(kind: str, tmp_path: Path, photo: Picture) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    save_segment(tmp_path, kind)
    made = get_condition("segment", weights=str(tmp_path)).extract(photo, {"resolution": 128})
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    pixels = processor(images=photo, return_tensors="pt", size={"height": 128, "width": 128})
    with torch.inference_mode():
        labels = processor.post_process_semantic_segmentation(model(**pixels), target_sizes=[(128, 128)])[0].numpy()
    palette = np.array(aux("util").ade_palette(), np.uint8)
    assert palette.shape == (150, 3)
    assert np.array_equal(made, palette[labels])
    assert len(np.unique(labels)) > 1


def test_more_classes_than_colours_are_refused(tmp_path: Path) -> None:
    save_segment(tmp_path, classes=151)
    with pytest.raises(CnlabError, match="it has 151 classes, ADE20K's palette has 150"):
        get_condition("segment", weights=str(tmp_path)).prepare()


# ---- what cannot be loaded


@pytest.mark.parametrize("name", NAMES)
def test_an_unreachable_hub_is_one_line_that_names_the_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CnlabError) as caught:
        get_condition(name, weights="nobody/nothing").prepare()
    said = str(caught.value)
    assert "\n" not in said
    assert f"--weights {name} PATH" in said or (name == "normal" and "--weights depth PATH" in said)
    assert "nobody/nothing" in said


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>rate limited</html>"),
    "other": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "code": lambda path: torch.save({"norm": Path("/")}, path),  # a pickle that would build objects
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "file"),
    [("hed", "ControlNetHED.pth"), ("pidinet", "table5_pidinet.pth"), ("mlsd", "mlsd_large_512_fp32.pth"),
     ("openpose", "body_pose_model.pth"), ("normalbae", "scannet.pt"), ("depth", "model.safetensors")],
)  # fmt: skip
def test_damaged_weights_are_one_line(damage: str, name: str, file: str, tmp_path: Path) -> None:
    DAMAGES[damage](tmp_path / file)
    with pytest.raises(CnlabError, match=rf"^the model '{name}' cannot be loaded from .*--weights {name}"):
        get_condition(name, weights=str(tmp_path)).prepare()


def test_mediapipe_says_what_to_install_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.conditions.mediapipe_face.find_spec", lambda name: None)
    with pytest.raises(CnlabError, match=r"pip install --no-deps 'mediapipe<0\.10\.30'"):
        get_condition("mediapipe_face")


def test_mediapipe_face_runs_where_it_is_installed() -> None:
    pytest.importorskip("mediapipe")
    condition = get_condition("mediapipe_face")
    params = condition.draw(sample_rng(1, "mediapipe_face", "a")) | {"resolution": 512, "confidence": 0.5}
    made = condition.extract(data.astronaut(), params)
    rows, columns = np.nonzero(made.any(axis=2))
    assert 50 < rows.min() < rows.max() < 220  # the face of the astronaut
    assert 150 < columns.min() < columns.max() < 290
    assert not condition.extract(np.zeros((64, 80, 3), np.uint8), params).any()
