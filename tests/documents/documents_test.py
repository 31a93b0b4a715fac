# SPDX-License-Identifier: Apache-2.0
"""What the documents and the programs' --help say of each other: every flag is explained, no document names a flag that is not
there, links lead somewhere, the map is whole, the API reference is that of the proto."""
import pathlib
import re
import subprocess
import sys
import unittest

from blocks import TOP, documents
from service import program

# Flags of programs that are not ours, and of our scripts, as the documents use them.
_FOREIGN = {"--no-owner", "--privileged", "--build", "--scale", "--profile", "--dry-run", "--headless", "--no-sandbox",
            "--disable-gpu", "--env-file", "--kubernetes", "--force-recreate", "--help"}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])")


def run_help(*command):
    done = subprocess.run([program(command[0]), *command[1:], "--help"], capture_output=True, text=True)
    if done.returncode != 0 or done.stderr:
        raise AssertionError(f"{' '.join(command)} --help: status {done.returncode}, {done.stderr}")
    return done.stdout


def quantctl_commands():
    """Every command of quantctl, read from its help."""
    groups = re.findall(r"^  (model|dataset|job|worker) (\w+)", run_help("quantctl"), re.M)
    assert len(groups) > 15, groups
    return [("quantctl", *g) for g in groups]


def pages():
    """{command: its help} of everything that has one."""
    commands = [*quantctl_commands(), ("quantd",), ("quantd", "token"), ("quantd", "probe"), ("quant-worker",),
                ("quant-worker", "probe")]
    return {command: run_help(*command) for command in commands}


def flags_of(text):
    """The flags that a help page lists, as they are typed."""
    found = set()
    for name in re.findall(r"^  (--\S+)", text, re.M):
        found.add(name.replace("[no-]", ""))
        if name.startswith("--[no-]"):
            found.add("--no-" + name[len("--[no-]"):])
    return found | {"--help"}


class HelpTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.pages = pages()

    def test_each_page_reads_like_a_man_page(self):
        for command, text in self.pages.items():
            with self.subTest(command):
                usage, about, rest = text.split("\n\n", 2)
                self.assertTrue(usage.startswith("Usage: " + " ".join(command)), usage)
                self.assertRegex(about, r"^[A-Z][^.]{5,}[.:]", "what it does, in a sentence")
                parts = [rest.index(part) for part in ("Flags:\n", "\nExample", "\nExit status: 0 ")]
                self.assertEqual(parts, sorted(parts), "flags, examples, exit status")

    def test_every_flag_is_explained(self):
        for command, text in self.pages.items():
            lines = text.splitlines()
            for number, line in enumerate(lines):
                if line.startswith("  --") and command != ("quantctl",):
                    with self.subTest(f"{' '.join(command)}: {line.strip()}"):
                        self.assertRegex(lines[number + 1], r"^      \S")

    def test_the_upper_levels_name_what_is_below_them(self):
        top = run_help("quantctl")
        for part in ("Usage: quantctl", "Commands", "Global flags", "Exit status: 0 ", "Example"):
            self.assertIn(part, top)
        for _, group, name in quantctl_commands():
            text = run_help("quantctl", group)
            self.assertRegex(text, rf"(?m)^  {group} {name}\b.* [A-Z].*\.$")
            self.assertIn(f"Usage: quantctl {group} COMMAND", text)

    def test_every_flag_stands_in_the_documents(self):
        told = set(_FLAG.findall("".join((TOP / name).read_text() for name in documents())))
        for command, text in self.pages.items():
            for flag in sorted(flags_of(text)):
                positive = "--" + flag[len("--no-"):] if flag.startswith("--no-") else flag
                with self.subTest(f"{flag} of {' '.join(command)}"):
                    self.assertTrue(positive in ("--run-job", "--version", "--help") or {flag, positive} & told, "no document names it")


class DocumentsTest(unittest.TestCase):

    def commands(self, text):
        """(command, line) of each call of our programs in a block, lines that are continued put together."""
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            line = line.split(" #")[0]
            for part in re.split(r"\||&&|;|\$\(|&(?!\d)|>", line):
                words = part.strip().strip("()\"").split()
                while words and re.match(r"^[A-Z_]+=", words[0]):
                    words.pop(0)
                if not words or words[0] not in ("quantctl", "quantd", "quant-worker"):
                    continue
                if words[0] in ("quantd", "quant-worker"):
                    yield tuple(words[:2]) if words[1:2] in (["token"], ["probe"]) else (words[0],), part
                else:
                    plain = [w for i, w in enumerate(words) if not w.startswith("-") and (i == 0 or not words[i - 1].startswith("--"))]
                    yield tuple(plain[:3]), part

    def test_commands_use_flags_that_their_program_has(self):
        known = {command: flags_of(text) for command, text in pages().items()}
        checked = 0
        for name, found in documents().items():
            for block in found:
                for command, line in self.commands(block.text):
                    if command[0] == "quantctl" and command[1:] in ((), ("completion",)):
                        continue
                    self.assertTrue(command in known, f"{name}:{block.line}: no command {command}: {line}")
                    for flag in _FLAG.findall(line):
                        checked += 1
                        self.assertTrue(flag in known[command], f"{name}:{block.line} names {flag}: {line}")
        self.assertGreater(checked, 100)

    def test_no_document_names_a_flag_that_nothing_has(self):
        known = set().union(*(flags_of(text) for text in pages().values())) | _FOREIGN
        known |= set(_FLAG.findall(subprocess.run([TOP / "dev", "--help"], capture_output=True, text=True).stdout))
        for script in [*TOP.glob("bench/*.py"), TOP / "bench/run", *TOP.glob("tools/*"), TOP / "examples/demo",
                       *TOP.glob("tests/fault/*.py"), *TOP.glob("bench/*.cc"), *TOP.glob("deploy/*.y*ml"), TOP / "fuzz/run",
                       TOP / "deploy/stack", *TOP.glob("tests/container/*.py"), *TOP.glob("deploy/kubernetes/*/*.yaml")]:
            known |= set(_FLAG.findall(script.read_text()))
        for name in documents():
            for number, line in enumerate((TOP / name).read_text().splitlines(), 1):
                for span in re.findall(r"`([^`]+)`", line):
                    for flag in _FLAG.findall(span):
                        self.assertTrue(flag in known, f"{name}:{number} names {flag}")

    def test_links_lead_somewhere(self):
        for name in documents():
            path = TOP / name
            text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if "://" not in target and not target.startswith(("#", "mailto:")):
                    self.assertTrue((path.parent / target.split("#")[0]).exists(), f"{name}: {target}")

    def test_links_inside_the_reference_lead_somewhere(self):
        text = (TOP / "docs/api.md").read_text()
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.*)$", text)}
        self.assertEqual(sorted({t for t in re.findall(r"\]\(#([^)]+)\)", text)} - anchors), [])

    def test_the_maps_are_whole(self):
        for folder, index in (("docs", "docs/README.md"), ("docs/adr", "docs/adr/README.md")):
            text = (TOP / index).read_text()
            here = pathlib.Path(folder)
            for name in documents():
                path = pathlib.Path(name)
                if path.is_relative_to(here) and name != index and (folder == "docs/adr" or "adr" not in path.parts):
                    self.assertIn(f"({path.relative_to(here).as_posix()})", text, f"{index} does not name it")

    def test_the_api_reference_is_that_of_the_proto(self):
        done = subprocess.run([sys.executable, TOP / "tools/api_docs", "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
