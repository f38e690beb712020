"""functionswheels.py INSTALLED COUNT DIR: writes COUNT wheels of generated packages into DIR. Each
has as many bytes and files as one of the packages in INSTALLED, a list by 'rivulet packages
ls --json', drawn anew for each of those of up to 8 MiB. Half of the bytes compress away."""
import base64, hashlib, json, os, random, sys, zipfile

LARGEST, MOST = 8 << 20, 300  # bytes and files
draw = random.Random(11)
installed, count, folder = json.load(open(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
shapes = sorted((p["bytes"], p["files"]) for p in installed if p["bytes"] <= LARGEST)
for n in range(count):
    total, files = draw.choice(shapes)
    files = max(2, min(files, MOST))
    name, info = f"made{n:03}", f"made{n:03}-1.0.dist-info/"
    weights = [draw.lognormvariate(0, 1.5) for _ in range(files - 1)]
    content = {f"{name}/__init__.py": b""}
    for i, w in enumerate(weights):
        size = int(total * w / sum(weights))
        content[f"{name}/data{i:03}.txt"] = draw.randbytes(size // 2).hex().encode()
    content[info + "WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[info + "METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n".encode()
    record = ""
    for path, data in content.items():
        record += f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
    content[info + "RECORD"] = (record + info + "RECORD,,\n").encode()
    with zipfile.ZipFile(os.path.join(folder, f"{name}-1.0-py3-none-any.whl"), "w") as z:
        for path, data in content.items():
            z.writestr(path, data)
