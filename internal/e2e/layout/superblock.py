"""Superblock and journal superblock. Sections "Superblock" and "Journal"."""

import struct

from .constants import (
    CHECKSUM_SEED, GROUP_BLOCKS, GROUP_INODES, HASH_SEED, INODE_BYTES, JOURNAL, JOURNAL_BLOCKS,
    BLOCK,
)
from .crc import crc


def superblock(areas, free_blocks, free_inodes, uuid, journal_area):
    """The 1,024 bytes at byte 1,024."""
    out = bytearray(1024)
    words = {
        0x00: GROUP_INODES * areas.groups,
        0x04: areas.blocks & 0xFFFFFFFF, 0x150: areas.blocks >> 32,
        0x0C: free_blocks & 0xFFFFFFFF, 0x158: free_blocks >> 32,
        0x10: free_inodes,
        0x18: 2, 0x1C: 2,
        0x20: GROUP_BLOCKS, 0x24: GROUP_BLOCKS, 0x28: GROUP_INODES,
        0x4C: 1, 0x54: 11,
        0x5C: 0x22C, 0x60: 0x22C2, 0x64: 0x46A,
        0xE0: JOURNAL,
        0x100: 0xC,
        0x148: 0, 0x14C: JOURNAL_BLOCKS * BLOCK,
        0x160: 2,
        0x248: areas.descriptors_end + 1026 * areas.groups + JOURNAL_BLOCKS,
        0x270: CHECKSUM_SEED,
    }
    halves = {
        0x36: 0xFFFF, 0x38: 0xEF53, 0x3A: 1, 0x3C: 1, 0x58: INODE_BYTES, 0xFE: 64,
        0x15C: 32, 0x15E: 32,
    }
    for at, value in words.items():
        struct.pack_into("<I", out, at, value)
    for at, value in halves.items():
        struct.pack_into("<H", out, at, value)
    for at, value in {0xFC: 1, 0xFD: 1, 0x174: 4, 0x175: 1}.items():
        out[at] = value
    out[0x68:0x78] = uuid
    out[0xEC:0xFC] = HASH_SEED
    out[0x10C:0x148] = journal_area
    struct.pack_into("<I", out, 0x3FC, crc(0xFFFFFFFF, bytes(out[:0x3FC])))
    return bytes(out)


def journal_superblock():
    """The journal's only block that is not zero."""
    out = bytearray(1024)
    for at, value in {
        0x00: 0xC03B3998, 0x04: 4, 0x0C: BLOCK, 0x10: JOURNAL_BLOCKS, 0x14: 1, 0x18: 1, 0x40: 1,
    }.items():
        struct.pack_into(">I", out, at, value)
    return bytes(out)
