"""Numbers of the format. Sections "Constants" and "Inode numbers"."""

VERSION = 2

BLOCK = 4096
CHUNK_BLOCKS = 128
CHUNK = CHUNK_BLOCKS * BLOCK

LARGE = 131072  # bytes from which on a file has chunks of its own
BIN_MIN = 262144 // BLOCK  # blocks that an ended bin has at least

LOW_CHUNKS = 16
LOW_BLOCKS = LOW_CHUNKS * CHUNK_BLOCKS
SLOT_MIN = 16
INODE_UNIT = 2048
INODE_RUN = 128  # numbers that a run of entries has for itself

GROUP_BLOCKS = 32768
GROUP_INODES = 16384
INODE_BYTES = 256
TABLE_BLOCKS = GROUP_INODES * INODE_BYTES // BLOCK  # of a group
JOURNAL_BLOCKS = 8192

CHECKSUM_SEED = 0x72697631
HASH_SEED = b"rivulet layout 1"

ROOT = 2
BOOT_LOADER = 5
JOURNAL = 8
RESERVED = 10  # the first inodes, in use by definition
FIRST_NUMBER = 2049  # of layer 0's range

ZERO_BLOCK = bytes(BLOCK)


def ceil_div(a, b):
    """a / b, rounded up."""
    return -(-a // b)


def down(block):
    """The largest multiple of a chunk's blocks that is not above block."""
    return block - block % CHUNK_BLOCKS


def quantum(n, least):
    """The size of what has n parts and may grow without moving its neighbour."""
    size = least
    while size < n + n // 8:
        size *= 2
    return size
