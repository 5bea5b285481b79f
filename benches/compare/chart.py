"""The chart: per work a group of bars, one per builder, each group as wide as its slowest, with times and ratios in words.

In: the results as of the JSON. Out: an SVG without scripts, fonts or addresses of elsewhere, on a ground of its own: white,
or dark where the reader's screen is, so that it can be read wherever it is shown. Bars are linear within their group:
twice as long is twice the time.
"""

import textwrap
from xml.sax.saxutils import escape

import report

WIDTH, MARGIN, LABELS, VALUES = 880, 24, 232, 176
BAR, GAP, TITLE, BETWEEN = 13, 4, 22, 16
INK, SOFT, FAINT, GROUND = "#1c1917", "#57534e", "#78716c", "#ffffff"
COLORS = {"rbuild": "#c2410c", "buildkitd": "#1e3a8a", "docker": "#1d4ed8", "docker-containerd": "#60a5fa",
          "buildah": "#44403c", "podman": "#a8a29e"}
# What each colour is on a dark ground.
DARK = {INK: "#e6edf3", SOFT: "#9da7b3", FAINT: "#7d8590", GROUND: "#0d1117",
        "#c2410c": "#f97316", "#1e3a8a": "#2f5fd0", "#1d4ed8": "#3b82f6", "#60a5fa": "#93c5fd",
        "#44403c": "#8b949e", "#a8a29e": "#57606a"}
# How many letters of the smallest size fit into a line.
LETTERS = 140
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""


def svg(results):
    """The whole picture."""
    parts, top = [], MARGIN + 20
    parts.append(text(MARGIN, top, "Time to do the same work, in multiples of what rbuild takes", 17, weight=600))
    top += 20
    where = results["machine"]
    parts.append(text(MARGIN, top, f"{where['processor']}, {where['cores']} cores, Linux {where['kernel']}; median of "
                      f"{results['repeats']}, turn by turn, each store on a new ext4", 12, SOFT))
    top += 18
    for entry in results["works"]:
        drawn, top = group(entry, top + BETWEEN)
        parts += drawn
    top += BETWEEN
    for line in crashes(results["crash"]):
        top += 15
        parts.append(text(MARGIN, top, line, 11, SOFT))
    height = top + MARGIN
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-label="Times of rbuild and other builders" {FONT}>\n'
            f'<style>@media (prefers-color-scheme: dark) {{{dark()}}}</style>\n'
            f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{GROUND}"/>\n' + "\n".join(parts) + "\n</svg>\n")


def dark():
    """The rules that turn every colour into its dark one."""
    return "".join(f'[fill="{light}"]{{fill:{dark}}}' for light, dark in DARK.items())


def crashes(found):
    """What is left after a crash, said once for all that promise the same, in lines that fit."""
    titles = {}
    for entry in found.values():
        titles.setdefault(entry["guarantee"], []).append(entry["title"])
    said = [f"{', '.join(names)}: {guarantee}." for guarantee, names in titles.items()]
    return [line for sentence in ["After a crash of the machine:", *said] for line in textwrap.wrap(sentence, LETTERS)]


def group(entry, top):
    """The bars of one work; returns them and where they end."""
    parts = [text(MARGIN, top + 12, entry["title"], 13.5, weight=600)]
    top += TITLE
    left, room = MARGIN + LABELS, WIDTH - 2 * MARGIN - LABELS - VALUES
    slowest = max((row["wall"] for row in entry["rows"] if "wall" in row), default=1)
    for row in entry["rows"]:
        base = top + BAR - 2.5
        own = row["kind"] == "rbuild"
        parts.append(text(left - 8, base, row["title"], 12, INK if own else SOFT, 600 if own else 400, "end"))
        if "wall" in row:
            length = max(1.5, room * row["wall"] / slowest)
            parts.append(f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2" '
                         f'fill="{COLORS.get(row["builder"], FAINT)}"/>')
            ratio = f"   {row['ratio']:.1f} ×" if "ratio" in row and not own else ""
            noisy = "  (noisy)" if row["spread"] > report.NOISY else ""
            parts.append(text(left + length + 7, base, report.shown(row["wall"]) + ratio + noisy, 12,
                              weight=600 if own else 400))
        else:
            parts.append(text(left, base, "not counted", 12, FAINT))
        top += BAR + GAP
    return parts, top


def text(x, y, content, size, fill=INK, weight=400, anchor="start"):
    """One line of text; blanks in it are kept."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}" '
            f'xml:space="preserve">{escape(content)}</text>')
