"""Small images that reach the corners of the rules.

maker.py makes folders and archives; each other module holds the cases of one
part of the page. A case is a function of a Maker that returns the sources,
bottom first. Everything is the same at each run.
"""

import os

from . import content, directories, drawn, stacks
from .maker import Maker

_MIB = 1 << 20

# Name, size to ask for in bytes (0: none), the function that makes the sources.
_CASES = (
    ("nothing", 0, content.nothing),
    ("kinds", 0, content.kinds),
    ("attributes", 0, content.attributes),
    ("data", 0, content.data),
    ("data-of-400-MiB-disk", 400 * _MIB, content.data),
    ("bins", 0, content.bins),
    ("far-extents", 0, content.far_extents),
    ("hidden-files", 0, content.hidden_files),
    ("directories", 0, directories.sizes),
    ("two-level-index", 0, directories.two_levels),
    ("archive-rules", 0, stacks.archive_rules),
    ("whiteouts", 0, stacks.whiteouts),
    ("hard-links", 0, stacks.hard_links),
    ("links-as-parents", 0, stacks.links_as_parents),
    ("many-layers", 401 * _MIB, stacks.many_layers),
    ("row-in-two-parts", 160 << 30, stacks.whiteouts),
    *((f"drawn-{seed}", 0, drawn.stack(seed)) for seed in range(1, 13)),
)


def make(root):
    """Makes all cases below root, and yields of each: name, size, sources."""
    for name, size, function in _CASES:
        folder = os.path.join(root, name)
        os.mkdir(folder)
        yield name, size, *function(Maker(folder))
