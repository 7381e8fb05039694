"""Our model in transformers' own Trainer."""

import pytest
import torch
from transformers import Trainer, TrainingArguments


@pytest.fixture
def stock(make_model, tmp_path):
    """transformers' Trainer with our model on 24 images of noise."""
    images = [{"pixel_values": torch.randn(3, 8, 8), "labels": number % 3} for number in range(24)]

    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

    def make(**options):
        args = TrainingArguments(str(tmp_path), num_train_epochs=1, use_cpu=True, report_to="none", **options)
        return Trainer(
            make_model(num_labels=3), args, train_dataset=images, eval_dataset=images, compute_metrics=accuracy
        )

    return make


def test_evaluation_has_loss_labels_and_metrics(stock):
    trainer = stock()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0 and 0 <= metrics["eval_accuracy"] <= 1
    assert trainer.predict(trainer.eval_dataset).label_ids.tolist() == [number % 3 for number in range(24)]


def test_best_model_is_found(stock):
    trainer = stock(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    trainer.train()
    assert trainer.state.best_metric == pytest.approx(trainer.evaluate()["eval_loss"])
