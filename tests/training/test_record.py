from types import SimpleNamespace

from hf_cifar_resnet.runs.metrics import Timing
from hf_cifar_resnet.training.record import make_metrics

LOG = [
    {"loss": 2.0, "learning_rate": 0.1, "accuracy": 0.25, "images_per_second": 100.0, "seconds": 1.0, "epoch": 0.5,
     "step": 5},
    {"loss": 1.5, "learning_rate": 0.05, "accuracy": 0.5, "images_per_second": 110.0, "seconds": 2.0, "epoch": 1.0,
     "step": 10},
    {"eval_loss": 1.75, "eval_top1": 0.5, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.25, "eval_top1": 0.625, "epoch": 2.0, "step": 20},
]  # fmt: skip


def state_of(log_history):
    return SimpleNamespace(log_history=log_history, global_step=20, epoch=2.0, best_model_checkpoint=None)


ARGS = SimpleNamespace(load_best_model_at_end=False, metric_for_best_model="top1")


def test_speed_is_that_of_the_whole_training():
    assert make_metrics(state_of(LOG), ARGS, "none").timing == Timing(2.0, 105.0)
    assert make_metrics(state_of([]), ARGS, "none").timing == Timing(None, None)


def test_evaluations_are_counted():
    assert make_metrics(state_of(LOG), ARGS, "validation").evaluations == 2
    without = make_metrics(state_of(LOG[:2]), ARGS, "validation")
    assert (without.evaluations, without.validation) == (0, None)
