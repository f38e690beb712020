"""Folders and tar files as layers. Section "Sources that are no image"."""

import os
import stat
import tarfile

from . import tar
from .layer import (
    BLOCK_DEVICE, CHAR_DEVICE, DIR, FIFO, FILE, LINK, SYMLINK, Entry, Reader, join, kept_xattr,
)

_MODES = {
    stat.S_IFREG: FILE, stat.S_IFDIR: DIR, stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR_DEVICE, stat.S_IFBLK: BLOCK_DEVICE, stat.S_IFIFO: FIFO,
}
_TYPES = {
    tarfile.REGTYPE: FILE, tarfile.AREGTYPE: FILE, tarfile.DIRTYPE: DIR,
    tarfile.SYMTYPE: SYMLINK, tarfile.LNKTYPE: LINK, tarfile.FIFOTYPE: FIFO,
    tarfile.CHRTYPE: CHAR_DEVICE, tarfile.BLKTYPE: BLOCK_DEVICE,
}
_SECOND = 10**9


def read(source):
    """The layer of `dir:PATH` or `tar:FILE`: what its canonical archive leaves."""
    kind, _, path = source.partition(":")
    entries = {"dir": _folder, "tar": _archive}[kind](os.fsencode(path))
    return _layer(tar.entries(_layer(entries)))


def _layer(entries):
    reader = Reader()
    for entry in entries:
        reader.add(entry)
    return reader.layer()


def _folder(root):
    """The entries of a folder, in walk order."""
    first_names = {}

    def walk(path):
        full = os.path.join(root, path)
        name = os.path.basename(path)
        if name.startswith(b".wh."):
            yield Entry(path, FILE)
            return
        status = os.lstat(full)
        if stat.S_ISSOCK(status.st_mode):
            return
        inode = status.st_dev, status.st_ino
        if not stat.S_ISDIR(status.st_mode) and inode in first_names:
            yield Entry(path, LINK, target=first_names[inode])
            return
        first_names[inode] = path
        yield _file(path, full, status)
        if stat.S_ISDIR(status.st_mode):
            for child in sorted(os.listdir(full)):
                yield from walk(join(path, child))

    return walk(b".")


def _file(path, full, status):
    entry = Entry(
        path, _MODES[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode),
        status.st_uid, status.st_gid, divmod(status.st_mtime_ns, _SECOND),
    )
    if entry.kind == FILE:
        with open(full, "rb") as file:
            entry.data = file.read()
    elif entry.kind == SYMLINK:
        entry.target = os.readlink(full)
    elif entry.kind in (CHAR_DEVICE, BLOCK_DEVICE):
        entry.device = os.major(status.st_rdev), os.minor(status.st_rdev)
    for name in os.listxattr(full, follow_symlinks=False):
        if kept_xattr(os.fsencode(name), entry.kind):
            value = os.getxattr(full, name, follow_symlinks=False)
            entry.xattrs[os.fsencode(name)] = value
    return entry


def _archive(path):
    """The entries of a tar file, as they come."""
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            entry = Entry(
                _bytes(info.name), _TYPES[info.type], info.mode, info.uid, info.gid,
                _time(info.pax_headers.get("mtime", str(int(info.mtime)))), _bytes(info.linkname),
            )
            if entry.kind == FILE:
                entry.data = archive.extractfile(info).read()
            elif entry.kind in (CHAR_DEVICE, BLOCK_DEVICE):
                entry.device = info.devmajor, info.devminor
            for key, value in info.pax_headers.items():
                if key.startswith("SCHILY.xattr."):
                    entry.xattrs[_bytes(key[len("SCHILY.xattr."):])] = _bytes(value)
            yield entry


def _bytes(text):
    return text.encode("utf-8", "surrogateescape")


def _time(decimal):
    """Seconds, rounded down, and nanoseconds of a number like -1.5."""
    whole, _, fraction = decimal.partition(".")
    total = abs(int(whole)) * _SECOND + int(fraction[:9].ljust(9, "0"))
    return divmod(-total if whole.startswith("-") else total, _SECOND)
