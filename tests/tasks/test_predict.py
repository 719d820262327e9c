import io
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import vit
from vit.data import LabelReader, LoaderOptions, eval_loader, open_data
from vit.tasks.classification.evaluate import run
from vit.tasks.classification.predict import Predictor, Unreadable, pick_device


@pytest.fixture(scope="module")
def predictor(trained: SimpleNamespace) -> Predictor:
    return vit.load(trained.run, device="cpu")


@pytest.fixture
def red(photos: Path) -> Path:
    return photos / "test" / "red wine" / "tile 0.png"


def test_every_kind_of_image_gives_the_same_answer(predictor: Predictor, red: Path):
    with Image.open(red) as image:
        image.load()
    sources = [str(red), red, red.read_bytes(), image, np.asarray(image), io.BytesIO(red.read_bytes())]
    answers = [predictor.predict(source) for source in sources]
    for answer in answers:
        assert isinstance(answer, vit.Prediction)
        assert answer.label == "red wine" and answer.labels == ("red wine",)
        assert torch.equal(answer.logits, answers[0].logits)


def test_several_images_come_back_in_order(predictor: Predictor, photos: Path):
    files = [photos / "test" / name / "tile 1.png" for name in ("grün", "red wine", "bluish")]
    for several in (files, (file for file in files), np.stack([np.asarray(Image.open(file)) for file in files])):
        answers = predictor.predict(several, batch_size=2)
        assert [answer.label for answer in answers] == ["grün", "red wine", "bluish"]
    assert predictor.predict([]) == []
    assert len(predictor.predict([files[0]])) == 1


def test_a_prediction(predictor: Predictor, red: Path):
    answer = predictor.predict(red)
    assert isinstance(answer, vit.Prediction)
    torch.testing.assert_close(answer.scores, answer.logits.softmax(0))
    assert answer.score == float(answer.scores.max())
    assert answer.top(2)[0].label == "red wine"
    assert len(answer.top(2)) == 2 and len(answer.top(99)) == 3
    assert answer.top(3) == sorted(answer.top(3), key=lambda scored: -scored.score)
    values = json.loads(json.dumps(answer.to_dict()))
    assert values["source"] == str(red) and values["label"] == "red wine"
    assert values["top"][0] == {"label": "red wine", "score": pytest.approx(answer.score)}


def test_plot(predictor: Predictor, red: Path, tmp_path: Path):
    answer = predictor.predict(red)
    answer.plot().savefig(tmp_path / "answer.png")
    picture = np.asarray(Image.open(tmp_path / "answer.png").convert("RGB")).astype(int)
    reddish = (picture[..., 0] > picture[..., 1] + 80) & (picture[..., 0] > picture[..., 2] + 80)
    assert reddish.mean() > 0.05  # the image itself is in it


def test_evaluation_and_prediction_give_the_same_logits(predictor: Predictor, photos: Path):
    images = open_data(str(photos), kind="labels").test
    assert images is not None
    loader = eval_loader(LabelReader(images, predictor.preprocess), LoaderOptions(batch_size=15))
    metrics, index = run(predictor, predictor.logits, loader)
    outputs = metrics.outputs(index)
    files = [images.name(i) for i in range(len(images))]
    together = predictor.predict(files, batch_size=15)
    assert index == list(range(15)) and len(files) == 15
    assert torch.equal(torch.stack([answer.logits for answer in together]), outputs.logits)
    # In batches of other sizes the sums of a matrix product may be taken in another order.
    alone = torch.stack([predictor.predict(file).logits for file in files])
    torch.testing.assert_close(alone, outputs.logits, atol=1e-5, rtol=1e-5)


def test_temperature_changes_scores_only(trained: SimpleNamespace, predictor: Predictor, red: Path):
    warm = Predictor(trained.model, {**trained.config, "temperature": 2.5}, device="cpu").predict(red)
    assert isinstance(warm, vit.Prediction)
    torch.testing.assert_close(warm.scores, (warm.logits / 2.5).softmax(0))
    assert torch.equal(warm.logits, predictor.predict(red).logits)


def test_multilabel(trained: SimpleNamespace, red: Path):
    config = {**trained.config, "multilabel": True}
    answer = Predictor(trained.model, config, device="cpu").predict(red)
    assert isinstance(answer, vit.Prediction)
    torch.testing.assert_close(answer.scores, answer.logits.sigmoid())
    expected = {name for name, score in zip(answer.classes, answer.scores, strict=True) if score > 0.5}
    assert set(answer.labels) == expected
    none = Predictor(trained.model, config, device="cpu", threshold=1.0).predict(red)
    assert none.labels == () and none.label == "red wine"


def test_features_are_what_the_head_sees(trained: SimpleNamespace, predictor: Predictor, red: Path):
    features = predictor.features([red, red])
    assert features.shape == (2, 32)
    with torch.no_grad():
        logits = predictor.model.head(features[:1])
    torch.testing.assert_close(logits[0], predictor.predict(red).logits)
    assert predictor.features(red).shape == (1, 32)
    assert torch.equal(predictor.features(torch.zeros(3, 3, 16, 16)), predictor.features(torch.zeros(3, 3, 16, 16)))


def test_unreadable_images(predictor: Predictor, red: Path, tmp_path: Path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(red.read_bytes()[:200])
    with pytest.raises(vit.UserError, match=r"broken\.jpg"):
        predictor.predict([red, broken])
    results = list(predictor.stream([red, broken, red], batch_size=3))
    assert [isinstance(result, Unreadable) for result in results] == [False, True, False]
    assert results[1].to_dict()["source"] == str(broken) and "broken.jpg" in results[1].to_dict()["error"]
    assert all(isinstance(result, Unreadable) for result in predictor.stream([broken] * 3, batch_size=2))


def test_tensors_go_to_logits(predictor: Predictor):
    assert predictor.logits(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    with pytest.raises(vit.UserError, match=r"logits\(\)"):
        predictor.predict(torch.zeros(2, 3, 16, 16))
    with pytest.raises(vit.UserError, match=r"Expected float images \[B, 3, H, W\]"):
        predictor.logits(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))


def test_a_diverged_model_is_told(trained: SimpleNamespace, red: Path):
    model = vit.load(trained.run, device="cpu")
    model.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(vit.UserError, match="NaN or infinite values"):
        model.predict(red)


def test_device():
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(vit.UserError, match="cannot be used here"):
            pick_device(name)


class Evil:
    def __reduce__(self):
        return open, ("evil ran", "w")


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.pkl"])
def test_a_malicious_pickle_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """FAULTS 54."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(vit.UserError, match=name):
        vit.load(name)
    assert not Path("evil ran").exists()


def copy_of(run: Path, to: Path) -> Path:
    folder = to / "copy"
    folder.mkdir()
    for file in (run / "checkpoints" / "best").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_weights_that_do_not_fit_are_named(trained: SimpleNamespace, tmp_path: Path):
    """FAULTS 55: a wrong shape."""
    folder = copy_of(trained.run, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["num_classes"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(vit.UserError, match=r"head\.weight is \[3, 32\], the model has \[4, 32\]"):
        vit.load(folder)


def test_a_damaged_header_is_named(trained: SimpleNamespace, tmp_path: Path):
    """FAULTS 55: a wrong header."""
    folder = copy_of(trained.run, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
    with pytest.raises(vit.UserError, match=r"model\.safetensors"):
        vit.load(folder)


def test_a_missing_checkpoint_is_named_with_the_nearest(trained: SimpleNamespace):
    with pytest.raises(vit.UserError, match='Did you mean "colors"'):
        vit.load(trained.run.with_name("colours"))


def test_lazy_names():
    assert set(vit.__all__) <= set(dir(vit))
    assert vit.create.__module__ == "vit.pretrained.create"
    assert vit.__version__
    with pytest.raises(AttributeError, match='Did you mean "load"'):
        vit.laod  # noqa: B018
