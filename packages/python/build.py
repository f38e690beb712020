"""Runs in an image's Python, without a network: "requires" writes what the build of a source
distribution asks for, "build" builds it, and writes the wheel's name and the wheel."""
import importlib, json, os, struct, sys, tarfile

out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what the build says is no answer
ask = json.load(sys.stdin)
with tarfile.open("/run/rivulet/sdist.tar.gz") as t:
    t.extractall("/tmp/source")
(top,) = os.listdir("/tmp/source")
os.chdir(os.path.join("/tmp/source", top))
sys.path[:0] = [os.path.abspath(p) for p in ask["path"]]
module, _, attribute = ask["backend"].partition(":")
backend = importlib.import_module(module)
for name in filter(None, attribute.split(".")):
    backend = getattr(backend, name)
if sys.argv[1] == "requires":
    hook = getattr(backend, "get_requires_for_build_wheel", None)
    out.write(json.dumps(list(hook({})) if hook else []).encode())
else:
    os.mkdir("/tmp/wheel")
    name = backend.build_wheel("/tmp/wheel", {})
    with open(os.path.join("/tmp/wheel", name), "rb") as f:
        data = f.read()
    out.write(struct.pack("<I", len(name.encode())) + name.encode() + data)
out.flush()
out.close()
os._exit(0)  # whatever threads it has
