"""Inode numbers. Section "Inode numbers"."""

from .constants import FIRST_NUMBER, INODE_RUN, INODE_UNIT, ROOT, quantum
from .layer import DIR
from .run import Run


def assign(tree, layers):
    """Numbers the tree's inodes.

    Returns the first number of each layer's range, and the number after the
    last one given or set aside.
    """
    starts, places, end = [], [], FIRST_NUMBER
    for layer in layers:
        starts.append(end)
        runs = _runs(layer, lambda e: e.kind == DIR) + _runs(layer, lambda e: e.kind != DIR)
        end += quantum(INODE_RUN * len(runs), INODE_UNIT)
        places.append({
            rank: INODE_RUN * index + place
            for index, run in enumerate(runs)
            for place, rank in enumerate(run)
        })
    for inode in tree.inodes:
        path = inode.names[0].path
        if path == b".":
            inode.number = ROOT
        elif path in tree.homes:
            layer, rank = tree.homes[path]
            inode.number = starts[layer] + places[layer][rank]
        else:
            inode.number = end
            end += 1
    return starts, end


def _runs(layer, wanted):
    """The runs of those entries of a layer that are wanted: lists of ranks."""
    runs, run = [], Run(INODE_RUN, INODE_RUN // 2)
    for rank, entry in enumerate(layer.entries):
        if wanted(entry):
            runs.append(run.put((1, entry.path, rank)))
    return [[rank for _, _, rank in parts] for parts in [*runs, run.parts] if parts]
