import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.runs.arguments import RunArguments
from hf_cifar_resnet.training.arguments import ModelArguments, resolve
from hf_cifar_resnet.training.build import build_model, build_trainer, load_data_and_model, prepare_fine_tuning


@pytest.fixture
def saved(make_model, tmp_path):
    """A model of two classes in a folder, with a processor."""
    from transformers import ViTImageProcessor

    model = make_model(num_labels=2, id2label={0: "cat", 1: "dog"})
    model.save_pretrained(tmp_path / "saved")
    size = {"height": 64, "width": 64}
    processor = ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.2] * 3)
    processor.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def labels(*names):
    return SimpleNamespace(
        label_names=list(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )


def test_same_labels_keep_all_weights(saved):
    model, folder = saved
    again = build_model(ModelArguments(model_name_or_path=str(folder)), labels("cat", "dog"), folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "names, difference",
    [
        (("cat", "oak"), "class 1 is dog in the first and oak in the second"),
        (("dog", "cat"), "class 0 is cat in the first and dog in the second"),
        (("a", "b", "c"), "2 classes in the first and 3 in the second"),
    ],
)
def test_other_labels_get_a_new_classifier(saved, caplog, names, difference):
    model, folder = saved
    again = build_model(ModelArguments(model_name_or_path=str(folder)), labels(*names), folder)
    assert again.num_labels == again.config.num_labels == len(names)
    assert again.config.id2label == dict(enumerate(names))
    assert again(torch.zeros(1, 3, 8, 8)).logits.shape == (1, len(names))
    assert not torch.equal(again.classifier.weight[:2], model.classifier.weight)
    assert torch.equal(again.resnet.backbone.conv1.weight, model.resnet.backbone.conv1.weight)
    assert "New classifier" in caplog.text and difference in caplog.text


def test_dropout_may_be_chosen_anew(saved):
    _, folder = saved
    again = build_model(ModelArguments(model_name_or_path=str(folder), dropout=0.25), labels("cat", "dog"), folder)
    assert again.dropout.p == again.config.dropout == 0.25


def fine_tuning(folder, **given):
    return resolve(RunArguments({"use_cpu": True, "model_name_or_path": str(folder), **given}))


def test_images_are_those_that_the_model_knows(saved):
    arguments = fine_tuning(saved[1], augmentation="none")
    known = {"image_size": 64, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    assert prepare_fine_tuning(arguments, saved[1]) == DataArguments(augmentation="none", **known)
    assert arguments.data == DataArguments(augmentation="none")
    given = {"image_size": 32, "image_mean": [0.5] * 3, "image_std": [0.1] * 3}
    assert prepare_fine_tuning(fine_tuning(saved[1], **given), saved[1]) == DataArguments(**given)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"folder": "{saved}", "depth": 18}, "^depth describes a new model"),
        ({"folder": "{empty}"}, "cannot be loaded"),
    ],
)
def test_refused_in_one_line(saved, tmp_path, options, reason):
    (tmp_path / "empty").mkdir()
    name = options["folder"].format(saved=saved[1], empty=tmp_path / "empty")
    with pytest.raises(ValueError, match=reason) as refused:
        prepare_fine_tuning(fine_tuning(**(options | {"folder": name})), Path(name))
    assert "\n" not in str(refused.value)


def test_training_changes_no_arguments(tmp_path):
    given = {
        "use_cpu": True, "dataset_name": "shapes100", "max_train_samples": 100, "max_eval_samples": 100,
        "block": "basic", "stage_depths": [1], "stage_widths": [8], "num_train_epochs": 1.0, "ema_decay": 0.9,
        "gradient_accumulation_steps": 2, "global_batch_size": 20, "lr_scaling": "linear",
        "lr_scheduler_type": "reduce_lr_on_plateau", "early_stopping_patience": 1, "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    arguments = resolve(RunArguments(given))
    data, model, prepared = load_data_and_model(arguments)

    def state():
        parts = [(vars(each.model), vars(each.data), each.training.to_dict()) for each in (arguments, prepared)]
        return json.dumps(parts, default=str)

    before = state()
    trainer = build_trainer(model, prepared.training, data, prepared.data.eval_split)
    trainer.train()
    trainer.predict(data.test)
    trainer.save_model()
    assert state() == before
    assert resolve(RunArguments(given)).training.to_dict() == arguments.training.to_dict()
