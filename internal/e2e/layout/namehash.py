"""Hash of the names in a directory. Section "Hash of names"."""

import struct

from .constants import HASH_SEED

_MASK = 0xFFFFFFFF
_ROUNDS = (
    (lambda b, c, d: d ^ b & (c ^ d), (0, 1, 2, 3, 4, 5, 6, 7), 0, (3, 7, 11, 19)),
    (lambda b, c, d: (b & c) + ((b ^ c) & d), (1, 3, 5, 7, 0, 2, 4, 6), 0x5A827999, (3, 5, 9, 13)),
    (lambda b, c, d: b ^ c ^ d, (3, 7, 2, 6, 1, 5, 0, 4), 0x6ED9EBA1, (3, 9, 11, 15)),
)


def _words(rest):
    """Eight words of the next 32 bytes; the length of the whole rest fills them."""
    words = []
    for at in range(0, 32, 4):
        word = (len(rest) & 255) * 0x01010101
        for byte in rest[at:min(at + 4, 32)]:
            word = (word << 8 | byte) & _MASK
        words.append(word)
    return words


def name_hash(name):
    """(hash, minor hash) of a name."""
    state = struct.unpack("<4I", HASH_SEED)
    for at in range(0, len(name), 32):
        words = _words(name[at:])
        a, b, c, d = state
        for mix, order, k, shifts in _ROUNDS:
            for step, word in enumerate(order):
                t = (a + mix(b, c, d) + words[word] + k) & _MASK
                s = shifts[step % 4]
                a, b, c, d = d, (t << s | t >> 32 - s) & _MASK, b, c
        state = [(x + y) & _MASK for x, y in zip(state, (a, b, c, d))]
    first = state[1] & ~1
    return 0xFFFFFFFC if first == 0xFFFFFFFE else first, state[2]
