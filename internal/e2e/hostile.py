# hostile.py URI FILE: what a broken or hostile NBD client may send.
#
# Proves that a server answers each sequence with an error or a closed connection,
# never with wrong bytes, a hang or its own end: after every sequence a good client
# still reads what FILE (the exported disk) holds. Needs libnbd's Python module.
import os
import socket
import struct
import sys
import urllib.parse

import nbd

URI, FILE = sys.argv[1], sys.argv[2]
SIZE = os.path.getsize(FILE)
PARTS = urllib.parse.urlparse(URI)
NAME = PARTS.path.lstrip("/").encode()
SOCKET = urllib.parse.parse_qs(PARTS.query)["socket"][0]

NBDMAGIC, IHAVEOPT = b"NBDMAGIC", b"IHAVEOPT"
OPT_EXPORT_NAME, OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED, OPT_SET_META = 1, 3, 6, 7, 8, 10
REQUEST_MAGIC, SIMPLE_MAGIC = 0x25609513, 0x67446698


def expected(offset, length):
    with open(FILE, "rb") as f:
        f.seek(offset)
        return f.read(length)


def good_client_reads():
    h = nbd.NBD()
    h.connect_uri(URI)
    for offset in (0, 1024, SIZE // 2 // 4096 * 4096, SIZE - 4096):
        assert bytes(h.pread(4096, offset)) == expected(offset, 4096), f"wrong bytes at {offset}"
    h.shutdown()


def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except nbd.Error:
        return
    raise AssertionError(f"{call.__name__}{args}: no error")


def loose():
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.add_meta_context("base:allocation")
    h.connect_uri(URI)
    return h


# Sequences through libnbd with its own checks off.


def read_past_end():
    h = loose()
    refused(h.pread, 4096, SIZE)
    refused(h.pread, 8192, SIZE - 4096)
    refused(h.pread, 512, (1 << 64) - 512)
    refused(h.pread, 4096, 1 << 63)
    assert bytes(h.pread(512, 1024)) == expected(1024, 512)


def read_of_nothing():
    h = loose()
    try:
        h.pread(0, 0)
    except nbd.Error:
        pass


def unaligned_reads():
    h = loose()
    for offset, length in ((1, 1), (1023, 3), (4095, 4098), (SIZE - 1, 1)):
        try:
            got = bytes(h.pread(length, offset))
        except nbd.Error:
            continue
        assert got == expected(offset, length), f"wrong bytes at {offset}"


def writes_to_a_read_only_disk():
    h = loose()
    refused(h.pwrite, b"x" * 4096, 0)
    refused(h.trim, 4096, 0)
    refused(h.zero, 4096, 0)
    assert bytes(h.pread(4096, 0)) == expected(0, 4096)


def unknown_flags():
    h = loose()
    refused(h.pread, 512, 0, flags=1 << 14)


def status_past_end():
    h = loose()
    refused(h.block_status, 4096, SIZE, lambda *a: 0)
    refused(h.cache, 4096, SIZE)


def data_then_hole():
    # A server that reuses its buffer gives the data again where the hole is.
    h = loose()
    holes = []

    def note(_context, offset, entries, _error):
        for length, flags in zip(entries[::2], entries[1::2]):
            if flags & 1 and length >= 4096:
                holes.append(offset)
            offset += length

    at = 0
    while at < SIZE and not holes:
        h.block_status(min(1 << 30, SIZE - at) // 4096 * 4096, at, note)
        at += 1 << 30
    assert holes, "no hole in the disk"
    assert any(h.pread(4096, 0)), "no data in the first block"
    assert not any(h.pread(4096, holes[0])), "a hole reads as data"


# Sequences below libnbd, byte by byte.


class Raw:
    def __init__(self):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(20)
        self.s.connect(SOCKET)

    def take(self, n):
        got = b""
        while len(got) < n:
            part = self.s.recv(n - len(got))
            if not part:
                raise EOFError
            got += part
        return got

    def greet(self, flags=3):
        assert self.take(8) == NBDMAGIC and self.take(8) == IHAVEOPT
        self.take(2)
        self.s.sendall(struct.pack(">I", flags))

    def option(self, code, data=b"", length=None):
        self.s.sendall(IHAVEOPT + struct.pack(">II", code, len(data) if length is None else length) + data)

    def reply(self):
        _, _, kind, length = struct.unpack(">QIII", self.take(20))
        return kind, self.take(length)

    def go(self):
        self.greet()
        self.option(OPT_GO, struct.pack(">I", len(NAME)) + NAME + b"\0\0")
        while self.reply()[0] != 1:
            pass

    def request(self, command, cookie, offset, length, flags=0, magic=REQUEST_MAGIC):
        self.s.sendall(struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length))

    def closes(self):
        """Reads until the server closes the connection; a hang is a timeout."""
        try:
            while self.s.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass


def bad_client_flags():
    r = Raw()
    r.greet(flags=0xFFFFFFFF)
    r.closes()


def bad_option_magic():
    r = Raw()
    r.greet()
    r.s.sendall(b"x" * 16)
    r.closes()


def endless_option():
    r = Raw()
    r.greet()
    r.option(OPT_GO, length=0xFFFFFFFF)
    try:
        for _ in range(1024):
            r.s.sendall(bytes(1 << 20))
        raise AssertionError("took a gigabyte of one option")
    except (BrokenPipeError, ConnectionResetError):
        pass


def option_lies_about_its_name():
    r = Raw()
    r.greet()
    r.option(OPT_INFO, struct.pack(">I", 0xFFFFFFF0) + b"abc")
    assert r.reply()[0] & 0x80000000
    r.option(OPT_SET_META, struct.pack(">I", 1) + b"x" + struct.pack(">I", 0xFFFFFFFF))
    assert r.reply()[0] & 0x80000000


def options_without_end():
    r = Raw()
    r.greet()
    try:
        for _ in range(1 << 20):
            r.option(OPT_LIST, b"unwanted")
            r.reply()
        raise AssertionError("answered a million options")
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def unknown_export():
    r = Raw()
    r.greet()
    r.option(OPT_GO, struct.pack(">I", 7) + b"no-such" + b"\0\0")
    assert r.reply()[0] & 0x80000000


def bad_request_magic():
    r = Raw()
    r.go()
    r.request(0, 1, 0, 512, magic=0)
    r.closes()


def huge_read():
    r = Raw()
    r.go()
    r.request(0, 7, 0, 0xFFFFFFFF)
    magic, error, cookie = struct.unpack(">IIQ", r.take(16))
    assert (magic, cookie) == (SIMPLE_MAGIC, 7) and error != 0


def unknown_command():
    r = Raw()
    r.go()
    r.request(99, 8, 0, 0)
    assert struct.unpack(">IIQ", r.take(16))[1] != 0


def huge_write():
    r = Raw()
    r.go()
    r.request(1, 9, 0, 0xFFFFFFFF)
    try:
        for _ in range(5000):
            r.s.sendall(bytes(1 << 20))
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass


def client_that_never_reads(r):
    # Asks for more than any socket buffer holds, and takes none of it.
    r.go()
    r.s.setblocking(False)
    try:
        for i in range(1 << 16):
            r.request(0, i, 0, 1 << 20)
    except BlockingIOError:
        pass


def half_a_request(r):
    r.go()
    r.s.sendall(struct.pack(">I", REQUEST_MAGIC))


def ends_in_the_handshake():
    for n in range(0, 40, 3):
        r = Raw()
        r.greet()
        message = IHAVEOPT + struct.pack(">II", OPT_GO, 6 + len(NAME)) + struct.pack(">I", len(NAME)) + NAME + b"\0\0"
        r.s.sendall(message[:n])
        r.s.close()


SEQUENCES = [
    read_past_end, read_of_nothing, unaligned_reads, writes_to_a_read_only_disk, unknown_flags, status_past_end,
    data_then_hole, bad_client_flags, bad_option_magic, endless_option, option_lies_about_its_name,
    options_without_end, unknown_export, bad_request_magic, huge_read, unknown_command, huge_write,
    ends_in_the_handshake,
]  # fmt: skip
STALLERS = [client_that_never_reads, half_a_request]


def main():
    only = sys.argv[3:]
    failed = 0
    for sequence in SEQUENCES:
        if only and sequence.__name__ not in only:
            continue
        try:
            sequence()
            good_client_reads()
            print(f"ok {sequence.__name__}")
        except Exception as err:  # each sequence is one test, whatever way it fails
            failed += 1
            print(f"FAILED {sequence.__name__}: {type(err).__name__} {err}")
    stalled = [Raw() for _ in range(8) for _ in STALLERS]
    for i, connection in enumerate(stalled):
        STALLERS[i % len(STALLERS)](connection)
    good_client_reads()
    print(f"ok {len(stalled)} stalled clients beside a good one")
    sys.exit(1 if failed else 0)


main()
