"""Runs in an image's Python, without a network: imports a package's modules and tells how long
that took, what failed, and which files below a folder it read, in order: of shared objects,
the parts that were mapped into memory."""
import array, importlib, json, os, site, sys, time

ask = json.load(sys.stdin)
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the modules say is no answer
prefix = ask["prefix"] + "/"
start = time.perf_counter()
read, linked = {}, {}


def hook(event, args):
    try:
        if event == "open" and isinstance(args[0], str) and not args[2] & 3:
            where, path = read, args[0]
        elif event == "import" and isinstance(args[1], str):
            where, path = linked, args[1]
        else:
            return
        if path.startswith(prefix):
            where.setdefault(os.path.normpath(path), time.perf_counter() - start)
    except Exception:
        pass


def mapped():
    """The parts of files that are in memory, by path: offset and length, in steps of a frame."""
    step, page, parts = ask["step"], os.sysconf("SC_PAGE_SIZE"), {}
    with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pages:
        for line in maps:
            fields = line.rstrip("\n").split(None, 5)
            if len(fields) < 6 or not fields[5].startswith(prefix):
                continue
            low, high = (int(x, 16) for x in fields[0].split("-"))
            offset = int(fields[2], 16)
            pages.seek(low // page * 8)
            there = array.array("Q", pages.read((high - low) // page * 8))
            part = parts.setdefault(os.path.normpath(fields[5]), {0})
            part.update((offset + i * page) // step for i, p in enumerate(there) if p >> 62)
    return {path: sorted(part) for path, part in parts.items()}


before = list(sys.path)
sys.addaudithook(hook)
for path in ask["paths"]:
    site.addsitedir(path)
sys.path[:] = [p for p in sys.path if p not in before] + before
error, start = "", time.perf_counter()
for name in ask["modules"]:
    try:
        importlib.import_module(name)
    except BaseException as e:
        error = error or f"{name}: {type(e).__name__}: {e}"
took = time.perf_counter() - start
try:
    parts = mapped()
except OSError:
    parts = {}
reads = [[p[len(prefix):], at, os.path.getsize(p), None] for p, at in read.items() if p not in parts and os.path.isfile(p)]
for path, list_ in parts.items():
    ranges = []
    for n in list_:
        if ranges and ranges[-1][0] + ranges[-1][1] == n * ask["step"]:
            ranges[-1][1] += ask["step"]
        else:
            ranges.append([n * ask["step"], ask["step"]])
    reads.append([path[len(prefix):], linked.get(path, took), os.path.getsize(path), ranges])
reads.sort(key=lambda r: r[1])
json.dump({"seconds": took, "error": error[:500], "reads": reads}, out)
out.flush()
os._exit(0)  # whatever threads it has
