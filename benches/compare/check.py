"""Promises of the comparison, each on the smallest input: what counts as equal, what came from a cache, goals, the chart.

Run by tests/compare.rs. Needs nothing but Python; that the other builders do what builders.py says is seen when they run.
"""

import hashlib
import io
import json
import tarfile
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import chart
import images
import machine
import report
import turns
import works
from measure import Sample
from turns import Outcome

CONFIG = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"], "Labels": {"io.buildah.version": "1"}}}


def entry(name, content=None, **fields):
    """A tar entry: a file with content, else a directory."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode, info.size = 0o755, len(content or b"")
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def archive(directory, layers, config=None):
    """An archive as of `docker save`, of layers that are lists of entries; returns its picture."""
    path = Path(directory) / "image.tar"
    with tarfile.open(path, "w") as tar:
        def add(name, text):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        names = []
        for number, entries in enumerate(layers):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as layer:
                for info, content in entries:
                    layer.addfile(info, io.BytesIO(content or b""))
            names.append(f"{number}.tar")
            add(names[-1], buffer.getvalue())
        add("config.json", json.dumps(config or CONFIG).encode())
        add("manifest.json", json.dumps([{"Config": "config.json", "Layers": names}]).encode())
    return images.read(path)


class Equality(unittest.TestCase):
    BASE = [entry("d"), entry("d/a", b"one"), entry("b", b"two")]

    def difference(self, layers, config=None):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            return images.difference(archive(one, [self.BASE]), archive(other, layers, config))

    def test_what_differs_in_layers_times_and_names_of_the_same_bytes_is_equal(self):
        link = entry("c", b"", type=tarfile.LNKTYPE, linkname="d/a")
        for layers in (
            [self.BASE[:2], self.BASE[2:]],
            [[entry("./d/"), entry("./d/a", b"one", mtime=5), entry("b", b"two")]],
            [self.BASE + [entry("gone", b"x")], [entry(".wh.gone", b"")]],
            [[entry("d"), entry("d/old", b"x")], [entry("d"), entry("d/.wh..wh..opq", b""), *self.BASE[1:]]],
            [self.BASE + [link], [entry(".wh.c", b"")]],
        ):
            self.assertIsNone(self.difference(layers))

    def test_what_a_user_of_the_image_could_see_is_a_difference(self):
        for layers, word in (
            ([self.BASE[:2]], "/b: only in the first"),
            ([self.BASE + [entry("e", b"")]], "/e: only in the second"),
            ([self.BASE + [entry("b", b"TWO")]], "/b: "),
            ([self.BASE + [entry("b", b"two", mode=0o700)]], "/b: "),
            ([self.BASE + [entry("b", b"two", uid=7)]], "/b: "),
            ([self.BASE + [entry("b", b"", type=tarfile.SYMTYPE, linkname="d/a")]], "/b: "),
            ([self.BASE + [entry("b", b"two", pax_headers={"SCHILY.xattr.security.capability": "x"})]], "/b: "),
            ([self.BASE, [entry("d", b"")]], "/d/a: only in the first"),
        ):
            self.assertIn(word, self.difference(layers) or "equal")

    def test_configs_are_compared_without_versions_of_builders(self):
        self.assertIsNone(self.difference([self.BASE], CONFIG | {"config": {"Env": ["A=1"], "WorkingDir": "/", "Cmd": None}}))
        self.assertIn("config: Env", self.difference([self.BASE], CONFIG | {"config": {"Env": ["A=2"]}}))
        self.assertIn("config: User", self.difference([self.BASE], CONFIG | {"config": {"Env": ["A=1"], "User": "app"}}))


class Caches(unittest.TestCase):
    def test_cached_steps_are_counted_without_bases_and_contexts(self):
        plain = ("#1 [internal] load build definition from Dockerfile\n#1 CACHED\n#2 [1/3] FROM localhost/b:1\n#2 CACHED\n"
                 "#3 [2/3] RUN :\n#3 CACHED\n#4 [3/3] COPY . /src\n#4 DONE 0.1s\n")
        self.assertEqual(turns.cached_steps(plain, "CACHED"), 1)
        self.assertEqual(turns.cached_steps("STEP 2/3: RUN :\n--> Using cache 12\nSTEP 3/3: RUN x\n", "Using cache"), 1)


def rows(mine, theirs, kind="buildkit", layer_bytes=(100, 100)):
    """A work's result with rbuild and one other."""
    builders = [SimpleNamespace(name="rbuild", title="rbuild", kind="rbuild"),
                SimpleNamespace(name="other", title="Other", kind=kind)]
    outcomes = {builder.name: Outcome([Sample(wall, 1.0, 40.0, 0, "") for wall in walls], layer_bytes=size)
                for builder, walls, size in zip(builders, (mine, theirs), layer_bytes)}
    work = SimpleNamespace(name="layer-x", title="a work", goal=works.Goal(share=1 / 4))
    found = report.result(work, builders, outcomes)
    report.size_goal(found)
    return found


class Reports(unittest.TestCase):
    def test_goals_are_reached_missed_or_not_comparable(self):
        for mine, theirs, kind, reached in (([1.0], [4.1], "buildkit", True), ([1.0], [3.9], "buildkit", False),
                                            ([1.0], [9.0], "buildah", None), ([1.0], [], "buildkit", None)):
            self.assertIs(rows(mine, theirs, kind)["goals"][0]["reached"], reached)
        self.assertFalse(rows([], [1.0])["goals"][0]["reached"])
        self.assertFalse(rows([1.0], [9.0], layer_bytes=(104, 100))["goals"][-1]["reached"])

    def test_a_builder_without_figures_is_named_and_never_counted(self):
        found = rows([1.0], [])
        self.assertIsNone(found["best_peer"])
        self.assertIn("not counted", report.text(found))

    def test_a_noisy_row_says_so(self):
        self.assertIn("NOISY", report.text(rows([1.0, 1.4], [9.0, 9.0])))
        self.assertNotIn("NOISY", report.text(rows([1.0, 1.1], [9.0, 9.1])))

    def test_medians_and_ratios(self):
        found = rows([3.0, 1.0, 2.0], [8.0, 10.0, 90.0])["rows"]
        self.assertEqual((found[0]["wall"], found[1]["wall"], found[1]["ratio"]), (2.0, 10.0, 5.0))

    def test_the_chart_is_one_picture_with_every_row_and_nothing_from_elsewhere(self):
        crash = {"rbuild": {"title": "rbuild", "guarantee": "all of it"}}
        results = {"works": [rows([1.0], [4.0])], "repeats": 1, "machine": machine.facts("/"), "crash": crash}
        drawn = chart.svg(results)
        texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("text")]
        self.assertTrue({"a work", "rbuild", "Other", "4.00 s   4.0 ×", "rbuild: all of it."} <= set(texts))
        self.assertNotIn("href", drawn)
        used = {element.get("fill") for element in ElementTree.fromstring(drawn).iter()} - {None}
        self.assertTrue(used and used | set(chart.COLORS.values()) <= chart.DARK.keys(), "a colour without a dark one")

    def test_nothing_names_the_machine(self):
        name = Path("/proc/sys/kernel/hostname").read_text().strip()
        said = json.dumps(machine.facts("/"))
        self.assertFalse(len(name) > 3 and name in said)
        self.assertNotIn("/", said.replace("CPU @", ""))


class Works(unittest.TestCase):
    def test_works_have_names_of_their_own_and_goals(self):
        names = [work.name for work in works.ALL]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(len(names), 12)
        self.assertTrue(all(work.goal.share or work.goal.seconds for work in works.ALL))

    def test_contents_are_the_same_each_time(self):
        with tempfile.TemporaryDirectory() as directory:
            first, second = Path(directory) / "1", Path(directory) / "2"
            for path in (first, second):
                works.bases.large_file(path, 2)
            digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)}
            self.assertEqual((len(digests), first.stat().st_size), (1, 2 << 20))


if __name__ == "__main__":
    unittest.main()
