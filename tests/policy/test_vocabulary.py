"""No file of the repository names a place that exists on one machine only."""

import re

from tests.policy.source import ROOT, repository_files

# Written in parts, so that this file obeys its own law.
FOLDERS = ["work", "root", "home", "Users"]
HOSTS = ["pypi" + ".org", "python" + "hosted", "npm" + "js", "debian" + ".org"]

# A folder counts only where a path begins: after a space, a quote, a bracket and so on.
MACHINE_PATH = re.compile(rf"(?<![\w.~/)\]}}*-])/(?:{'|'.join(FOLDERS)})/\w")
HOST = re.compile("|".join(map(re.escape, HOSTS)), re.IGNORECASE)


def machine_words(text):
    """The lines that name an absolute machine path or the host of a registry."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line) or HOST.search(line)
    ]


def readable(path):
    """The text of a file, or nothing for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_machine_words():
    """Absolute paths and registry hosts stay out of the repository."""
    found = {
        path.relative_to(ROOT).as_posix(): words
        for path in repository_files()
        if (words := machine_words(readable(path)))
    }
    assert found == {}


def test_machine_words_are_seen():
    """Absolute paths and hosts are found; relative paths and addresses are not."""
    bad = [f"open('/{folder}/me/x')" for folder in FOLDERS]
    bad += [f"see https://{HOSTS[0]}/project", f"https://files.{HOSTS[1]}.example"]
    good = ["../work/x", "docs/root/x", "~/home/x", "a / work / b", "http://x.y/home/z"]
    assert len(machine_words("\n".join(bad))) == len(bad)
    assert machine_words("\n".join(good)) == []
