"""Where files' data lie. Sections "Segments", "Slots", "Which chunks and blocks are used"."""

from .constants import (
    BIN_MIN, BLOCK, CHUNK, CHUNK_BLOCKS, LARGE, LOW_CHUNKS, SLOT_MIN, ceil_div, quantum,
)
from .layer import FILE
from .run import Run


class Segment:
    """The chunks of one layer's files.

    pieces says where a file's data are: rank -> (first block, blocks). used
    holds the chunks that belong to the disk, owned the ranks of the pieces
    that the tree shows.
    """

    def __init__(self, entries):
        self.entries = entries
        self.pieces = {}
        self.chunks = self._place()
        self.first = 0  # chunk of the disk where the slot begins
        self.owned = set()
        self.used = set()

    def _place(self):
        """Gives out blocks, and returns the number of chunks."""
        given, bin_at, small = 0, None, Run(CHUNK_BLOCKS, BIN_MIN)
        for rank, entry in enumerate(self.entries):
            if entry.kind != FILE or not entry.data:
                continue
            blocks = ceil_div(len(entry.data), BLOCK)
            if len(entry.data) >= LARGE:
                self.pieces[rank] = given * CHUNK_BLOCKS, blocks
                given += ceil_div(blocks, CHUNK_BLOCKS)
                continue
            if bin_at is None:
                bin_at, given = given, given + 1
            ended = small.put((blocks, entry.path, rank))
            if ended:
                self._fill(bin_at, ended)
                bin_at, given = given, given + 1
        self._fill(bin_at, small.parts)
        return given

    def _fill(self, chunk, files):
        """Places small files one behind the other in a chunk."""
        used = 0
        for blocks, _, rank in files:
            self.pieces[rank] = chunk * CHUNK_BLOCKS + used, blocks
            used += blocks

    def _in_chunks(self, rank):
        """The parts of a piece: chunk, first block in it, blocks, bytes."""
        start, blocks = self.pieces[rank]
        data = self.entries[rank].data
        at = start
        while at < start + blocks:
            end = min(start + blocks, at - at % CHUNK_BLOCKS + CHUNK_BLOCKS)
            part = data[(at - start) * BLOCK:(end - start) * BLOCK]
            yield at // CHUNK_BLOCKS, at % CHUNK_BLOCKS, end - at, part
            at = end

    def use(self, inodes):
        """Notes what the tree shows of this layer; inodes are the tree's of this layer."""
        self.owned = {i.rank for i in inodes if i.rank in self.pieces}
        stored = set()
        for rank in self.pieces:
            stored.update(c for c, _, _, part in self._in_chunks(rank) if part != bytes(len(part)))
        for rank in self.owned:
            self.used.update(c for c, _, _, _ in self._in_chunks(rank) if c in stored)

    def extents(self, rank):
        """The extents of a file: (block of the file, blocks, block of the disk)."""
        if rank not in self.pieces:
            return []
        start, blocks = self.pieces[rank]
        base = self.first * CHUNK_BLOCKS
        if len(self.entries[rank].data) < LARGE:
            return [(0, blocks, base + start)]
        return [
            (at, min(CHUNK_BLOCKS, blocks - at), base + start + at)
            for at in range(0, blocks, CHUNK_BLOCKS)
            if (start + at) // CHUNK_BLOCKS in self.used
        ]

    def stored(self):
        """The bytes of the chunks that belong to the disk: chunk of the disk -> bytes."""
        chunks = {c: bytearray(CHUNK) for c in self.used}
        for rank in self.pieces:
            for chunk, at, _, part in self._in_chunks(rank):
                if chunk in chunks:
                    chunks[chunk][at * BLOCK:at * BLOCK + len(part)] = part
        return {self.first + c: bytes(data) for c, data in chunks.items()}

    def not_shown(self):
        """Runs (first block of the disk, blocks) in used chunks that no file shows."""
        shown = {c: bytearray(CHUNK_BLOCKS) for c in self.used}
        for rank in self.owned:
            for chunk, at, blocks, _ in self._in_chunks(rank):
                if chunk in shown:
                    shown[chunk][at:at + blocks] = b"\1" * blocks
        for chunk, blocks in sorted(shown.items()):
            base = (self.first + chunk) * CHUNK_BLOCKS
            at = blocks.find(0)
            while at >= 0:
                end = blocks.find(1, at)
                end = CHUNK_BLOCKS if end < 0 else end
                yield base + at, end - at
                at = blocks.find(0, end)


def give_slots(segments):
    """Places the segments, and returns the first chunk behind them."""
    chunk = LOW_CHUNKS
    for segment in segments:
        segment.first = chunk
        chunk += quantum(segment.chunks, SLOT_MIN)
    return chunk
