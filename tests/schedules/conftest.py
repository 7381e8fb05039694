"""The fixtures of tests that train."""

from trainer_fixtures import make_args, make_dataset, make_model, make_trainer, quick, rates_used  # noqa: F401
