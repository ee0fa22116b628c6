"""Random toy models whose weights follow from names, so that fixtures need no weights: packages/engine/src/testing/toys.ts makes the
same numbers. Value i of a tensor is base + spread · u, with u in [-1, 1) from the high 24 bits of a 32-bit hash of i and the name."""

import math

import numpy as np


def fnv1a(text: str) -> int:
    """32-bit FNV-1a of the ASCII text."""
    value = 0x811C9DC5
    for byte in text.encode("ascii"):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of this shape. Matrices spread so that sums keep their size, biases by 0.3, norms by 0.3 around 1."""
    size = int(np.prod(shape))
    with np.errstate(over="ignore"):
        h = np.arange(size, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(fnv1a(name))
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
    u = (h >> np.uint32(8)).astype(np.float64) / 2**23 - 1
    base = 1.0 if "norm" in name else 0.0
    spread = math.sqrt(6 / shape[-1]) if len(shape) == 2 else 0.3
    return (base + spread * u).astype(np.float32).reshape(shape)


def ids(tokens: int, vocab: int) -> list[int]:
    """The text of every toy."""
    return [(i * 37 + 5) % vocab for i in range(tokens)]
