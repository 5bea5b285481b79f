"""The order of things: options, the sid root, the builders found, works one after another, results.

Started by run.sh as the first process of its namespaces. What is printed to standard output is the result, to standard
error what is going on. Files of one idea each: works.py (what), builders.py (by whom), session.py (where), turns.py (in
which order), measure.py (how), images.py (equal?), syncs.py (crashes), report.py and chart.py (shown).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import bases
import builders as known
import chart
import machine
import report
import syncs
import turns
import works
from session import HERE, Failed, Session

# How often the start of a program is measured.
STARTS = 20
# What contexts, stores and registries of the largest work may take together.
FULL_GIB, QUICK_GIB = 15, 3


class Surroundings:
    """What all sessions share. `works` is what builders see as /works."""

    def __init__(self, options, work):
        self.rbuild = Path(options.rbuild).resolve(strict=True)
        self.kept = Path(options.cache).resolve()
        self.sid = self.kept / "sid"
        self.work = work
        self.works = work / "works"
        self.works.mkdir()
        self.cgroup = f"/rbuild-compare-{os.urandom(4).hex()}"

    def new_directory(self, name):
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self.work)

    def base(self, name):
        """The archive of a base image, as a name beneath /works."""
        archive = bases.make(name, self.kept)
        if not (self.works / archive.name).exists():
            shutil.copy(archive, self.works)
        return archive.name

    def remove_groups(self):
        """Takes away the control groups in which a daemon put its steps."""
        for top in [*Path("/sys/fs/cgroup").glob(f"*{self.cgroup}"), Path(f"/sys/fs/cgroup{self.cgroup}")]:
            for directory, _, _ in os.walk(top, topdown=False):
                os.rmdir(directory)


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Path(options.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compare-", dir=options.work) as work:
        surroundings = Surroundings(options, Path(work))
        try:
            measured(options, surroundings)
        finally:
            surroundings.remove_groups()


def measured(options, surroundings):
    free_gib = shutil.disk_usage(surroundings.work).free >> 30
    if free_gib < (needed_gib := QUICK_GIB if options.quick else FULL_GIB):
        sys.exit(f"compare: {options.work} has {free_gib} GiB left, and {needed_gib} may be needed: choose another --work")
    subprocess.run([HERE / "root.sh", surroundings.sid], check=True, stdout=sys.stderr)
    versions = dict(line.split() for line in Path(f"{surroundings.sid}.versions").read_text().splitlines())
    builders, missing = found(options, versions)
    sizes = works.QUICK if options.quick else works.FULL
    chosen = [work for work in works.ALL if (work.name in options.rows if options.rows else work.quick or not options.quick)]
    started = time.monotonic()
    results = {"sizes": "quick" if options.quick else "full", "repeats": options.repeat,
               "machine": machine.facts(surroundings.work), "builders": [], "missing": missing, "works": []}
    describe(results, builders, surroundings, versions)
    results["crash"] = {builder.name: {"title": builder.title, "guarantee": builder.guarantee} for builder in builders}
    print(heading(results), flush=True)
    for kind in chosen:
        work = kind(sizes, surroundings.works)
        work.inputs()
        try:
            outcomes = turns.run(work, builders, surroundings, options.repeat, say)
        finally:
            work.close()
        entry = report.result(work, builders, outcomes)
        if work.name.startswith("layer-"):
            report.size_goal(entry)
        results["works"].append(entry)
        print("\n" + report.text(entry), flush=True)
        write(options, results)
    if "syncs" in options.rows if options.rows else not options.quick:
        results["crash"] |= syncs.count(builders, surroundings, say)
    print("\n" + report.crash_text(results["crash"], builders), flush=True)
    write(options, results)
    say(f"done in {time.monotonic() - started:.0f} s")


def found(options, versions):
    """The builders that can take part, and why others cannot."""
    wanted = options.builders or [builder.name for builder in known.ALL if not (options.quick and builder.name == "podman")]
    builders, missing = [], {}
    for builder in known.ALL:
        if builder.name not in wanted:
            continue
        if reason := builder.missing(versions):
            missing[builder.title] = reason
        else:
            builders.append(builder)
    return builders, missing


def describe(results, builders, surroundings, versions):
    """Versions, and how long the start of `true` and of rbuild takes; a builder that does not start is missing."""
    for builder in list(builders):
        say(f"starting {builder.name}")
        session = None
        try:
            session = Session(surroundings, builder)
            entry = {"name": builder.name, "title": builder.title, "version": builder.version(session, versions)}
            if builder.kind == "rbuild":
                floor = median(session.measure(["true"]).wall for _ in range(STARTS))
                own = median(session.measure(["rbuild", "--version"]).wall for _ in range(STARTS))
                results["enter_seconds"], results["start_seconds"] = floor, own - floor
            results["builders"].append(entry)
        except Failed as error:
            results["missing"][builder.title] = str(error)
            builders.remove(builder)
        finally:
            if session:
                session.end()


def heading(results):
    machine_is = results["machine"]
    lines = [f"{machine_is['processor']}, {machine_is['cores']} cores, {machine_is['memory_mib'] // 1024} GiB, "
             f"Linux {machine_is['kernel']}; {machine_is['file_system']}",
             f"{results['sizes']} sizes; median of {results['repeats']}, turn by turn; x is rbuild's time; spread is from the "
             "fastest to the slowest"]
    lines += [f"  {entry['title']}: {entry['version']}" for entry in results["builders"]]
    lines += [f"  {title}: missing: {reason}" for title, reason in results["missing"].items()]
    if "enter_seconds" in results:
        lines.append(f"entering the namespaces takes {report.shown(results['enter_seconds'])} of every figure; the start of "
                     f"rbuild {report.shown(max(0, results['start_seconds']))} (goal: under 5 ms)")
    return "\n".join(lines)


def write(options, results):
    """Writes what there is so far: a long run that is cut short has its rows."""
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if options.svg:
        Path(options.svg).write_text(chart.svg(results))


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


def arguments():
    target = os.environ.get("CARGO_TARGET_DIR", bases.REPOSITORY / "target")
    parser = argparse.ArgumentParser(prog="run.sh", description="rbuild beside other builders, turn by turn")
    parser.add_argument("rbuild", metavar="RBUILD", help="the binary to be measured, a release build")
    parser.add_argument("--quick", action="store_true", help="small sizes, in under 3 minutes once the sid root is made")
    parser.add_argument("--rows", type=lambda text: text.split(","), metavar="NAME,…",
                        help="only these: " + ", ".join([work.name for work in works.ALL] + ["syncs"]))
    parser.add_argument("--builders", type=lambda text: text.split(","), metavar="NAME,…",
                        help="only these: " + ", ".join(builder.name for builder in known.ALL) + " (--quick: without podman)")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns of each builder (5; with --quick 3)")
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    parser.add_argument("--svg", metavar="FILE", help="write a chart here")
    parser.add_argument("--cache", default=f"{target}/compare", metavar="DIR", help="where the sid root and base images are kept")
    parser.add_argument("--work", default="/var/tmp", metavar="DIR",
                        help="where stores and contexts lie while it runs; full sizes take up to 15 GiB")
    options = parser.parse_args()
    options.repeat = options.repeat or (3 if options.quick else 5)
    unknown = set(options.rows or []) - {work.name for work in works.ALL} - {"syncs"}
    unknown |= set(options.builders or []) - {builder.name for builder in known.ALL}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
