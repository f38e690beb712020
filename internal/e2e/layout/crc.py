"""CRC-32C as the format counts it. Section "Checksums"."""

import struct

from .constants import CHECKSUM_SEED


def _tables():
    """Eight tables: entry b of table k is byte b followed by k zero bytes."""
    first = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        first.append(byte)
    tables = [first]
    while len(tables) < 8:
        tables.append([first[c & 255] ^ c >> 8 for c in tables[-1]])
    return tables


_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7 = _tables()


def crc(register, data):
    """crc(s, bytes): begins with the register and inverts nothing."""
    whole = len(data) & ~7
    for low, high in struct.iter_unpack("<II", data[:whole]):
        low ^= register
        register = (
            _T7[low & 255] ^ _T6[low >> 8 & 255] ^ _T5[low >> 16 & 255] ^ _T4[low >> 24]
            ^ _T3[high & 255] ^ _T2[high >> 8 & 255] ^ _T1[high >> 16 & 255] ^ _T0[high >> 24]
        )
    for byte in data[whole:]:
        register = _T0[(register ^ byte) & 255] ^ register >> 8
    return register


def seeded(data):
    """crc(S, bytes)."""
    return crc(CHECKSUM_SEED, data)


def inode_seed(number):
    """I(i), the seed of what belongs to inode i."""
    return seeded(struct.pack("<II", number, 0))
