"""The disk of an image. Sections "Metadata area", "Inodes 5 and 8", and all they need."""

import collections

from . import directory, extent, group, number, segment, size, superblock, tar, xattr
from .blocks import Blocks
from .constants import (
    BLOCK, BOOT_LOADER, CHUNK_BLOCKS, GROUP_BLOCKS, GROUP_INODES, INODE_BYTES, JOURNAL,
    JOURNAL_BLOCKS, RESERVED, TABLE_BLOCKS,
)
from .inode import EXTENTS, FORMATS, INDEX, MAX_LINKS, Record, device_area
from .layer import BLOCK_DEVICE, CHAR_DEVICE, DIR, FILE, SYMLINK
from .merge import Tree

_SHORT_TARGET = 60
_SECTORS = BLOCK // 512


class Disk:
    """The disk of an image's layers; asked is a size in bytes, or 0.

    blocks.data has the blocks that are not zero, size the size in bytes.
    """

    def __init__(self, layers, asked=0):
        self.blocks = Blocks()
        self.table = {}  # inode number -> its bytes
        self._layers = layers
        self._tree = Tree(layers)
        self._segments = [segment.Segment(layer.entries) for layer in layers]
        self._next = segment.give_slots(self._segments) * CHUNK_BLOCKS
        self._starts, inodes_end = number.assign(self._tree, layers)
        for index, part in enumerate(self._segments):
            part.use([i for i in self._tree.inodes if i.layer == index])
        self.size = size.choose(
            asked, self._next, inodes_end, size.metadata_bound(self._tree, self._segments),
            sum(blocks for s in self._segments for _, blocks in s.pieces.values()),
        )
        self.areas = size.Areas(self.size)
        self._unshown = []  # runs of inode 5
        self._write()

    def _write(self):
        areas = self.areas
        self.blocks.claim(0, areas.descriptors_end, "superblock and group descriptors")
        self.blocks.claim(areas.journal, JOURNAL_BLOCKS, "journal")
        self.blocks.claim(areas.table, TABLE_BLOCKS * areas.groups, "inode tables")
        self._write_metadata()
        self._write_data()
        extents = self._boot_loader_extents()
        nodes = extent.node_count(extents)
        row = areas.row(nodes)
        for block in row:
            self.blocks.claim(block, 1, "bitmaps and nodes of inode 5")
        self.blocks.close()
        numbers = {*range(1, RESERVED + 1), *self.table}
        groups = self._groups(numbers)
        self._write_inode_5(extents, group.share_row(row, groups, nodes))
        journal = self._write_journal()
        self._write_table()
        self._write_groups(groups)
        self.blocks.put(0, bytes(1024) + superblock.superblock(
            areas, sum(g.free_blocks for g in groups), GROUP_INODES * areas.groups - len(numbers),
            size.uuid(self.size, tar.chain_id(self._layers)), journal,
        ))

    def _write_metadata(self):
        """Fills the metadata area by rising inode number."""
        starts = list(self._starts)
        for inode in sorted(self._tree.inodes, key=lambda i: i.number):
            while starts and inode.number >= starts[0]:
                starts.pop(0)
                self._align()
            self._write_inode(inode)
        self._align()

    def _align(self):
        gap = -self._next % CHUNK_BLOCKS
        self._give_boot_loader(self._next, gap)
        self._next += gap

    def _give_boot_loader(self, first, count):
        self.blocks.claim(first, count, "inode 5, the owner of blocks that no file shall get")
        if count:
            self._unshown.append((first, count))

    def _take(self, count, what):
        first = self._next
        self._next += count
        self.blocks.claim(first, count, what)
        return range(first, first + count)

    def _write_inode(self, inode):
        """Writes an inode and its blocks in the metadata area."""
        entry, name = inode.entry, f"inode {inode.number}, {_text(inode.names[0].path)}"
        record = Record(
            FORMATS[inode.kind] | entry.mode, entry.uid, entry.gid, time=entry.time,
            links=len(inode.names), flags=0,
        )
        content, extents = [], []
        if inode.kind == DIR:
            content = self._fill_directory(record, inode.names[0])
        elif inode.kind == FILE:
            record.size = len(entry.data)
            if entry.data:
                extents = self._segments[inode.layer].extents(inode.rank)
            for _, count, start in extents:
                self.blocks.claim(start, count, f"data of {name}")
        elif inode.kind == SYMLINK:
            record.size = len(entry.target)
            if len(entry.target) < _SHORT_TARGET:
                record.area = entry.target
            else:
                content = [entry.target]
        elif inode.kind in (CHAR_DEVICE, BLOCK_DEVICE):
            record.area = device_area(*entry.device)
        if content:
            places = self._take(len(content), f"content of {name}")
            for block, data in zip(places, content):
                self.blocks.put(block, data)
            extents = [(0, len(content), places[0])]
        if content or inode.kind == FILE:
            self._write_tree(record, inode.number, extents, name)
        self._write_attributes(record, entry.xattrs, name)
        self.table[inode.number] = record.encode(inode.number)

    @staticmethod
    def _fill_directory(record, node):
        content, indexed = directory.blocks(node)
        record.size = BLOCK * len(content)
        record.flags = INDEX if indexed else 0
        record.links = 2 + sum(c.inode.kind == DIR for c in node.children.values())
        if record.links > MAX_LINKS:
            record.links = 1
        return content

    def _write_tree(self, record, number_, extents, name):
        extents = extent.joined(extents)
        places = self._take(extent.node_count(extents), f"extent tree of {name}")
        record.area, nodes = extent.tree(extents, number_, places)
        for block, data in nodes.items():
            self.blocks.put(block, data)
        record.flags |= EXTENTS
        record.sectors = _SECTORS * (sum(count for _, count, _ in extents) + len(places))

    def _write_attributes(self, record, xattrs, name):
        record.attributes, block = xattr.encode(xattrs)
        if block is not None:
            at = self._take(1, f"attribute block of {name}")[0]
            self.blocks.put(at, xattr.sealed(block, at))
            record.attribute_block = at
            record.sectors += _SECTORS

    def _write_data(self):
        for part in self._segments:
            for chunk, data in part.stored().items():
                for at in range(CHUNK_BLOCKS):
                    self.blocks.put(chunk * CHUNK_BLOCKS + at, data[at * BLOCK:(at + 1) * BLOCK])
            for run in part.not_shown():
                self._give_boot_loader(*run)

    def _boot_loader_extents(self):
        extents, logical = [], 0
        for first, count in sorted(self._unshown):
            extents.append((logical, count, first))
            logical += count
        return extent.joined(extents)

    def _write_inode_5(self, extents, places):
        if not extents:
            return
        area, nodes = extent.tree(extents, BOOT_LOADER, places)
        for block, data in nodes.items():
            self.blocks.put(block, data)
        blocks = sum(count for _, count, _ in extents)
        record = Record(size=BLOCK * blocks, sectors=_SECTORS * (blocks + len(places)), area=area)
        self.table[BOOT_LOADER] = record.encode(BOOT_LOADER)

    def _write_journal(self):
        """Writes inode 8 and the journal, and returns the inode's block area."""
        area, _ = extent.tree([(0, JOURNAL_BLOCKS, self.areas.journal)], JOURNAL, [])
        record = Record(size=BLOCK * JOURNAL_BLOCKS, sectors=_SECTORS * JOURNAL_BLOCKS, area=area)
        self.table[JOURNAL] = record.encode(JOURNAL)
        self.blocks.put(self.areas.journal, superblock.journal_superblock())
        return area

    def _write_table(self):
        blocks = collections.defaultdict(lambda: bytearray(BLOCK))
        for number_, data in self.table.items():
            block, at = divmod((number_ - 1) * INODE_BYTES, BLOCK)
            blocks[block][at:at + INODE_BYTES] = data
        for block, data in blocks.items():
            self.blocks.put(self.areas.table + block, data)

    def _groups(self, numbers):
        inodes, directories = collections.defaultdict(list), collections.Counter()
        for number_ in numbers:
            inodes[(number_ - 1) // GROUP_INODES].append(number_)
        for inode in self._tree.inodes:
            directories[(inode.number - 1) // GROUP_INODES] += inode.kind == DIR
        groups = []
        for index in range(self.areas.groups):
            first = index * GROUP_BLOCKS
            made = group.Group(index, self.areas.blocks - first, inodes[index], directories[index])
            made.take(self.blocks.used(first, made.blocks))
            groups.append(made)
        return groups

    def _write_groups(self, groups):
        for one in groups:
            if one.block_bitmap_used:
                self.blocks.put(one.block_bitmap_at, one.block_bitmap())
            if one.inode_bitmap_used:
                self.blocks.put(one.inode_bitmap_at, one.inode_bitmap())
        data = b"".join(one.descriptor(self.areas.table) for one in groups)
        for at in range(0, len(data), BLOCK):
            self.blocks.put(1 + at // BLOCK, data[at:at + BLOCK])


def _text(path):
    return path.decode("utf-8", "backslashreplace")
