"""Inodes. Section "Inodes"."""

import struct
from dataclasses import dataclass

from .constants import INODE_BYTES
from .crc import crc, inode_seed
from .layer import BLOCK_DEVICE, CHAR_DEVICE, DIR, FIFO, FILE, SYMLINK

FORMATS = {
    FIFO: 0x1000, CHAR_DEVICE: 0x2000, DIR: 0x4000, BLOCK_DEVICE: 0x6000, FILE: 0x8000,
    SYMLINK: 0xA000,
}
EXTENTS = 0x80000
INDEX = 0x1000
MAX_LINKS = 65000


@dataclass
class Record:
    """What an inode says. The defaults are those of inodes 5 and 8."""

    mode: int = 0x8000 | 0o600
    uid: int = 0
    gid: int = 0
    size: int = 0
    time: tuple = (0, 0)
    links: int = 1
    sectors: int = 0
    flags: int = EXTENTS
    area: bytes = b""
    attribute_block: int = 0
    attributes: bytes = b""

    def encode(self, number):
        """The 256 bytes of inode number."""
        low, extra = _time(*self.time)
        out = bytearray(INODE_BYTES)

        def put(form, at, value):
            mask = (1 << 8 * struct.calcsize(form)) - 1
            struct.pack_into(form, out, at, value & mask)

        put("<H", 0x00, self.mode)
        _halves(put, "<H", 0x02, "<H", 0x78, self.uid)
        _halves(put, "<I", 0x04, "<I", 0x6C, self.size)
        for at in 0x08, 0x0C, 0x10, 0x90:
            put("<I", at, low)
        for at in 0x8C, 0x84, 0x88, 0x94:
            put("<I", at, extra)
        _halves(put, "<H", 0x18, "<H", 0x7A, self.gid)
        put("<H", 0x1A, self.links)
        _halves(put, "<I", 0x1C, "<H", 0x74, self.sectors)
        put("<I", 0x20, self.flags)
        out[0x28:0x28 + len(self.area)] = self.area
        _halves(put, "<I", 0x68, "<H", 0x76, self.attribute_block)
        put("<H", 0x80, 32)
        out[0xA0:0xA0 + len(self.attributes)] = self.attributes
        _halves(put, "<H", 0x7C, "<H", 0x82, crc(inode_seed(number), bytes(out)))
        return bytes(out)


def _halves(put, low, low_at, high, high_at, value):
    put(low, low_at, value)
    put(high, high_at, value >> 8 * struct.calcsize(low))


def _time(seconds, nanoseconds):
    """The low word of a time and its extra word."""
    signed = (seconds + 2**31) % 2**32 - 2**31
    return seconds, (seconds - signed) // 2**32 | nanoseconds << 2


def device_area(major, minor):
    """The block area of a device."""
    if major < 256 and minor < 256:
        return struct.pack("<I", major * 256 + minor)
    return struct.pack("<II", 0, minor % 256 + major * 256 + (minor - minor % 256) * 4096)
