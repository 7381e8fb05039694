"""The Trainer for images: what transformers' own leaves to be done, and nothing else."""

import time
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, Trainer

from ..data.dataset import EpochSampler, ImageDataset, collate, normalize
from ..evaluation.scoring import Scorer
from . import schedules
from .callbacks import EpochLineCallback, QuietProgressCallback

TRAINING_ARGS_JSON = "training_args.json"


class CifarTrainer(Trainer):
    """
    transformers' Trainer for [`CifarResNetForImageClassification`] on [`ImageDataset`]s.

    Its evaluations are exact whatever the batch size and the number of processes; label smoothing leaves them alone;
    weight decay leaves biases and BatchNorm alone; train accuracy and images/s are logged; every schedule of
    [`~hf_cifar_resnet.training.schedules`] works. It writes its arguments as JSON, not as a pickle.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): adds the superclass accuracy.
        All others as for `Trainer`; [`CifarTrainingArguments`] has the defaults that suit it.
    """

    def __init__(self, model=None, args=None, *, superclass_of=None, data_collator=None, compute_metrics=None,
                 callbacks=None, **kwargs):  # fmt: skip
        self._start_counting()
        self._scale = None
        decided = schedules.callbacks_for(args.lr_scheduler_type, args.lr_scheduler_kwargs)
        patience = args.early_stopping_patience
        stopping = [] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)]
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or collate,
            compute_metrics=compute_metrics or Scorer(superclass_of),
            # Whoever changes the schedule runs before the line that reports it.
            callbacks=[*decided, *(callbacks or []), EpochLineCallback(), *stopping],
            **kwargs,
        )
        # The layout of the images that come from an `ImageDataset`; 1.1 to 1.6 times as fast on two CPU cores.
        self.model.to(memory_format=torch.channels_last)
        # Shapes do not change, so trying out cuDNN's algorithms pays, unless they have to be the same ones every time.
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
        QuietProgressCallback.replace_in(self)

    # Data and optimizer

    def call_model_init(self, trial=None):
        return super().call_model_init(trial).to(memory_format=torch.channels_last)

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(dataset), seed)

    def _get_dataloader(self, dataset, *args, is_training=False, **kwargs):
        if isinstance(dataset, ImageDataset) and self._scale in (None, (dataset.mean, dataset.std)):
            self._scale = dataset.mean, dataset.std
            dataset = dataset.as_bytes()
        drop_last = self.args.dataloader_drop_last
        # Transformers would drop the last images of an evaluation too.
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        # A loader draws a seed for its workers, as often as depends on them: not from the stream that dropout uses.
        loader.base_dataloader.generator = torch.Generator()
        return loader

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        if inputs["pixel_values"].dtype == torch.uint8:
            inputs["pixel_values"] = normalize(inputs["pixel_values"], *self._scale)
        return inputs

    def get_decay_parameter_names(self, model):
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            self.lr_scheduler = schedules.create(
                self.args.lr_scheduler_type,
                self.optimizer if optimizer is None else optimizer,
                num_training_steps,
                self.args.warmup_steps,
                self.args.lr_scheduler_kwargs,
                by_events=any(isinstance(c, schedules.ScheduleCallback) for c in self.callback_handler.callbacks),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Training

    def train(self, *args, **kwargs):
        self._start_counting()
        return super().train(*args, **kwargs)

    def _start_counting(self):
        self._correct, self._seen = None, 0
        self._logged_at, self._paused, self._waited = time.perf_counter(), 0.0, 0.0

    def get_batch_samples(self, *args):
        started = time.perf_counter()
        batches = super().get_batch_samples(*args)
        self._waited += time.perf_counter() - started
        return batches

    def floating_point_ops(self, inputs):
        # The Trainer's estimate is one for language models, and walks over all modules at every step.
        return 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, label_smoothing=self.args.label_smoothing_factor)
        with torch.no_grad():
            correct = (outputs.logits.argmax(dim=-1) == inputs["labels"]).sum()
        # Kept on the device until it is logged: reading it at every step would stall a GPU.
        self._correct = correct if self._correct is None else self._correct + correct
        self._seen += len(inputs["labels"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs, start_time=None):
        if "loss" in logs and self._seen:
            logs |= self._training_figures()
        super().log(logs, start_time)

    def _training_figures(self):
        """
        Train accuracy, images/s and the share of the time spent waiting for data since the last log, training seconds
        in all; collective over all processes.
        """
        counts = torch.tensor([0.0, self._seen], dtype=torch.float64, device=self.args.device)
        counts[0] = self._correct
        correct, seen = self.accelerator.reduce(counts, reduction="sum").tolist()
        seconds = time.perf_counter() - self._logged_at - self._paused
        before = next((e["train_seconds"] for e in reversed(self.state.log_history) if "train_seconds" in e), 0.0)
        waited = self._waited
        self._start_counting()
        return {
            "train_accuracy": correct / seen,
            "images_per_second": seen / seconds,
            "data_wait": waited / seconds,
            "train_seconds": before + seconds,
        }

    # Evaluation

    def evaluation_loop(self, *args, **kwargs):
        started = time.perf_counter()
        self._share_buffers()
        output = super().evaluation_loop(*args, **kwargs)
        self._paused += time.perf_counter() - started
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # The Trainer would average losses over batches, whatever their size; the metrics have the exact loss.
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(pixel_values=inputs["pixel_values"]).logits
        return None, logits.float(), inputs.get("labels")

    def _share_buffers(self):
        """Every process evaluates with the BatchNorm statistics of the first, which are the ones that are saved."""
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    # Saving

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)
            (folder / TRAINING_ARGS_JSON).write_text(self.args.to_json_string() + "\n", encoding="utf-8")
