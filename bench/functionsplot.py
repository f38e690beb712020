"""functionsplot.py packages|zipf ROWS SVG: draws the rows of a table that functions.sh has
printed. Both axes of times, and those of bytes, are logarithmic."""
import math, sys

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 420, 70, 40, 90
COLOURS = ["#888888", "#c0504d", "#4f81bd", "#2e8b57"]


def rows(path):
    return [[c.strip() for c in line.strip().strip("|").split("|")] for line in open(path) if line.startswith("|")]


def scale(low, high, a, b):
    return lambda v: a + (b - a) * (math.log10(v) - math.log10(low)) / (math.log10(high) - math.log10(low))


def text(x, y, s, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" {more}>{s}</text>'


def frame(title, low, high, unit):
    y = scale(low, high, HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(LEFT, 20, title, 'font-weight="bold"')]
    for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        v = 10.0**e
        if low <= v <= high:
            out.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>')
            out.append(text(LEFT - 6, y(v) + 4, f"{v:g} {unit}", 'text-anchor="end"'))
    return out, y


def legend(names):
    return [part for i, n in enumerate(names) for part in (
        f'<rect x="{LEFT + 190 * i}" y="26" width="10" height="10" fill="{COLOURS[i]}"/>', text(LEFT + 14 + 190 * i, 35, n))]


def packages(table):
    # name, pip, its import, first, second, cold host, import there, import when warm
    shown = {"pip install": 1, "rivulet, first time": 3, "second disk": 4, "cold host": 5}
    values = [float(r[i]) for r in table for i in shown.values()]
    out, y = frame("A package in a disk, seconds", min(values) * 0.8, max(values) * 1.2, "s")
    out += legend(shown)
    step = (WIDTH - LEFT - 10) / len(table)
    for n, r in enumerate(table):
        x = LEFT + n * step
        for k, i in enumerate(shown.values()):
            top = y(max(float(r[i]), 0.001))
            out.append(f'<rect x="{x + k * step / 5:.1f}" y="{top:.1f}" width="{step / 5:.1f}" height="{HEIGHT - BOTTOM - top:.1f}" fill="{COLOURS[k]}"/>')
        out.append(text(x + step / 2, HEIGHT - BOTTOM + 12, r[0], f'text-anchor="end" transform="rotate(-45 {x + step / 2:.1f} {HEIGHT - BOTTOM + 12})"'))
    return out


def zipf(table):
    points = [[float(c) for c in r[:3]] for r in table]
    out, y = frame("Functions in one store, MiB", 100, max(p[1] for p in points) * 1.2, "MiB")
    out += legend(["their trees", "stored"])
    x = scale(1, points[-1][0], LEFT, WIDTH - 20)
    for k in 1, 2:
        line = " ".join(f"{x(p[0]):.1f},{y(p[k]):.1f}" for p in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[k - 1]}" stroke-width="2"/>')
        out += [f'<circle cx="{x(p[0]):.1f}" cy="{y(p[k]):.1f}" r="3" fill="{COLOURS[k - 1]}"/>' for p in points]
    for p in points:
        if math.log10(p[0]) % 1 == 0 or p is points[-1]:
            out.append(text(x(p[0]), HEIGHT - BOTTOM + 18, f"{p[0]:.0f}", 'text-anchor="middle"'))
    out.append(text(WIDTH / 2, HEIGHT - BOTTOM + 40, "functions", 'text-anchor="middle"'))
    return out


what, table, to = sys.argv[1:]
with open(to, "w") as f:
    f.write("\n".join({"packages": packages, "zipf": zipf}[what](rows(table)) + ["</svg>"]) + "\n")
