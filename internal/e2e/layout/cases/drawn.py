"""Stacks of archives drawn at random over few names, so that layers often meet."""

import os
import random

from .. import source
from ..layer import Refused
from ..merge import Tree

_TARGETS = "", "/", "../", "./", "gone/", "gone/../"


def stack(seed):
    """A case: the stack that seed gives."""
    def function(make):
        draw = random.Random(seed)
        sources, layers = [], []
        while len(sources) < 4:
            archive = make.archive()
            _fill(archive, draw, make)
            drawn = archive.done()
            try:
                layer = source.read(drawn)
                Tree([*layers, layer])
            except Refused:
                continue
            sources.append(drawn)
            layers.append(layer)
        return sources
    return function


def _path(draw):
    return "/".join(draw.choice("abcd") for _ in range(draw.choice((1, 1, 2, 2, 3))))


def _fill(archive, draw, make):
    """Adds entries of all kinds; some make a layer that is refused."""
    files = []
    for _ in range(draw.randrange(3, 14)):
        path = _path(draw)
        directory, name = os.path.split(path)
        kind = draw.choices(
            ("file", "directory", "symlink", "link", "opaque", "whiteout"), (8, 3, 3, 4, 1, 3),
        )[0]
        if kind == "file":
            archive.file(path, make.bytes(draw.randrange(9000)))
            files.append(path)
        elif kind == "directory":
            archive.directory(path, mode=draw.choice((0o700, 0o755)))
        elif kind == "symlink":
            archive.symlink(path, draw.choice(_TARGETS) + _path(draw))
        elif kind == "link":
            archive.link(path, draw.choice(files or [_path(draw)]))
        elif kind == "opaque":
            archive.file(os.path.join(directory, ".wh..wh..opq"))
        else:
            archive.file(os.path.join(directory, ".wh." + name))
