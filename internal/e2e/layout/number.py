"""Inode numbers. Section "Inode numbers"."""

from .constants import FIRST_NUMBER, INODE_UNIT, ROOT, quantum
from .layer import DIR


def assign(tree, layers):
    """Numbers the tree's inodes.

    Returns the first number of each layer's range, and the number after the
    last one given or set aside.
    """
    starts, places, end = [], [], FIRST_NUMBER
    for layer in layers:
        starts.append(end)
        end += quantum(len(layer.entries), INODE_UNIT)
        ranks = sorted(range(len(layer.entries)), key=lambda r: layer.entries[r].kind != DIR)
        places.append({rank: place for place, rank in enumerate(ranks)})
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
