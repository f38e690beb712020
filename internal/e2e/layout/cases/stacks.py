"""How archives are read, and how layers lie on one another."""


def archive_rules(make):
    """Section "Reading an archive": names, implied directories, what comes twice, links."""
    archive = make.archive()
    archive.file("./a//b/../c/./file", b"implies a and a/c")
    archive.file("a/c/other", b"first")
    archive.file("a/c/other", b"last")
    archive.directory("a", mode=0o700, time=5)
    archive.file("becomes-directory", b"x")
    archive.file("becomes-directory-too/below", b"y")
    archive.directory("becomes-directory")
    archive.file("becomes-directory/f", b"z")
    archive.file("becomes-directory-too", b"a file again")
    archive.file("gone/below/file", b"x" * 9000)
    archive.symlink("gone", "a")
    archive.file("a/.wh..wh.plnk/ignored", b"x")
    archive.file("a/.wh..wh.aufs", b"x")
    archive.file("a/keeps")
    archive.file("a/.wh.keeps")
    archive.file("marks/deep/.wh.nothing")
    archive.file("opaque/.wh..wh..opq")
    archive.file("m-holder", b"holds the data")
    archive.link("z-name", "m-holder")
    archive.link("a-name", "./z-name")
    archive.file("replaced", b"data of the links")
    archive.link("link-2", "replaced")
    archive.link("link-1", "replaced")
    archive.file("replaced", b"data of its own")
    archive.link("link-3", "link-1")
    archive.file("below-replaced/x", b"x again")
    archive.link("x", "below-replaced/x")
    archive.symlink("below-replaced", "a")
    archive.symlink("symbolic", "target")
    archive.link("another-symbolic", "symbolic")
    archive.device("device", 1, 5)
    archive.link("another-device", "device")
    archive.file("long/" + "p" * 96, b"path of 101 bytes")
    archive.file("lon/" + "p" * 96, b"path of 100 bytes")
    archive.directory("dir/" + "p" * 95)
    archive.directory("dir/" + "q" * 96)
    archive.symlink("target-of-100", "t" * 100)
    archive.symlink("target-of-101", "t" * 101)
    archive.file(b"not-utf-8-\xff", b"x")
    archive.link("to-not-utf-8", b"not-utf-8-\xff".decode("utf-8", "surrogateescape"))
    archive.file("a-b", b"behind all of a/")
    return [archive.done()]


def whiteouts(make):
    """Three folders and two archives: what is hidden, replaced, and back again."""
    below = make.folder()
    for at in range(60):
        below.file(f"d{at % 6}/f{at}", make.bytes(make.random.randrange(20000)))
    below.file("large", make.bytes(700000))
    below.file("hidden-large", make.bytes(600000))
    below.link("d0/also-large", "large")
    below.directory("kept", 0o700)
    below.file("kept/file", b"1")
    below.symlink("link", "d1")

    second = make.folder()
    second.file(".wh.hidden-large")
    second.file("d0/.wh.f0")
    second.file("d0/.wh.f6")
    second.file("d0/f6", b"hidden and new in one layer")
    second.file("d1/.wh..wh..opq")
    second.file("d1/only", b"only")
    second.file("d2/f2/now-a-directory", b"1")
    second.file("d3", b"now a file")
    second.file("link/now-a-directory", b"2")
    second.file(".wh.nothing-of-that-name")
    second.file("d4/.wh.f4")

    third = make.archive()
    third.file("kept/new", b"implied kept keeps its mode")
    third.file("d5/.wh..wh..opq")
    third.file("hidden-large", make.bytes(800000))
    third.directory("d3", mode=0o750)
    third.file("d3/back", b"3")
    third.file("kept/.wh.nothing")

    fourth = make.archive()
    fourth.file(".wh.d0")
    fourth.file("d1/f1", b"back, with its number")
    fourth.directory("d5", mode=0o555, time=77)
    fourth.file("d2/.wh.f2")
    fourth.symlink("d4", "d1")

    fifth = make.folder()
    fifth.file("d0/f0", b"back after its directory went")
    fifth.file("d2/f2", b"a file again")
    return [below.done(), second.done(), third.done(), fourth.done(), fifth.done()]


def hard_links(make):
    """Hard links within layers and to files of layers below."""
    below = make.folder()
    below.file("m", b"one file" * 1000)
    below.link("d/same", "m")
    below.file("large", make.bytes(300000))
    below.file("goes", b"away" * 3000)
    below.file("changes", b"before")
    below.symlink("symbolic", "m")

    second = make.archive()
    second.link("a-first", "m")
    second.link("z-last", "a-first")
    second.link("d/large", "large")
    second.file(".wh.goes")
    second.link("stays", "goes")
    second.link("old", "changes")
    second.file("changes-not", b"1")
    second.link("symbolic-too", "symbolic")
    second.directory("new", mode=0o700)
    second.symlink("to-new", "new")
    second.file("new/x", b"found when it is put")
    second.link("found", "to-new/x")
    second.file("to-new/y", b"found by its real path")
    second.link("found-too", "new/y")
    second.link("new/z", "new/x")
    second.link("b-waits", "to-new/z")
    second.link("to-new/t", "new/x")
    second.link("a-waits", "new/t")
    second.link("d/same", "m")

    third = make.archive()
    third.file("m", b"not the file of the links")
    third.link("goes", "stays")
    third.file("changes", b"after")
    third.link("changes-too", "changes")
    third.file("z-last/now/a/directory", b"2")
    third.link("a-first", "m")
    third.file("with-xattrs", b"3", xattrs={"user.x": b"y" * 100})
    third.link("b-with-xattrs", "with-xattrs")

    fourth = make.folder()
    fourth.file("with-xattrs", b"leaves the other name")
    fourth.file(".wh.large")
    return [below.done(), second.done(), third.done(), fourth.done()]


def links_as_parents(make):
    """Layers with entries below what is a symbolic link in a layer below, or their own."""
    below = make.archive()
    below.directory("usr/lib", mode=0o711)
    below.file("usr/lib/old", b"1")
    below.file("usr/lib/hidden", b"2")
    below.file("opaque/all", b"3")
    below.file("real/sub/file", b"4")
    for name, target in {
        "lib": "usr/lib", "absolute": "/usr/lib", "up": "../../usr/./lib", "chain": "lib",
        "to-opaque": "opaque", "nowhere": "ghost/town", "half": "real/gone/deep",
        "back": "phantom/../real/sub", "replaced": "real", "slash": "real//sub/",
        "usr/across": "../real",
    }.items():
        below.symlink(name, target)

    second = make.archive()
    second.file("lib/new", b"a" * 5000)
    second.file("absolute/new-2", b"b")
    second.file("up/old", b"replaces usr/lib/old")
    second.file("chain/.wh.hidden")
    second.file("to-opaque/.wh..wh..opq")
    second.file("to-opaque/only", b"c")
    second.file("nowhere/file", b"in a directory without an entry")
    second.file("nowhere/more/file", b"implied, so with one")
    second.file("half/file", b"d")
    second.file("back/file", b"e")
    second.file("slash/z", b"f")
    second.file("usr/across/w", b"g")
    second.directory("replaced", mode=0o700)
    second.file("replaced/.wh.sub")
    second.file("replaced/own", b"h")
    second.link("lib/linked", "chain/old")

    third = make.archive()
    third.symlink("own", "usr/lib")
    third.file("own/through", b"i")
    third.directory("own/directory", mode=0o750)
    third.file("own/directory/file", b"j")
    third.file("usr/lib/last", b"k")
    third.file("ghost/town/file-2", b"now the directory is implied")
    third.symlink("fresh", "new/place")
    third.file("fresh/file", b"l")
    third.directory("real/gone", mode=0o700)
    return [below.done(), second.done(), third.done()]


def many_layers(make):
    """Layers with and without data and entries, more than a slot's room, on a disk of odd size."""
    sources = []
    for at in range(24):
        archive = make.archive()
        if at % 5 != 4:
            archive.directory(f"layer-{at}")
        for k in range(at % 4):
            archive.file(f"layer-{at}/{k}", make.bytes(1000 * at))
            archive.file("shared", b"of layer %d" % at)
        if at == 7:
            archive.file("fills-a-slot", make.bytes(15 * 524288))
        sources.append(archive.done())
    return sources
