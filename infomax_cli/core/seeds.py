"""Everything random derives from named parts: (seed, epoch, index), (seed, step, block, rank)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from `parts`; other parts give an unrelated seed, the same parts the same one on any machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(*parts: int | str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(*parts))


def torch_generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(derive_seed(*parts))
