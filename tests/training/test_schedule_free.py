"""Schedule-free optimizers: the averages are evaluated and saved, with BatchNorm statistics of their own."""

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("schedulefree", reason="not tested: schedule-free optimizers, since schedulefree is not installed")
RUN = {"lr_scheduler_type": "constant_with_warmup", "learning_rate": 0.05, "num_train_epochs": 2}


@pytest.mark.parametrize("optim", ["schedule_free_adamw", "schedule_free_sgd"])
@pytest.mark.parametrize("saving", [{"save_strategy": "steps", "save_steps": 3}, {"eval_strategy": "epoch"}])
def test_averages_are_evaluated_and_saved(make_trainer, tmp_path, optim, saving):
    trainer = make_trainer(optim=optim, **RUN, **saving)
    trainer.train()
    trainer.save_model()
    saved = load_file(tmp_path / "run" / "model.safetensors")
    averages = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert all(torch.equal(saved[name], value) for name, value in averages.items())
    trainer.optimizer.train()  # the point that is trained
    parameters = dict(trainer.model.named_parameters())
    assert not any(torch.equal(saved[name], value) for name, value in parameters.items())
    # The statistics of the averages: the mean over training batches.
    name = next(key for key in averages if key.endswith("bn1.running_mean") and "layer" not in key)
    trainer.optimizer.eval()
    convolution = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        images = torch.cat([trainer._normalized(batch)["pixel_values"] for batch in trainer.get_train_dataloader()])
        mean = convolution(images).mean(dim=(0, 2, 3))
    assert torch.allclose(averages[name], mean, atol=1e-5)
    # Those batches are in an order of their own, which is not that of an evaluation on the same images.
    data = trainer.train_dataset
    assert trainer.predict(data).label_ids.tolist() == [int(label) for label in data.labels]


def test_best_model_is_not_averaged_again(make_trainer, tmp_path):
    """The best model comes from a checkpoint, after more steps."""
    script = iter([0.9, 0.1, 0.5])
    options = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4, "max_steps": 6}
    trainer = make_trainer(optim="schedule_free_adamw", **(RUN | options), load_best_model_at_end=True,
                           compute_metrics=lambda prediction: {"top1": next(script)})  # fmt: skip
    trainer.train()
    trainer.save_model()
    trainer.evaluate()
    best, saved = (load_file(tmp_path / "run" / folder / "model.safetensors") for folder in ("checkpoint-4", "."))
    now = trainer.model.state_dict()
    assert all(torch.equal(value, saved[name]) and torch.equal(value, now[name]) for name, value in best.items())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr_scheduler_type": "cosine"}, "needs no schedule, got cosine: use constant or constant_with_warmup"),
        ({"lr_scheduler_type": "constant", "ema_decay": 0.9}, "averages the weights already: leave ema_decay out"),
    ],
)
def test_what_averages_or_decays_already_is_refused(make_args, options, message):
    with pytest.raises(ValueError, match=f"schedule_free_sgd {message}"):
        make_args(optim="schedule_free_sgd", **options)
