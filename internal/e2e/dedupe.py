#!/usr/bin/env python3
"""What dedupe.sh does to layers and disks.

  dedupe.py layers IMAGES_DIR NAME OUT_DIR     unpacks layers to OUT_DIR/0.tar, 1.tar, ...
  dedupe.py change same|longer|shorter|gone N IN OUT
                                               changes one small file of a layer, N per cent
                                               of them before it
  dedupe.py package IN OUT                     adds a package to a layer
  dedupe.py dirty BEFORE AFTER                 prints which chunks of two disks differ, and
                                               which of them were not empty before
"""
import gzip
import io
import json
import os
import random
import shutil
import sys
import tarfile

CHUNK = 512 << 10


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def layers(images, name, out):
    def blob(digest):
        return os.path.join(images, "blobs", *digest.split(":"))

    with open(os.path.join(images, "index.json")) as f:
        index = json.load(f)["manifests"]
    tags = {m["annotations"]["org.opencontainers.image.ref.name"]: m["digest"] for m in index}
    with open(blob(tags[name])) as f:
        manifest = json.load(f)
    os.makedirs(out)
    for i, layer in enumerate(manifest["layers"]):
        with gzip.open(blob(layer["digest"])) as src, open(f"{out}/{i}.tar", "wb") as dst:
            shutil.copyfileobj(src, dst, 1 << 20)


def rewrite(source, target, edit, added):
    """Copies a layer: edit(info, data) gives a file's new data, or None; added are new ones."""
    with tarfile.open(source) as src, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as dst:
        for info in src:
            data = src.extractfile(info).read() if info.isreg() else b""
            if info.isreg():
                data = edit(info, data)
                if data is None:
                    continue
                info.size = len(data)
            dst.addfile(info, io.BytesIO(data))
        for name, size in added:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = size, 1750000000, 0o644
            dst.addfile(info, io.BytesIO(noise(name, size)))


def change(how, at, source, target):
    with tarfile.open(source) as src:
        members = src.getmembers()
    linked = {m.linkname for m in members if m.islnk()}
    small = [m.name for m in members if m.isreg() and 6000 <= m.size <= 30000 and m.name not in linked]
    chosen = small[len(small) * int(at) // 100]
    growth = {"same": 0, "longer": 5000, "shorter": -5000, "gone": None}[how]

    def edit(info, data):
        if info.name != chosen:
            return data
        if growth is None:
            return None
        info.mtime += 86400
        return noise(how, len(data) + growth)

    rewrite(source, target, edit, [])
    print(chosen)


def package(source, target):
    """30 small files and a library of 300 KiB where dpkg puts them, and what every
    installation writes anew."""
    info, doc = "var/lib/dpkg/info/libsweep1:amd64.", "usr/share/doc/libsweep1/"
    files = [("usr/lib/x86_64-linux-gnu/libsweep.so.1.0.0", 300 << 10), ("usr/bin/sweepctl", 30000)]
    files += [(doc + n, s) for n, s in (("copyright", 3000), ("changelog.Debian.gz", 1100), ("NEWS.gz", 900))]
    files += [(info + n, s) for n, s in (("list", 1500), ("md5sums", 1800), ("shlibs", 30), ("symbols", 4000), ("triggers", 60), ("postinst", 200))]
    files += [("usr/share/man/man1/sweepctl.1.gz", 2000)]
    files += [(f"usr/share/libsweep/table{i:02}.dat", 700 + 1301 * i) for i in range(19)]
    listings = {"var/lib/dpkg/status": 700, "var/lib/dpkg/status-old": 700, "etc/ld.so.cache": 0, "var/cache/ldconfig/aux-cache": 150,
                "var/log/dpkg.log": 500, "var/log/apt/history.log": 300, "var/log/apt/term.log": 900}
    # Folders that the layer lacks are implied.
    seen = []

    def edit(entry, data):
        name = entry.name.removeprefix("./")
        if name not in listings:
            return data
        seen.append(name)
        entry.mtime += 86400
        # Its own part comes somewhere in the middle.
        cut, more = len(data) // 2, listings[name]
        return data[:cut] + noise(name, more or 64) + data[cut if more else min(cut + 64, len(data)):]

    rewrite(source, target, edit, files)
    print(f"{len(files)} files added, changed: {' '.join(sorted(seen))}")


def dirty(before, after):
    with open(before, "rb") as a, open(after, "rb") as b:
        index = 0
        while True:
            x, y = a.read(CHUNK), b.read(CHUNK)
            if not x and not y:
                return
            if x != y:
                print(index, "held" if x.strip(b"\0") else "empty")
            index += 1


if __name__ == "__main__":
    {"layers": layers, "change": change, "package": package, "dirty": dirty}[sys.argv[1]](*sys.argv[2:])
