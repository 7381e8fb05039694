import itertools

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from hf_cifar_resnet.data.steps import Steps


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("num_images", [1, 3, 8, 23, 24, 25, 48, 50])
def test_each_image_counts_once(num_images, processes, accumulation, drop_last):
    """In the batches that Accelerate gives to the processes."""
    steps = Steps(num_images, 4, processes, accumulation, drop_last)
    sampler = BatchSampler(range(num_images), 4, drop_last)
    shards = [list(BatchSamplerShard(sampler, processes, rank)) for rank in range(processes)]
    if processes == 1:
        shards = [list(sampler)]  # which Accelerate leaves as it is
    assert {len(shard) for shard in shards} == {steps.batches}
    counted, in_all = [], sum(map(len, itertools.chain(*shards)))
    for step in range(steps.in_epoch):
        parts = list(zip(*shards, strict=True))[step * accumulation : (step + 1) * accumulation]
        of_step = []
        for part, batches in enumerate(parts):
            for rank, batch in enumerate(batches):
                of_step += batch[: steps.count(step, part, rank)]
        assert steps.locate(step) == (0, range(len(counted), len(counted) + len(of_step)))
        assert len(of_step) / steps.share(step) == pytest.approx(len(parts) * processes)
        counted += of_step
    whole = num_images // (4 * processes) * 4 * processes
    assert counted == list(range(whole if drop_last else num_images))
    assert steps.repeated == in_all - len(counted)


def test_epochs_follow_each_other():
    steps = Steps(10, 4)
    assert [steps.locate(step) for step in (2, 3, 5)] == [(0, range(8, 10)), (1, range(4)), (1, range(8, 10))]
