"""How what comes in order is divided into runs. Section "Runs"."""

import zlib


class Run:
    """The open run. Its parts are (units, path, what the caller knows it by)."""

    def __init__(self, room, least):
        self._room, self._least = room, least
        self.parts = []

    def put(self, part):
        """Puts a part at the end. Returns the parts of the run that it ends, or none."""
        ended = []
        if _units(self.parts) + part[0] > self._room:
            count = self._end()
            ended, self.parts = self.parts[:count], self.parts[count:]
        self.parts.append(part)
        return ended

    def _end(self):
        """How many of the parts stay in the run when it ends."""
        counts = range(1, len(self.parts) + 1)
        allowed = [n for n in counts if _units(self.parts[:n]) >= self._least]
        return min(allowed, key=lambda n: _name_hash(self.parts[n - 1][1]))


def _units(parts):
    return sum(part[0] for part in parts)


def _name_hash(path):
    return zlib.crc32(b"/".join(path.split(b"/")[-2:]))
