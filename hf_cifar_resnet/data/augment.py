"""Albumentations, with randomness that depends on (seed, epoch, sample index) alone."""

import os
import random

import numpy as np

# Albumentations asks a package index for updates when imported, unless told otherwise.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402, F401 (policies.py has it from here)
import cv2  # noqa: E402

# OpenCV would start threads of its own in every worker.
cv2.setNumThreads(0)


class Augmenter:
    """
    Applies a policy so that an image's augmentation depends on (seed, epoch, index) alone.

    Albumentations ignores the global seeds, and its own would be the same in every worker and every epoch. Here all
    transforms share one counter-based generator (Philox, Salmon et al. 2011), set anew for each image.
    """

    def __init__(self, policy, seed=0):
        self.policy = policy
        self.seed = seed
        self._bits = np.random.Philox()
        self._generator = np.random.Generator(self._bits)
        self._py_random = random.Random()
        policy.set_random_state(self._generator, self._py_random)

    def __call__(self, image, epoch, index):
        """`image`: uint8 (height, width, 3). Returns an augmented copy of the same shape."""
        self._bits.state = {
            "bit_generator": "Philox",
            "state": {
                "key": np.array([self.seed, epoch], dtype=np.uint64),
                "counter": np.array([0, index, 0, 0], dtype=np.uint64),
            },
            "buffer": np.zeros(4, dtype=np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._py_random.seed(self.seed << 64 | epoch << 32 | index)
        return self.policy(image=image)["image"]
