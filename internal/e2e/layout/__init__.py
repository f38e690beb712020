"""A second writer of disks, after the rules of doc/format/ext4-layout.md.

It shares no code with rivulet, so where both make the same bytes the page and
rivulet agree. Its authors knew rivulet's source, above all that of merging: it
shows that the page can be followed, not that it is enough for a reader who has
nothing else. It is written to be compared with the page, a
module for an idea, and not for speed: layers and disks are held in memory.

    layer.py      entries of a layer, and what an archive's entries leave
    source.py     folders and tar files as layers
    tar.py        canonical archives, diff IDs, chain ID
    merge.py      layers on one another
    run.py        how files and inodes are divided into runs
    segment.py    where files' data lie
    number.py     inode numbers
    size.py       size of the disk, its UUID and its areas
    blocks.py     the disk while it is written
    crc.py, extent.py, directory.py, namehash.py, xattr.py, inode.py,
    group.py, superblock.py
                  structures of ext4
    ext4.py       all of them together: the disk of an image
    compare.py    such a disk beside a raw image file
    cases/        small images that reach the rules' corners
"""
