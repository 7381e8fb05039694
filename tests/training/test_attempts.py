"""`train` called again, and the attempts of `auto_find_batch_size`, begin as the first one did."""

import copy

import pytest
import torch
from run_fixtures import RECORD

from hf_cifar_resnet import CifarTrainer, schedules
from hf_cifar_resnet.data.dataset import ImageDataset
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.runs.record import RunRecord
from hf_cifar_resnet.training.callbacks import RunRecordCallback

FITS = 7  # images a batch; transformers tries 8, then nine tenths of it


class Limited(ImageDataset):
    """Images of which no more than [`FITS`] fit into memory, from the fourth batch on."""

    fetched = 0

    def __getitems__(self, positions):
        self.fetched += 1
        if len(positions) > FITS and self.fetched > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000000 bytes.")
        return super().__getitems__(positions)


EVERYTHING = {
    "ema_decay": 0.9, "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "gradient_accumulation_steps": 2,
    "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "early_stopping_patience": 1,
}  # fmt: skip
OPTIONS = {
    "one_cycle": {"lr_scheduler_type": "one_cycle"},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 0.5, **EVERYTHING},
    "plateau": {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0},
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "eval_strategy": "steps",
        "eval_steps": 2,
    },
    "saved while aborted": {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1},
    "logged at the end": {"logging_strategy": "epoch"},
}
TIMES = {"images_per_second", "data_wait", "seconds", "train_runtime", "train_samples_per_second",
         "train_steps_per_second", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}  # fmt: skip


def untimed(log_history):
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in log_history]


def equal_weights(trainers):
    first, second = (trainer.model.state_dict() for trainer in trainers)
    return all(first[name].equal(tensor) for name, tensor in second.items())


@pytest.fixture
def train(make_trainer, make_model, make_dataset):
    """Trains a model with dropout: in attempts, the last with [`FITS`] images a batch, or with these at once."""

    def run(folder, attempts, resume=None, **options):
        size = {"auto_find_batch_size": True, "per_device_train_batch_size": FITS + 1}
        options |= size if attempts else {"per_device_train_batch_size": FITS}
        trainer = make_trainer(
            folder, model=make_model(dropout=0.3), train=make_dataset(kind=Limited), num_train_epochs=3, **options
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_aborted_attempts_leave_no_trace(train, tmp_path, options):
    trainers = train("attempts", True, **options), train("once", False, **options)
    assert trainers[0].state.train_batch_size == FITS
    assert equal_weights(trainers)
    assert untimed(trainers[0].state.log_history) == untimed(trainers[1].state.log_history)
    assert trainers[0].train_metrics.images_in_all == trainers[1].train_metrics.images_in_all
    kept = [{path.name for path in (tmp_path / folder).glob("checkpoint-*")} for folder in ("attempts", "once")]
    assert kept[0] == kept[1]


def test_run_record_has_the_batch_that_was_found(train, tmp_path):
    record = RunRecord.from_dict(RECORD | {"arguments": RECORD["arguments"] | {"global_batch_size": FITS + 1}})
    (tmp_path / "run").mkdir()
    train("run", True, callbacks=[RunRecordCallback(record)])
    changed = read_json(tmp_path / "run" / "run.json")["changed_arguments"]
    assert changed == {"global_batch_size": [FITS + 1, FITS]}


def test_run_of_a_found_batch_size_is_resumed_to_its_end(train, tmp_path):
    """Its 18 steps are more than the 15 that the given batch would take."""
    options = {"lr_scheduler_type": "one_cycle", "save_strategy": "steps", "save_steps": 16}
    whole = train("whole", True, **options)
    resumed = train("whole", True, resume=str(tmp_path / "whole" / "checkpoint-16"), **options)
    assert resumed.state.global_step == whole.state.global_step == 18
    assert equal_weights([whole, resumed])
    assert untimed(resumed.state.log_history) == untimed(whole.state.log_history)


@pytest.mark.parametrize("name", schedules.names())
def test_second_training_has_the_learning_rates_of_the_first(rates_used, name):
    rates, trainer = rates_used(lr_scheduler_type=name, num_train_epochs=2, eval_strategy="epoch",
                                compute_metrics=lambda prediction: {"top1": 0.5})  # fmt: skip
    first, momenta = rates.rates.copy(), rates.momenta.copy()
    trainer.train()
    assert (rates.rates, rates.momenta) == (2 * first, 2 * momenta)


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_second_training_starts_from_the_given_optimizer_state(make_args, make_model, make_dataset, name):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    before = copy.deepcopy(optimizer.state_dict())
    args = make_args(lr_scheduler_type=name, num_train_epochs=2)
    trainer = CifarTrainer(model, args, train_dataset=make_dataset(), optimizers=(optimizer, None))
    rates = []
    for _ in range(2):
        trainer.train()
        rates.append([entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry])
    assert rates[0] == rates[1] and max(rates[0]) == pytest.approx(0.1, rel=0.1)
    trainer.create_optimizer()
    assert trainer.optimizer.state_dict() == before
