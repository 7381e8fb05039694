import pytest

from hf_cifar_resnet.training import optimizers


@pytest.mark.parametrize(
    "optim, optim_args",
    [
        ("adamw_torch", None),
        ("sgd", "momentum=0.9, nesterov=true"),
        ("sgd", "dampening=0"),
        ("rmsprop", "alpha=0.9,centered=yes,momentum=0"),
        ("adagrad", "lr_decay=0.1"),
    ],
)
def test_arguments_that_are_taken(make_trainer, optim, optim_args):
    trainer = make_trainer(optim=optim, optim_args=optim_args)
    optimizers.check_optimizer(trainer)
    assert trainer.optimizer is None


@pytest.mark.parametrize(
    "optim, optim_args, told",
    [
        ("adamw_torch_fused", "betas=0.5", "adamw_torch_fused does not take betas in optim_args; it takes: none"),
        ("sgd", "nesterof=1,momentum=0.9", "sgd does not take nesterof in .*: momentum, dampening, nesterov$"),
        ("sgd", "weight_decay=1", "sgd does not take weight_decay"),  # which has a flag of its own
        ("sgd", "foreach=true", "sgd does not take foreach"),  # though torch's does, the Trainer passes it not on
        ("sgd", "momentum=-1", "Invalid momentum value"),
        ("sgd", "nesterov=true", "Nesterov momentum requires a momentum"),
        ("sgd", "momentum=high", "could not convert string to float: 'high'"),
        ("rmsprop", "alpha=-1", "Invalid alpha value"),
    ],
)
def test_arguments_that_are_refused(make_trainer, optim, optim_args, told):
    with pytest.raises(ValueError, match=told):
        optimizers.check_optimizer(make_trainer(optim=optim, optim_args=optim_args))
