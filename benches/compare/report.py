"""The results: numbers of each row, the table that is printed, the JSON.

In: outcomes per work. Out: per builder the median, the extremes and their distance (spread, in parts of the median), the ratio
to rbuild, and whether rbuild reached its goals. A spread over `NOISY` is said beside the figures. Goals are for full
sizes; with small ones they are shown, and mean less. Nothing here fails a run: clocks differ. The picture: chart.py.
"""

from statistics import median

# Above this distance between the fastest and the slowest run, in parts of the median, a machine is noisy.
NOISY = 0.30


def row(builder, outcome):
    """The figures of a builder in a work."""
    if outcome.failure or not outcome.samples:
        return {"builder": builder.name, "title": builder.title, "kind": builder.kind, "failure": outcome.failure,
                "repeated": outcome.repeated}
    walls = [sample.wall for sample in outcome.samples]
    return {"builder": builder.name, "title": builder.title, "kind": builder.kind, "wall": median(walls),
            "wall_min": min(walls), "wall_max": max(walls), "spread": (max(walls) - min(walls)) / median(walls),
            "walls": [round(wall, 4) for wall in walls], "cpu": median(sample.cpu for sample in outcome.samples),
            "peak_mib": max(sample.peak_mib for sample in outcome.samples), "layer_bytes": outcome.layer_bytes,
            "repeated": outcome.repeated}


def result(work, builders, outcomes):
    """A work with its rows and what became of its goals."""
    rows = [row(builder, outcomes[builder.name]) for builder in builders]
    own = next((entry for entry in rows if entry["kind"] == "rbuild" and "wall" in entry), None)
    if own:
        for entry in rows:
            if "wall" in entry:
                entry["ratio"] = entry["wall"] / own["wall"]
    peers = [entry for entry in rows if entry["kind"] != "rbuild" and "wall" in entry]
    best = min(peers, key=lambda entry: entry["wall"], default=None)
    return {"name": work.name, "title": work.title, "rows": rows, "goals": goals(work.goal, own, rows),
            "best_peer": best and best["title"], "beside_best_peer": best and own and best["wall"] / own["wall"]}


def goals(goal, own, rows):
    """Each goal as a sentence, and whether it is reached; `None` where there is nobody to compare with."""
    if own is None:
        return [{"goal": "rbuild does it", "reached": False}]
    found = []
    if goal.share:
        peers = [entry for entry in rows if entry["kind"] in goal.of and "wall" in entry]
        best = min(peers, key=lambda entry: entry["wall"], default=None)
        who = best["title"] if best else " or ".join(goal.of)
        parts = 1 / goal.share
        text = f"at most 1/{parts:.0f} of {who}" if parts > 1 else f"no slower than {who}"
        share = own["wall"] / best["wall"] if best else None
        found.append({"goal": text, "is": share and f"1/{1 / share:.1f}", "reached": share <= goal.share if share else None})
    if goal.seconds:
        found.append({"goal": f"at most {goal.seconds} s", "is": shown(own["wall"]), "reached": own["wall"] <= goal.seconds})
    found.append({"goal": f"at most {goal.mib} MiB", "is": f"{own['peak_mib']:.0f} MiB", "reached": own["peak_mib"] <= goal.mib})
    return found


def size_goal(entry):
    """The archive's size beside the others', for works whose product is an archive."""
    own = next((row for row in entry["rows"] if row["kind"] == "rbuild" and "wall" in row), None)
    peers = [row["layer_bytes"] for row in entry["rows"] if row["kind"] == "buildkit" and row.get("layer_bytes")]
    if own and peers:
        share = own["layer_bytes"] / min(peers) - 1
        entry["goals"].append({"goal": "size within 3 % of BuildKit's", "is": f"{share:+.1%}", "reached": share <= 0.03})


def text(entry):
    """A work as lines of the table."""
    lines = [f"{entry['title']}"]
    for row in entry["rows"]:
        if "wall" not in row:
            reason = (row["failure"] or "not run").splitlines()
            lines.append(f"  {row['title']:<36} not counted: {reason[0]}")
            lines += [f"      {line.strip()}" for line in reason[1:]]
            continue
        spread = f"spread {row['spread']:.0%}" + (" NOISY" if row["spread"] > NOISY else "")
        ratio = f"{row['ratio']:.2f} x" if "ratio" in row else ""
        size = f" {row['layer_bytes'] / 1e6:8.1f} MB" if entry["name"].startswith("layer-") else ""
        lines.append(f"  {row['title']:<36} {shown(row['wall']):>9} {ratio:>9}   CPU {shown(row['cpu']):>9}"
                     f"   {row['peak_mib']:6.0f} MiB{size}   {spread}")
        for said in row["repeated"]:
            lines.append(f"      a turn failed and was repeated: {said.strip().splitlines()[-1].strip()}")
    if entry["beside_best_peer"]:
        lines.append(f"    {entry['beside_best_peer']:.1f} times as fast as the best of the others, {entry['best_peer']}")
    for goal in entry["goals"]:
        state = {True: "reached", False: "MISSED", None: "nobody to compare with"}[goal["reached"]]
        lines.append(f"    goal: {goal['goal']}: {state}" + (f" ({goal['is']})" if goal.get("is") else ""))
    return "\n".join(lines)


def crash_text(found, builders):
    """The part about crashes; calls are counted in a full run, and with `--rows syncs`."""
    lines = ["After a crash of the machine (and how often a build of ten steps asks for writing to disk):"]
    for builder in builders:
        entry = found[builder.name]
        calls = ""
        if "failure" in entry:
            calls = f" (not counted: {entry['failure']})"
        elif "calls" in entry:
            calls = f" ({', '.join(f'{number} {name}' for name, number in sorted(entry['calls'].items())) or 'never'})"
        lines.append(f"  {builder.title}: {entry['guarantee']}{calls}")
    return "\n".join(lines)


def shown(seconds):
    """A time with three digits."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
