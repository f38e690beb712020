"""Makes folders and archives for cases."""

import io
import os
import random
import sys
import tarfile

_START = 1_700_000_000


class Maker:
    """Makes the sources of one case, in files below root."""

    def __init__(self, root):
        self._root = root
        self._count = 0
        self.random = random.Random(7)

    def _next(self, suffix):
        self._count += 1
        return os.path.join(self._root, f"{self._count}{suffix}")

    def folder(self):
        return Folder(self._next(""))

    def archive(self):
        return Archive(self._next(".tar"))

    def bytes(self, count):
        return self.random.randbytes(count)


class Folder:
    """A source that is a folder. What the file system cannot hold is left out."""

    def __init__(self, root):
        self._root = root
        os.mkdir(root)

    def path(self, name):
        """Where name lies; the directories above it are made."""
        full = os.path.join(self._root, name)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        return full

    def file(self, name, data=b"", mode=0o644):
        full = self.path(name)
        with open(full, "wb") as file:
            file.write(data)
        os.chmod(full, mode)

    def sparse(self, name, size, pieces):
        """A file of which only some pieces (offset, bytes) are written."""
        with open(self.path(name), "wb") as file:
            for at, data in pieces:
                file.seek(at)
                file.write(data)
            file.truncate(size)

    def directory(self, name, mode=0o755):
        full = self.path(name)
        os.makedirs(full, exist_ok=True)
        os.chmod(full, mode)

    def symlink(self, name, target):
        os.symlink(target, self.path(name))

    def link(self, name, target):
        os.link(self.path(target), self.path(name))

    def try_to(self, function, name, *args, **kwargs):
        """Calls a function of os, which may be one that is not allowed here."""
        try:
            function(self.path(name), *args, **kwargs)
        except OSError as err:
            print(f"{name}: left out: {err}", file=sys.stderr)

    def done(self, times=()):
        """Gives every file a time, those named in nanoseconds; returns the source."""
        for folder, names, files in os.walk(self._root, topdown=False):
            for at, name in enumerate([*sorted(names + files), "."]):
                full = os.path.join(folder, name)
                when = dict(times).get(os.path.relpath(full, self._root))
                if when is None:
                    when = (_START + at) * 10**9
                os.utime(full, ns=(0, when), follow_symlinks=False)
        return f"dir:{self._root}"


class Archive:
    """A source that is a tar file, its entries in the order of the calls."""

    def __init__(self, path):
        self._path = path
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape")

    def _add(self, kind, name, data=b"", mode=0o644, time=_START, xattrs=None, **fields):
        info = tarfile.TarInfo(os.fsdecode(name))
        info.type, info.mode, info.size = kind, mode, len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        if isinstance(time, str):
            info.pax_headers["mtime"] = time
        else:
            info.mtime = time
        for key, value in (xattrs or {}).items():
            info.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
        self._tar.addfile(info, io.BytesIO(data))

    def file(self, name, data=b"", **fields):
        self._add(tarfile.REGTYPE, name, data, **fields)

    def directory(self, name, mode=0o755, **fields):
        self._add(tarfile.DIRTYPE, name, mode=mode, **fields)

    def symlink(self, name, target, **fields):
        self._add(tarfile.SYMTYPE, name, linkname=target, **fields)

    def link(self, name, target, **fields):
        self._add(tarfile.LNKTYPE, name, linkname=target, **fields)

    def device(self, name, major, minor, block=False, **fields):
        kind = tarfile.BLKTYPE if block else tarfile.CHRTYPE
        self._add(kind, name, devmajor=major, devminor=minor, **fields)

    def fifo(self, name, **fields):
        self._add(tarfile.FIFOTYPE, name, **fields)

    def done(self):
        """Ends the archive and returns the source."""
        self._tar.close()
        return f"tar:{self._path}"
