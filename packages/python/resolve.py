"""Runs in an image's Python, beside pip. "resolve ARGUMENT..." has pip resolve, and writes
what it chose and which packages need which; "choose", given a lock's packages, writes
which of their wheels pip would take; "source REQUIREMENT" which source distribution. That
builds and runs nothing."""
import contextlib, io, json, os, runpy, sys

sys.path.insert(0, "/run/rivulet")


def environment():
    from pip._vendor.packaging import markers

    return markers.default_environment()


def applies(marker, extras=("",)):
    from pip._vendor.packaging.markers import Marker

    return any(Marker(marker).evaluate(dict(environment(), extra=e)) for e in extras)


def build_nothing():
    """Has pip refuse to run code of packages, whatever files of requirements and addresses say."""
    from pip._internal.distributions.sdist import SourceDistribution
    from pip._internal.exceptions import InstallationError

    def refuse(distribution, *_, **__):
        raise InstallationError(f"{distribution.req} is to be built: give sources as sdist:FILE, or leave them to rivulet")

    if not callable(SourceDistribution.prepare_distribution_metadata):
        raise TypeError("this pip is not known")
    SourceDistribution.prepare_distribution_metadata = refuse


def resolve(arguments):
    build_nothing()
    from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
    from pip._vendor.packaging.utils import canonicalize_name

    report = "/tmp/report.json"
    sys.argv = ["pip", "install", "--dry-run", "--quiet", "--report", report, *arguments]
    out = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            runpy.run_module("pip", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    with open(report) as f:
        items = json.load(f)["install"]
    by_name = {canonicalize_name(i["metadata"]["name"]): i for i in items}
    extras = {n: set(i.get("requested_extras") or ()) for n, i in by_name.items()}
    needs = {n: set() for n in by_name}
    todo = list(by_name)
    while todo:
        name = todo.pop()
        for text in by_name[name]["metadata"].get("requires_dist") or ():
            try:
                r = Requirement(text)
            except InvalidRequirement:
                continue
            to = canonicalize_name(r.name)
            if to not in by_name or r.marker and not applies(str(r.marker), extras[name] | {""}):
                continue
            needs[name].add(to)
            if not r.extras <= extras[to]:
                extras[to] |= r.extras
                todo.append(to)
    json.dump([{
        "name": i["metadata"]["name"],
        "version": i["metadata"]["version"],
        "requires_python": i["metadata"].get("requires_python") or "",
        "url": i["download_info"]["url"],
        "sha256": ((i["download_info"].get("archive_info") or {}).get("hashes") or {}).get("sha256", ""),
        "requested": bool(i.get("requested")),
        "needs": sorted(needs[n]),
    } for n, i in by_name.items()], out)


def choose():
    from pip._vendor.packaging.specifiers import SpecifierSet
    from pip._vendor.packaging.tags import sys_tags
    from pip._vendor.packaging.utils import InvalidWheelFilename, parse_wheel_filename

    rank = {t: n for n, t in enumerate(sys_tags())}
    python = environment()["python_full_version"]
    out = []
    for package in json.load(sys.stdin):
        best, choice = None, -1
        for n, name in enumerate(package["wheels"]):
            try:
                tags = parse_wheel_filename(name)[3]
            except InvalidWheelFilename:
                continue
            at = min((rank[t] for t in tags if t in rank), default=None)
            if at is not None and (best is None or at < best):
                best, choice = at, n
        if package["marker"] and not applies(package["marker"]):
            choice = -2
        elif package["requires_python"] and not SpecifierSet(package["requires_python"]).contains(python, prereleases=True):
            choice = -3
        out.append(choice)
    json.dump(out, sys.stdout)


def source(requirement):
    from pip._internal.commands import create_command
    from pip._vendor.packaging.requirements import Requirement

    wanted = Requirement(requirement)
    command = create_command("install")
    options, _ = command.parse_args(["--quiet", "--no-binary", ":all:", wanted.name])
    with command.main_context():
        finder = command._build_package_finder(options=options, session=command.get_default_session(options))
        best = finder.find_best_candidate(wanted.name, specifier=wanted.specifier).best_candidate
    json.dump({
        "url": best.link.url_without_fragment if best else "",
        "sha256": best.link.hash if best and best.link.hash_name == "sha256" else "",
    }, sys.stdout)


{"resolve": lambda: resolve(sys.argv[2:]), "choose": choose, "source": lambda: source(sys.argv[2])}[sys.argv[1]]()
