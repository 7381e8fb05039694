"""Reproducible augmentation with Albumentations."""

import random

import numpy as np


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
        self._py_random = random.Random()
        self._state = self._bits.state | {"buffer_pos": 4, "has_uint32": 0}
        policy.set_random_state(np.random.Generator(self._bits), self._py_random)

    def __call__(self, image, epoch, index):
        """Return an augmented copy of a contiguous uint8 image (height, width, 3)."""
        state = self._state["state"]
        state["key"][:] = self.seed, epoch
        state["counter"][:] = 0, index, 0, 0
        self._bits.state = self._state
        # The leading 1 gives all seeds the same length; seeds of different lengths may give the same numbers.
        self._py_random.seed(1 << 96 | self.seed << 64 | epoch << 32 | index)
        # This equals calling the policy without its checks, which take as long as a transform of a small image.
        if self._py_random.random() >= self.policy.p:
            return image
        for transform in self.policy.transforms:
            image = transform(image=image)["image"]
        return image
