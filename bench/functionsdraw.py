"""functionsdraw.py draw WORK COUNT PACKAGE...: draws COUNT functions, of 1 to 4 of the packages each, by Zipf.
WORK/locks/PACKAGE.toml is a lock of each. WORK/functions/N.toml becomes that of a function, or, if
its packages do not agree on a version, N.specs the arguments to resolve them, by uv.

functionsdraw.py bytes BASE INSTALLED LOCK...: prints the bytes of all trees, each of BASE bytes and of
the packages of a lock, by a list of 'rivulet packages ls --json'."""
import json, random, re, sys, tomllib


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(package):
    return (package.get("wheels") or [package.get("sdist")])[0]["hashes"]["sha256"]


def parts(file):
    """The text before the packages, each package with its text, and the text after."""
    text = open(file).read()
    head, *blocks = re.split(r"(?m)^(?=\[\[packages\]\]$)", text)
    blocks[-1], cut, tail = blocks[-1].partition("\n[tool")
    return head, list(zip(tomllib.loads(text)["packages"], blocks)), cut + tail


def draw(work, count, names):
    choice = random.Random(7)
    weights = [1 / (i + 1) for i in range(len(names))]
    for n in range(count):
        chosen = list(dict.fromkeys(choice.choices(names, weights, k=choice.randint(1, 4))))
        have, agree = {}, True
        for name in chosen:
            head, packages, tail = parts(f"{work}/locks/{name}.toml")
            for package, block in packages:
                before = have.setdefault(canonical(package["name"]), (digest(package), block))
                agree = agree and before[0] == digest(package)
        target = json.dumps(tomllib.loads(tail)["tool"]["rivulet"]["target"])
        with open(f"{work}/functions/{n}." + ("toml" if agree else "specs"), "w") as f:
            if agree:
                blocks = [block.rstrip() + "\n" for _, block in have.values()]
                f.write(head + "\n".join(blocks) + f"\n[tool]\n[tool.rivulet]\ntarget = {target}\n")
            else:
                # pip would go back through hundreds of versions of what disagrees; uv, of what comes last.
                chosen.sort(key=names.index)
                f.write("".join(f"pip:{name}\n" for name in chosen) + "--resolver=uv\n")


def size(base, installed, *locks):
    sizes = {p["sha256"]: p["bytes"] for p in json.load(open(installed))}
    return sum(int(base) + sum(sizes[digest(p)] for p in tomllib.load(open(lock, "rb"))["packages"]) for lock in locks)


if sys.argv[1] == "draw":
    draw(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
else:
    print(size(*sys.argv[2:]))
