"""
Learning-rate schedules: one [`ScheduleSpec`] each in `registry.py`, one file per family.

```python
from hf_cifar_resnet import schedules

schedules.names()                        # "constant", "constant_with_warmup", "cosine", ...
schedules.get("one_cycle").arguments     # "pct_start", "anneal_strategy", ...
scheduler = schedules.create("cosine_with_warmup", optimizer, total_steps=1000)
```

Nothing here knows of a model, a dataset or a Trainer.
"""

from .callback import ScheduleCallback
from .fit import find_misfit, try_out
from .preview import dry_run, preview_rates, rates_at
from .registry import check, create, get, names
from .scheduler import Schedule
from .spec import ScheduleSpec

__all__ = [
    "Schedule",
    "ScheduleCallback",
    "ScheduleSpec",
    "check",
    "create",
    "dry_run",
    "find_misfit",
    "get",
    "names",
    "preview_rates",
    "rates_at",
    "try_out",
]
