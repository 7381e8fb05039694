"""Reproducible augmentation with Albumentations."""

import random

import albumentations as A
import numpy as np
from albumentations.core.transforms_interface import BasicTransform


class Augmenter:
    """
    Apply a policy with random numbers that depend on (seed, epoch, index) alone.

    Albumentations ignores global seeds, and its own seed would repeat in every worker and epoch. Here all transforms
    share one counter-based generator (Philox, Salmon et al. 2011), which is reset for each image.

    Args:
        policy (`A.Compose`): uint8 image to uint8 image of the same size.
        seed (`int`): 0 to 2**32 - 1.
    """

    def __init__(self, policy, seed=0):
        self.policy = policy
        self.seed = seed
        self._bits = np.random.Philox()
        self._generator = np.random.Generator(self._bits)
        self._py_random = random.Random()
        self._state = self._bits.state | {"buffer_pos": 4, "has_uint32": 0}
        policy.set_random_state(self._generator, self._py_random)
        self._steps = [(step, _is_plain(step)) for step in policy.transforms] if _only_images(policy) else None

    def __call__(self, image, epoch, index):
        """Return an augmented copy of a contiguous uint8 image (height, width, 3)."""
        self._reseed(epoch, index)
        if self._steps is None:
            return self.policy(image=image)["image"]
        # This equals Compose without its checks, which take longer than a transform of a small image.
        if self._py_random.random() >= self.policy.p:
            return image
        for step, is_plain in self._steps:
            image = _apply(step, image) if is_plain else step(image=image)["image"]
        return image

    def _reseed(self, epoch, index):
        state = self._state["state"]
        state["key"][:] = self.seed, epoch
        state["counter"][:] = 0, index, 0, 0
        self._bits.state = self._state
        # The leading 1 gives all seeds the same length; seeds of different lengths may give the same numbers.
        self._py_random.seed(1 << 96 | self.seed << 64 | epoch << 32 | index)


def _only_images(policy):
    """Return whether a Compose only applies its transforms in sequence to an image."""
    return type(policy) is A.Compose and not policy.processors and not policy.save_applied_params


def _is_plain(transform):
    """Return whether [`_apply`] equals calling the transform: not a group, and `apply` is all that it overrides."""
    return isinstance(transform, BasicTransform) and all(
        getattr(type(transform), name) is getattr(BasicTransform, name)
        for name in ("__call__", "apply_with_params", "should_apply", "update_transform_params")
    )


def _apply(transform, image):
    if transform.p < 1 and not transform.should_apply():
        return image
    data = {"image": image}
    params = transform.update_transform_params(transform.get_params(), data)
    params |= transform.get_params_dependent_on_data(params, data)
    return np.ascontiguousarray(transform.targets["image"](image, **params))
