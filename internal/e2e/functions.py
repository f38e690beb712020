"""functions.py OURS PIPS: compares what rivulet and pip have installed into copies of one
folder. They agree in every path, type, mode and content, except:

  *.pyc        Ours name the hash of their source, and pip's its time: ours depend on
               nothing but the source and the interpreter. Both are there.
  INSTALLER    names the installer.
  REQUESTED    pip marks what was asked for. Ours would make a package's files depend on
               who asked; the lock has it.
  RECORD       lists the same files. Its lines differ for those above and below.
  bin/NAME     scripts of entry points: ours are written by rivulet. They are compared by
               what they import and call.

functions.py namespaces DIR: writes two wheels that share namespaces.

functions.py hostile DIR: writes hostile archives, and in DIR/list each one's source and
what its refusal says."""
import base64, csv, hashlib, io, os, re, stat, sys, tarfile, zipfile


def tree(root):
    out = {}
    for folder, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(folder, name)
            out[os.path.relpath(path, root)] = os.lstat(path)
    return out


def read(path):
    with open(path, "rb") as f:
        return f.read()


def entry_point(text):
    """What a script imports and calls."""
    text = text.decode()
    return re.findall(r"^from (\S+) import (\S+)$", text, re.M), re.findall(r"sys\.exit\((\S+)\(\)\)", text), text.splitlines()[0]


def record(path):
    out = {}
    for row in csv.reader(open(path, newline="")):
        name = os.path.basename(row[0])
        if name == "REQUESTED":
            continue
        differs = name in ("INSTALLER", "RECORD") or name.endswith(".pyc") or "/bin/" in row[0]
        out[row[0]] = None if differs else (row[1].rstrip("="), row[2])
    return out


def compare(ours, pips):
    a, b = tree(ours), tree(pips)
    bad, seen = [], {"pyc": 0, "record": 0, "script": 0, "installer": 0, "requested": 0, "same": 0}
    for path in sorted(a.keys() | b.keys()):
        name = os.path.basename(path)
        if name == "REQUESTED" and path not in a:
            seen["requested"] += 1
            continue
        if path not in a or path not in b:
            bad.append(f"{path}: only {'pip has' if path in b else 'rivulet has'} it")
            continue
        if a[path].st_mode != b[path].st_mode or (a[path].st_uid, a[path].st_gid) != (b[path].st_uid, b[path].st_gid):
            bad.append(f"{path}: mode {a[path].st_mode:o}, and pip's {b[path].st_mode:o}")
        if not stat.S_ISREG(a[path].st_mode):
            continue
        x, y = os.path.join(ours, path), os.path.join(pips, path)
        in_info = os.path.basename(os.path.dirname(path)).endswith(".dist-info")
        if name.endswith(".pyc"):
            seen["pyc"] += 1
            head = read(x)[:16]
            source = os.path.join(ours, os.path.dirname(os.path.dirname(path)), name.split(".")[0] + ".py")
            if head[4:8] != b"\x01\0\0\0" or not os.path.exists(source) or read(y)[:4] != head[:4]:
                bad.append(f"{path}: not bytecode that names its source's hash")
        elif name == "RECORD" and in_info:
            seen["record"] += 1
            if record(x) != record(y):
                diff = sorted(str(i) for i in record(x).items() ^ record(y).items())
                bad.append(f"{path}: {diff[:4]}")
        elif name == "INSTALLER" and in_info:
            seen["installer"] += 1
            if (read(x), read(y)) != (b"rivulet\n", b"pip\n"):
                bad.append(f"{path}: {read(x)!r}, and pip's {read(y)!r}")
        elif path.startswith("bin/") and read(x) != read(y):
            seen["script"] += 1
            if entry_point(read(x)) != entry_point(read(y)):
                bad.append(f"{path}: {entry_point(read(x))}, and pip's {entry_point(read(y))}")
        elif read(x) != read(y):
            bad.append(f"{path}: another content")
        else:
            seen["same"] += 1
    print("compared with pip's:", ", ".join(f"{n} {k}" for k, n in seen.items()))
    if not seen["same"] or not seen["pyc"] or not seen["script"]:
        bad.append("nothing was compared")
    for line in bad[:20]:
        print(line, file=sys.stderr)
    sys.exit(1 if bad else 0)


def line(path, data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def wheel(path, change=lambda files, record: record):
    info = "evil-1.0.dist-info/"
    files = {
        "evil.py": b"x = 1\n",
        info + "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "METADATA": b"Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n\n",
    }
    record = "".join(line(p, d) for p, d in files.items()) + info + "RECORD,,\n"
    record = change(files, record)
    files[info + "RECORD"] = record.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for p, d in files.items():
            z.writestr(p, d)


# What setuptools puts beside the packages of a namespace that pkg_resources declares.
NSPKG = (
    "import sys, types, os; p = os.path.join(sys._getframe(1).f_locals['sitedir'], 'oldspace'); "
    "m = sys.modules.setdefault('oldspace', types.ModuleType('oldspace')); mp = m.__dict__.setdefault('__path__', []); "
    "(p not in mp) and mp.append(p)\n"
)


def namespaces(folder):
    """Two wheels that share a namespace without a module of its own (PEP 420), one of pkgutil's,
    and one of pkg_resources's."""
    os.makedirs(folder)
    for name in "one", "two":
        info = f"space_{name}-1.0.dist-info/"
        files = {
            f"newspace/{name}.py": b"",
            f"oldspace/{name}.py": b"",
            f"space_{name}-1.0-nspkg.pth": NSPKG.encode(),
            "midspace/__init__.py": b"__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
            f"midspace/{name}.py": b"",
            info + "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            info + "METADATA": f"Metadata-Version: 2.1\nName: space-{name}\nVersion: 1.0\n\n".encode(),
            info + "namespace_packages.txt": b"oldspace\n",
        }
        files[info + "RECORD"] = ("".join(line(p, d) for p, d in files.items()) + info + "RECORD,,\n").encode()
        with zipfile.ZipFile(os.path.join(folder, f"space_{name}-1.0-py3-none-any.whl"), "w") as z:
            for p, d in files.items():
                z.writestr(p, d)


def hostile(folder):
    os.makedirs(folder)
    out = open(os.path.join(folder, "list"), "w")

    def link(z, name, target):
        i = zipfile.ZipInfo(name)
        i.create_system, i.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        z.writestr(i, target)

    def archive(name, words, fill):
        path = os.path.join(folder, name)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            fill(z)
        print(f"zip:{path}@/var/task\t{words}", file=out)

    archive("dots.zip", '".." in a name', lambda z: z.writestr("../../etc/passwd", "x"))
    archive("absolute.zip", "absolute name", lambda z: z.writestr("/etc/passwd", "x"))
    archive("link.zip", "leads out of the archive", lambda z: link(z, "l", "../../etc"))
    archive("link2.zip", "leads out of the archive", lambda z: link(z, "l", "/etc/passwd"))

    def through(z):
        link(z, "a", ".")
        z.writestr("a/b", "x")

    archive("through.zip", "which is a symbolic link", through)
    archive("whiteout.zip", 'begins with ".wh."', lambda z: z.writestr(".wh.etc", ""))

    def bomb(z):
        for i in range(9):
            entry = zipfile.ZipInfo(f"{i}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with z.open(entry, "w") as f:
                for _ in range(16):
                    f.write(b"\0" * (1 << 20))

    path = os.path.join(folder, "bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        bomb(z)
    data = bytearray(read(path))
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1 << 31).to_bytes(4, "little")  # 2 GiB of a few KiB
    open(path, "wb").write(data)
    print(f"zip:{path}\tlimit exceeded", file=out)

    def bad_wheel(name, words, change):
        os.makedirs(os.path.join(folder, name))
        path = os.path.join(folder, name, "evil-1.0-py3-none-any.whl")
        wheel(path, change)
        print(f"wheel:{path}\t{words}", file=out)

    bad_wheel("hash", "RECORD: the file is not what its hash says", lambda f, r: (f.update({"evil.py": b"import os\n"}), r)[1])
    bad_wheel("more", "RECORD: the file is not listed", lambda f, r: (f.update({"more.py": b"x"}), r)[1])
    bad_wheel("less", "RECORD: the file is listed and not there", lambda f, r: r + "gone.py,sha256=AAAA,1\n")

    def escape(f, r):
        f["evil-1.0.data/data/../../../etc/cron.d/x"] = b"x"
        return r + line("evil-1.0.data/data/../../../etc/cron.d/x", b"x")

    bad_wheel("escape", '".." in a name', escape)

    def source(name, words, code):
        """A source distribution whose build backend does something else first."""
        path = os.path.join(folder, f"{name}-1.0.tar.gz")
        backend = "def build_wheel(to, settings=None, metadata=None):\n" + "".join(f"    {l}\n" for l in code.splitlines())
        with tarfile.open(path, "w:gz") as t:
            for file, text in {
                "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
                "backend.py": backend,
            }.items():
                i = tarfile.TarInfo(f"{name}-1.0/{file}")
                i.size = len(text)
                t.addfile(i, io.BytesIO(text.encode()))
        print(f"sdist:{path}\t{words}", file=out)

    source("forks", "Resource temporarily unavailable", "import subprocess\nwhile True:\n    subprocess.Popen(['sleep', '100'])")
    source("memory", "emory",  # the kernel's bound or the watch, whichever is first
            "x = []\nwhile True:\n    x.append(bytearray(1 << 20))")
    source("memory2", "took more than 500 MiB of memory", "import os, time\nfor i in range(4):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (200 << 20)\n        time.sleep(100)\ntime.sleep(100)")
    source("disk", "No space left on device", "f = open('/tmp/x', 'wb')\nwhile True:\n    f.write(b'x' * (1 << 20))")
    source("socket", "Connection refused", f"import socket\nsocket.create_connection(('127.0.0.1', {os.environ['PORT']}))")
    source("network", "nreachable", "import socket\nsocket.create_connection(('192.0.2.1', 80))")
    source("file", "No such file or directory", f"open({os.path.abspath(__file__)!r})")
    source("root", "Read-only file system", "open('/usr/bin/evil', 'w')")
    source("shadow", "Permission denied", "open('/etc/shadow')")
    source("namespace", "Operation not permitted", "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\nif c.unshare(0x10000000):\n    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))")
    source("nothing", "the build gave no wheel", "open('/tmp/x', 'w').close()\nreturn '../x'")
    out.close()


made = {"hostile": hostile, "namespaces": namespaces}.get(sys.argv[1])
made(sys.argv[2]) if made else compare(sys.argv[1], sys.argv[2])
