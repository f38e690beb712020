"""python3 -m layout make DIR | compare IMAGE SIZE SOURCE...

make puts the sources of all cases below DIR and prints a line for each case:
its name, the size to ask for (0: none) and the sources, bottom first.
compare exits with 1 if IMAGE is not the disk of the sources.
"""

import sys

from . import cases, compare, source
from .ext4 import Disk


def main(verb, *args):
    if verb == "make":
        for case in cases.make(*args):
            print(*case, flush=True)
        return 0
    image, size, *sources = args
    disk = Disk([source.read(s) for s in sources], int(size))
    difference = compare.first_difference(disk, image)
    print(difference or f"{len(disk.blocks.data)} blocks are not zero, all as the page says")
    return 1 if difference else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
