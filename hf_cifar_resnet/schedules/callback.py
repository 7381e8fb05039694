"""The base of schedules that react to what happens in a training."""

from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .scheduler import Schedule


class ScheduleCallback(TrainerCallback):
    """
    A learning-rate schedule that reacts to events. Pass an instance of a subclass to [`CifarTrainer`] in `callbacks`,
    and it scales the schedule of `lr_scheduler_type`.

    ```python
    class HalveEveryEvaluation(ScheduleCallback):
        def after_evaluation(self, schedule, metrics, args):
            schedule.rescale(schedule.scale / 2)
    ```

    `schedule` is a [`Schedule`], whose `memory` is saved with every checkpoint, unlike attributes of the callback.
    """

    priority: ClassVar[int] = 50  # before what reports the learning rate

    def after_evaluation(self, schedule: Schedule, metrics: dict[str, float], args: TrainingArguments) -> None:
        """Called after every evaluation with its metrics, such as `eval_loss` and `eval_top1`."""

    def after_warmup(self, schedule: Schedule, args: TrainingArguments) -> None:
        """Called once, after the last step of the warmup."""

    def after_epoch(self, schedule: Schedule, epoch: int, args: TrainingArguments) -> None:
        """Called after every epoch with the number of epochs so far."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        schedule, metrics = kwargs["lr_scheduler"], kwargs["metrics"]
        # Evaluations before training or with another prefix do not count.
        if schedule is not None and state.global_step > 0 and any(name.startswith("eval_") for name in metrics):
            self.after_evaluation(schedule, metrics, args)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        schedule = kwargs["lr_scheduler"]
        if state.global_step == schedule.warmup_steps:
            self.after_warmup(schedule, args)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.after_epoch(kwargs["lr_scheduler"], round(state.epoch or 0), args)
