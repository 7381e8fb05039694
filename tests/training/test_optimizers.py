import inspect

import pytest
import torch

from hf_cifar_resnet import CifarTrainer
from hf_cifar_resnet.training import optimizers


@pytest.mark.parametrize(
    "optim, optim_args",
    [
        ("adamw_torch", None),
        ("sgd", "momentum=0.9, nesterov=true"),
        ("sgd", "dampening=0"),
        ("rmsprop", "alpha=0.9,centered=yes,momentum=0"),
        ("adagrad", "lr_decay=0.1"),
        ("muon", "momentum=0.9,nesterov=false,ns_steps=3,conv_mode=batched"),
    ],
)
def test_arguments_that_are_taken(make_trainer, optim, optim_args):
    if optim == "muon":
        pytest.importorskip("timm")
    trainer = make_trainer(optim=optim, optim_args=optim_args)
    optimizers.check_optimizer(trainer)
    assert trainer.optimizer is None


@pytest.mark.parametrize(
    "optim, optim_args, message",
    [
        ("adamw_torch_fused", "betas=0.5", "adamw_torch_fused does not take betas in optim_args; it takes: none"),
        ("sgd", "nesterof=1,momentum=0.9", "sgd does not take nesterof in .*: momentum, dampening, nesterov$"),
        ("sgd", "weight_decay=1", "sgd does not take weight_decay"),  # which has a flag of its own
        ("sgd", "foreach=true", "sgd does not take foreach"),  # though torch's does, the Trainer passes it not on
        ("sgd", "momentum=-1", "Invalid momentum value"),
        ("sgd", "nesterov=true", "Nesterov momentum requires a momentum"),
        ("sgd", "momentum=high", "could not convert string to float: 'high'"),
        ("rmsprop", "alpha=-1", "Invalid alpha value"),
        ("muon", "dampening=1", "muon does not take dampening in .*: momentum, nesterov, ns_steps, conv_mode$"),
        ("muon", "ns_steps=many", "optim_args ns_steps=many: 'many' is no number"),
        ("muon", "nesterov=perhaps", "nesterov must be true or false, got perhaps"),
    ],
)
def test_arguments_that_are_refused(make_trainer, optim, optim_args, message):
    with pytest.raises(ValueError, match=message):
        optimizers.check_optimizer(make_trainer(optim=optim, optim_args=optim_args))


VALUES = {"nesterov": "true", "centered": "true", "ns_steps": "7", "conv_mode": "batched"}


@pytest.mark.parametrize("optim", sorted(optimizers.OPTIM_ARGS))
def test_names_that_an_optimizer_reads(make_args, optim):
    """These, and none other that its class takes, change what it is made with."""
    pytest.importorskip("timm" if optim == "muon" else "schedulefree" if optim in optimizers.SCHEDULE_FREE else "torch")

    def made_with(optim_args):
        schedule = "constant" if optim in optimizers.SCHEDULE_FREE else "cosine"
        args = make_args(optim=optim, optim_args=optim_args, lr_scheduler_type=schedule)
        return CifarTrainer.get_optimizer_cls_and_kwargs(args)

    kind, kwargs = made_with(None)
    names = set(inspect.signature(kind).parameters) - {"self", "params", "weight_decay", "kwargs"}
    read = set()
    for name in {*names, *optimizers.OPTIM_ARGS[optim]}:
        try:
            if made_with(f"{name}={VALUES.get(name, '0.123')}") != (kind, kwargs):
                read.add(name)
        except ValueError:  # it is read
            read.add(name)
    assert read == set(optimizers.OPTIM_ARGS[optim])


def test_muon_orthogonalizes_convolutions_alone(make_trainer):
    pytest.importorskip("timm")
    trainer = make_trainer(optim="muon", learning_rate=0.01, lr_scheduler_type="constant", weight_decay=0, max_steps=1)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        step = (value.detach() - before[name]).flatten(1) if value.ndim > 1 else None
        if value.ndim == 4:
            # The singular values of an orthogonalised step are nearly equal; Newton and Schulz leave 0.7 to 1.2 of 1.
            values = torch.linalg.svdvals(step)
            assert values.max() < 2 * values.min(), name
        elif value.ndim == 2:
            # The first step of Adam is the sign of the gradient, which no image of an absent class has.
            assert (step.abs() - 0.01).abs().max() < 1e-4, name


def test_muon_resumes_to_the_same_weights(make_trainer, tmp_path):
    pytest.importorskip("timm")
    options = {"optim": "muon", "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}
    uninterrupted = make_trainer(**options)
    uninterrupted.train()
    resumed = make_trainer("resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    ends = [trainer.model.state_dict() for trainer in (uninterrupted, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
