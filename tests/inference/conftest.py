import numpy as np
import pytest
import torch
from PIL import Image

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def colour_image(name, size=(32, 32)):
    return Image.new("RGB", size, COLOURS[name])


@pytest.fixture(scope="session")
def colour_checkpoint(tmp_path_factory):
    """A saved model of three classes that tells red, green and blue images, trained here in a second."""
    from hf_cifar_resnet.data.dataset import normalize
    from hf_cifar_resnet.data.splits import ImageSplits

    torch.manual_seed(0)
    names = list(COLOURS)
    shape = {"block": "basic", "stage_depths": [1, 1], "stage_widths": [16, 32]}
    config = CifarResNetConfig(**shape, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    model = CifarResNetForImageClassification(config)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = np.stack([np.asarray(colour_image(names[label])) for label in labels])
    images = np.clip(images + rng.normal(0, 25, images.shape), 0, 255).astype(np.uint8)
    pixels, targets = normalize(images, [0.5] * 3, [0.25] * 3), torch.tensor(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        model(pixel_values=pixels, labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("colours")
    model.eval().save_pretrained(folder)
    splits = ImageSplits(None, None, None, names, None, [0.5] * 3, [0.25] * 3)
    splits.image_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def write_image(tmp_path):
    """Saves an image of one colour under `tmp_path`, and returns its path as text."""

    def write(path, colour, size=(32, 32), mode="RGB"):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        colour_image(colour, size).convert(mode).save(path)
        return str(path)

    return write
