from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.training.arguments import ModelArguments
from hf_cifar_resnet.training.build import build_model, prepare_fine_tuning


@pytest.fixture
def saved(make_model, tmp_path):
    """A model of two classes in a folder, with a processor."""
    from transformers import ViTImageProcessor

    model = make_model(num_labels=2, id2label={0: "cat", 1: "dog"})
    model.save_pretrained(tmp_path / "saved")
    ViTImageProcessor(image_mean=[0.4, 0.4, 0.4], image_std=[0.2, 0.2, 0.2]).save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def labels(*names):
    return SimpleNamespace(
        label_names=list(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )


def test_same_labels_keep_all_weights(saved):
    model, folder = saved
    again = build_model(ModelArguments(model_name_or_path=str(folder)), labels("cat", "dog"), folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("names", [("cat", "oak"), ("dog", "cat"), ("a", "b", "c")])
def test_other_labels_get_a_new_classifier(saved, caplog, names):
    model, folder = saved
    again = build_model(ModelArguments(model_name_or_path=str(folder)), labels(*names), folder)
    assert again.num_labels == again.config.num_labels == len(names)
    assert again.config.id2label == dict(enumerate(names))
    assert again(torch.zeros(1, 3, 8, 8)).logits.shape == (1, len(names))
    assert not torch.equal(again.classifier.weight[:2], model.classifier.weight)
    assert torch.equal(again.resnet.backbone.conv1.weight, model.resnet.backbone.conv1.weight)
    assert f"New classifier for {len(names)} classes" in caplog.text


def test_dropout_may_be_chosen_anew(saved):
    _, folder = saved
    again = build_model(ModelArguments(model_name_or_path=str(folder), dropout=0.25), labels("cat", "dog"), folder)
    assert again.dropout.p == again.config.dropout == 0.25


def test_images_are_normalised_as_the_model_knows_them(saved):
    model_args = ModelArguments(model_name_or_path=str(saved[1]))
    data_args = DataArguments(augmentation="none")
    prepared = prepare_fine_tuning(model_args, data_args, saved[1])
    assert prepared == DataArguments(augmentation="none", image_mean=[0.4, 0.4, 0.4], image_std=[0.2, 0.2, 0.2])
    assert data_args == DataArguments(augmentation="none")
    given = DataArguments(image_mean=[0.5] * 3, image_std=[0.1] * 3)
    assert prepare_fine_tuning(model_args, given, saved[1]) == given


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"model_name_or_path": "{saved}", "depth": 18}, "^depth describes a new model"),
        ({"model_name_or_path": "{empty}"}, "cannot be loaded"),
    ],
)
def test_refused_in_one_line(saved, tmp_path, options, reason):
    (tmp_path / "empty").mkdir()
    name = options["model_name_or_path"].format(saved=saved[1], empty=tmp_path / "empty")
    with pytest.raises(ValueError, match=reason) as refused:
        prepare_fine_tuning(ModelArguments(**(options | {"model_name_or_path": name})), DataArguments(), Path(name))
    assert "\n" not in str(refused.value)
