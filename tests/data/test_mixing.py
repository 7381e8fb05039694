import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from hf_cifar_resnet.data.mixing import Mixer, cutmix, label_share

BATCH, CLASSES, SIZE = 6, 5, 16
LABELS = torch.tensor([0, 3, 1, 4, 2, 0])
# Image i is one colour, i + 1: what a mixed pixel came from can be read off it.
IMAGES = torch.arange(1.0, BATCH + 1)[:, None, None, None].expand(BATCH, 3, SIZE, SIZE).contiguous()
BEFORE = [i - 1 for i in range(BATCH)]


def mix(step=0, part=0, **options):
    return Mixer(CLASSES, **options)(IMAGES, LABELS, step, part)


def label_weights(kept):
    """What the labels have to be where each image kept this share of itself."""
    own = one_hot(LABELS, CLASSES).float()
    return kept * own + (1 - kept) * own[BEFORE]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weighs_labels_as_pixels(alpha):
    seen = []
    for step in range(50):
        images, labels = mix(step, mixup_alpha=alpha)
        # Every pixel is kept * own + (1 - kept) * other.
        kept = ((images[1, 0, 0, 0] - IMAGES[0, 0, 0, 0]) / (IMAGES[1, 0, 0, 0] - IMAGES[0, 0, 0, 0])).item()
        torch.testing.assert_close(images, kept * IMAGES + (1 - kept) * IMAGES[BEFORE], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(labels, label_weights(kept), atol=1e-5, rtol=1e-5)
        assert -1e-6 <= kept <= 1 + 1e-6
        seen.append(kept)
    # The mean of Beta(alpha, alpha), and its variance.
    assert np.mean(seen) == pytest.approx(0.5, abs=0.2)
    assert np.var(seen) == pytest.approx(1 / (8 * alpha + 4), rel=0.6)


def test_cutmix_weighs_labels_as_pixels():
    shares = []
    for step in range(300):
        images, labels = mix(step, cutmix_alpha=1.0)
        own = images == IMAGES
        assert torch.equal(images[~own], IMAGES[BEFORE][~own])
        assert torch.equal(own, own[:1, :1].expand_as(own))
        kept = own[0, 0].float().mean().item()
        torch.testing.assert_close(labels, label_weights(kept), atol=1e-6, rtol=1e-6)
        rows, columns = torch.nonzero(~own[0, 0], as_tuple=True)
        if len(rows):
            height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
            assert len(rows) == height * width
        shares.append(kept)
    # Boxes that stick out are cut off, so that more is kept than the 0.5 that were drawn.
    assert 0.5 < np.mean(shares) < 0.8 and min(shares) < 0.3 and max(shares) > 0.97


@pytest.mark.parametrize("kept", [0.0, 0.25, 0.5, 1.0])
def test_box_of_cutmix_has_the_drawn_area_where_it_fits(kept):
    areas = [1 - cutmix(IMAGES, kept, np.random.default_rng(seed))[1] for seed in range(300)]
    # The sides are cut down to whole pixels.
    assert max(areas) == int(SIZE * np.sqrt(1 - kept)) ** 2 / SIZE**2


def test_share_of_the_batches():
    def shares(**options):
        both = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0} | options
        kinds = []
        for step in range(400):
            images, _ = mix(step, **both)
            # A mean of colours is MixUp; a box of less than a pixel is rare.
            whole = torch.isin(images, IMAGES.unique()).all()
            kinds.append("none" if torch.equal(images, IMAGES) else "cutmix" if whole else "mixup")
        return [kinds.count(kind) / 400 for kind in ("none", "mixup", "cutmix")]

    assert shares(probability=0.0) == [1, 0, 0]
    assert shares(probability=0.5) == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert shares(cutmix_share=0.2) == pytest.approx([0, 0.8, 0.2], abs=0.08)
    assert shares(cutmix_share=0.0) == [0, 1, 0]
    # With one of them on, what the share says of the other does not matter.
    assert shares(mixup_alpha=0.0, cutmix_share=0.0)[1:] == pytest.approx([0, 1], abs=0.05)
    assert shares(cutmix_alpha=0.0, cutmix_share=1.0) == [0, 1, 0]


def test_seed_step_part_and_rank_decide():
    both = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}

    def drawn(step=3, part=1, seed=5, rank=2):
        return mix(step, part, seed=seed, rank=rank, **both)[0]

    first = drawn()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(drawn(), first)
    others = [drawn(step=1), drawn(part=3), drawn(seed=2), drawn(rank=5), drawn(step=1, part=3), drawn(seed=2, rank=5)]
    assert len({other.numpy().tobytes() for other in [first, *others]}) == 7


def test_layout_and_the_given_batch_stay():
    before = IMAGES.clone()
    images = IMAGES.to(memory_format=torch.channels_last)
    for options in ({"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}):
        assert Mixer(CLASSES, **options)(images, LABELS, 0)[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_label_share_predictions():
    predicted = torch.tensor([0, 0, 1, 4, 2, 0])
    assert label_share(predicted, LABELS).tolist() == [True, False, True, True, True, True]
    mixed = label_weights(0.75)
    assert label_share(predicted, mixed).tolist() == [1.0, 0.25, 0.75, 0.75, 0.75, 0.75]
