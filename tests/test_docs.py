"""Documents do not go stale in silence: what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# Where a short name such as `wire.c` or `protocol/wire.[ch]` may be looked for.
FOLDERS = (
    "",
    "libmemkv/src/",
    "libmemkv/src/*/",
    "memkv_lmcache/",
    "tests/",
    "tests/*/",
)
FOLDER = r"(libmemkv|memkv_lmcache|tests|docs|examples|benchmarks|scripts|cmake)/\S*"
SOURCE = r"\w[\w./-]*\.(c|h|\[ch\]|py|md|sh)"


def files_named(text: str) -> set[str]:
    """Finds what looks like one of our files or folders between backticks."""
    words = " ".join(re.findall(r"`([^`\n]+)`", text)).split()
    return {word for word in words if re.fullmatch(f"{FOLDER}|{SOURCE}", word)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    """Each source file or folder named in a document is there."""
    for name in files_named(document.read_text(encoding="utf-8")):
        assert any(any(ROOT.glob(folder + name)) for folder in FOLDERS), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    """Each relative link of a document leads to a file."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
