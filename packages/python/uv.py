"""Runs in an image's Python, beside uv: "missing ARGUMENT..." has uv resolve, and writes what it
would install, the whole as a pylock.toml, and what needs each package; "whole ARGUMENT..."
takes no notice of what the image has."""
import json, re, subprocess, sys

UV, PINS, LOCK = "/run/rivulet/uv", "/tmp/pins.txt", "/tmp/pylock.toml"


def uv(*arguments):
    done = subprocess.run([UV, *arguments[:2], "--no-build", *arguments[2:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.exit(1)
    return done.stdout, done.stderr


which, *arguments = sys.argv[1:]
missing = []
if which == "missing":
    _, told = uv("pip", "install", "--dry-run", "--system", "--break-system-packages", "--python", sys.executable, *arguments)
    missing = re.findall(r"^ \+ (\S+==\S+)", told, re.M)
with open(PINS, "w") as f:
    f.write("\n".join(missing) + "\n")
common = ["pip", "compile", "--quiet", "--python", sys.executable, "--no-header", "--annotation-style", "line", "-c", PINS]
files = [a for flag, a in zip(arguments, arguments[1:]) if flag == "-r"]
limits = [x for flag, a in zip(arguments, arguments[1:]) if flag == "-c" for x in ("-c", a)]
via, _ = uv(*common, *limits, *files)
uv(*common, *limits, "--format", "pylock.toml", "-o", LOCK, *files)
with open(LOCK) as f:
    json.dump({"missing": missing, "lock": f.read(), "via": via}, sys.stdout)
