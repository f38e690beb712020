"""The disk while it is written."""

import bisect

from .constants import BLOCK, ZERO_BLOCK


class Blocks:
    """Blocks that are not zero, and runs of blocks in use with what lies there."""

    def __init__(self):
        self.data = {}
        self.runs = []  # (first, count, what lies there)

    def put(self, block, data):
        """Writes one block, or the first part of it."""
        assert len(data) <= BLOCK
        data = bytes(data).ljust(BLOCK, b"\0")
        if data != ZERO_BLOCK:
            self.data[block] = data

    def claim(self, first, count, what):
        """Takes blocks into use."""
        if count:
            self.runs.append((first, count, what))

    def close(self):
        """Ends the taking: the runs are in order from here on."""
        self.runs.sort()
        for a, b in zip(self.runs, self.runs[1:]):
            assert a[0] + a[1] <= b[0], f"blocks {b[0]} belong to {a[2]} and {b[2]}"

    def used(self, first, count):
        """Bits, the lowest for the first block, of those in use."""
        bits = 0
        at = max(bisect.bisect(self.runs, (first,)) - 1, 0)
        while at < len(self.runs) and self.runs[at][0] < first + count:
            low = max(self.runs[at][0], first) - first
            high = min(sum(self.runs[at][:2]), first + count) - first
            if high > low:
                bits |= (1 << high) - (1 << low)
            at += 1
        return bits

    def what(self, block):
        """What lies at a block."""
        at = bisect.bisect(self.runs, (block, float("inf"))) - 1
        if at >= 0 and block < sum(self.runs[at][:2]):
            return self.runs[at][2]
        return "free"
