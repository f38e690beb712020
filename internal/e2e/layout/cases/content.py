"""One layer: kinds of files, their attributes and their data."""

import os
import stat
import struct

_CHUNK = 524288


def nothing(make):
    """No entry at all, not even the root."""
    return [make.archive().done()]


def kinds(make):
    """Every kind of file in a folder, targets around the limit of an inode."""
    folder = make.folder()
    folder.file("file", b"hello\n", 0o6755)
    folder.file("empty")
    folder.file("two/names", b"one")
    folder.link("a-name-before", "two/names")
    folder.link("two/zz", "two/names")
    for length in 1, 59, 60, 61, 1000, 4000:
        folder.symlink(f"target-of-{length}", "x" * length)
    folder.symlink("target-ü", "ü" * 30)
    folder.symlink("dangling", "/nowhere/at/all")
    folder.link("dangling-too", "dangling")
    folder.directory("sticky", 0o1777)
    folder.file("n" * 255 + "/" + "m" * 255, b"q")
    folder.file("two-x", b"behind two/zz in walk order")
    folder.try_to(os.mkfifo, "fifo", 0o600)
    for kind, major, minor in (
        (stat.S_IFCHR, 1, 3), (stat.S_IFCHR, 255, 256), (stat.S_IFBLK, 256, 255),
        (stat.S_IFBLK, 4095, 1048575),
    ):
        name = f"device-{kind}-{major}-{minor}"
        folder.try_to(os.mknod, name, kind | 0o620, os.makedev(major, minor))
    folder.try_to(os.chown, "two-x", 70000, 3000000)
    folder.try_to(os.setxattr, "file", "user.from-folder", b"v" * 200)
    return [folder.done({
        "file": -1_500_000_000, "empty": -2 * 10**18, "fifo": 9 * 10**18 + 123456789, "two": 5,
    })]


def attributes(make):
    """Times, owners and extended attributes that an archive can say."""
    archive = make.archive()
    archive.directory("./", mode=0o711, time="1700000000.000000001")
    for at, time in enumerate((
        0, -1, "-0.5", "-1.000000001", "1.1",
        -(2**31), -(2**31) + 1, -(2**31) - 1, "-2147483648.5",
        2**31 - 1, 2**31, 2**32 - 1, 2**32, "4294967296.999999999", 2**33, 3 * 2**32,
        2**34 - 2**31 - 2, 2**34 - 2**31 - 1, "15032385534.5", 2**40,
    )):
        archive.file(f"time-{at:02}", b"t", time=time)
    archive.file("owners", uid=65536, gid=2097152)
    archive.file("most", uid=2**32 - 1, gid=2**32 - 1, mode=0o7777)
    partly_kept = {"user.dropped": b"1", "trusted.kept": b"2"}
    archive.symlink("link", "x", mode=0o600, uid=7, xattrs=partly_kept)
    archive.device("console", 5, 1, xattrs=partly_kept)
    archive.device("disk", 4095, 1048575, block=True)
    archive.fifo("fifo", time="3.5")
    _extended_attributes(archive)
    _acls(archive)
    return [archive.done()]


def _extended_attributes(archive):
    value = bytes(range(1, 201))
    zero_hash = bytes(96) + struct.pack("<I", ord("a") << 16)
    for name, xattrs in {
        "empty-value": {"user.e": b""},
        "fills-inode": {"user.abcd": value[:68]},
        "one-too-much": {"user.abcd": value[:69]},
        "long": {"user.long": value * 10},
        "both": {
            "user.b": value[:20], "user.a": value, "trusted.t": b"",
            "security.capability": value[:20],
        },
        "later-fits": {"user.aa": value, "user.bbb": b"x"},
        "order": {"user.zz": b"1", "user.aaa": b"2", "trusted.a": b"3", "user.b": b"4"},
        "hash-of-zero": {"user.a": zero_hash, "user.bb": value},
        "bytes": {"user.bytes": b"\0\xff\n=\0", "user.\u00fc": b"\xc3\x28"},
        "fills-block": {"user.abcd": value * 20 + value[:40]},
        "nothing-kept": {"user.": b"1", "system.other": b"2", "system.posix_acl_default": b"3"},
    }.items():
        archive.file(f"xattrs/{name}", xattrs=xattrs)


def _acls(archive):
    def acl(*entries):
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)

    none = 2**32 - 1
    small = acl((1, 6, none), (4, 4, none), (32, 4, none))
    large = acl(
        (1, 7, none), *((2, 5, 1000 + k) for k in range(20)), (4, 5, none), (8, 4, 77),
        (16, 7, none), (32, 0, none),
    )
    archive.file("acls/file", xattrs={
        "system.posix_acl_access": small, "system.posix_acl_default": small, "user.x": b"y",
    })
    archive.directory("acls/directory", xattrs={
        "system.posix_acl_access": large, "system.posix_acl_default": small,
    })
    archive.symlink("acls/link", "x", xattrs={"system.posix_acl_access": small})


def data(make):
    """Files around every limit, holes, and chunks that are zero."""
    folder = make.folder()
    for size in 1, 4095, 4096, 4097, 131071, 131072, 131073, _CHUNK, _CHUNK + 1, 3_000_000:
        folder.file(f"sizes/{size}", make.bytes(size))
    for at in range(300):
        folder.file(f"small/{at % 7}/{at}", make.bytes(make.random.randrange(30000)))
    folder.file("zero/small", bytes(9000))
    folder.file("zero/large", bytes(4 * _CHUNK + 5))
    every_second = [(k * _CHUNK + 9, b"x") for k in range(0, 15, 2)]
    folder.sparse("zero/every-second", 15 * _CHUNK, every_second)
    folder.sparse("zero/middle", 6 * _CHUNK, [(0, b"a"), (6 * _CHUNK - 1, b"b")])
    folder.sparse("zero/end", 6 * _CHUNK + 77, [(0, b"a"), (_CHUNK, b"b")])
    for at in range(50):
        folder.file(f"zero/bins/{at}", bytes(20000))
    return [folder.done()]


def bins(make):
    """Bins of all fillings: many small files with large ones between, and equal hashes."""
    folder = make.folder()
    for at in range(1500):
        size = make.random.choice([100, 5000, 30000, 100_000, 131071, 140_000])
        folder.file(f"d{at // 40:02}/{at:04}", make.bytes(make.random.randrange(1, size)))
    for at in range(300):
        folder.file(f"equal/{at:03}/d/f", make.bytes(9000))
    for at in range(140):
        folder.file(f"full/{at:03}", make.bytes(8192))
    return [folder.done()]


def far_extents(make):
    """A file of more blocks than one extent has, and one of many extents."""
    folder = make.folder()
    chunks = 256 + 3
    folder.sparse("joined", chunks * _CHUNK, [(k * _CHUNK, b"x") for k in range(chunks)])
    folder.sparse("apart", 64 * _CHUNK, [(k * _CHUNK, b"x") for k in range(0, 64, 3)])
    return [folder.done()]


def hidden_files(make):
    """Every second of many small files is hidden: inode 5 has a tree of two levels."""
    below, above = make.archive(), make.archive()
    for at in range(4000):
        below.file(f"d/{at:04}", b"%d" % at)
        if at % 2:
            above.file(f"d/.wh.{at:04}")
    below.file("large", make.bytes(3 * _CHUNK))
    above.file("large", b"small now")
    below.file("all-of-a-chunk", make.bytes(_CHUNK))
    above.file(".wh.all-of-a-chunk")
    return [below.done(), above.done()]
