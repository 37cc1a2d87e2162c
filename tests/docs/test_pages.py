"""Pages agree with the code and with each other: links, settings, commands and files that they name exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from common.settings import REMOVED_SETTINGS, Settings
from flockwatch.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md")
    for path in ROOT.glob(pattern)
    if path.parts[len(ROOT.parts)] != "build"
)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
MEMBERS = re.compile(r"^::: (\S+)\n +options: \{members: \[(.*)\]\}", re.MULTILINE)
FILE = re.compile(
    r"(client|common|server|flockwatch|tests|docs|deploy|configs|benchmarks|examples)/[\w./-]*(\.\w+|/|/run)"
)
FILE_ENDINGS = {"py", "md", "key", "pem", "pub", "lock", "yaml", "log"}
SECTIONS = {name: set(section) for name, section in Settings().dump().items()}
PAST = "CHANGELOG.md"
"""The one page that names what no longer exists."""

BUILT = ("No", "trainer")
"""First words of messages that come from the system, or that are put together from parts."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the documentation site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_each_page_has_a_title_and_a_text(page: Path) -> None:
    title, _, text = page.read_text().partition("\n")
    assert title.startswith("# ")
    assert text.strip()


@every_page
def test_each_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_each_member_that_the_api_pages_name_exists() -> None:
    missing = []
    for page in (ROOT / "docs/api").glob("*.md"):
        for module, members in MEMBERS.findall(page.read_text()):
            names = vars(importlib.import_module(module))
            missing += [f"{module}.{name}" for name in members.split(", ") if name not in names]
    assert missing == []


@every_page
def test_each_setting_that_a_page_names_exists(page: Path) -> None:
    if page.name == PAST:
        return
    named = [span.split(":")[0].split("=")[0] for span in CODE.findall(FENCE.sub("", page.read_text()))]
    named += re.findall(r"--set ([\w.]+)=", code_of(page))
    named += [
        name.lower().replace("__", ".")
        for name in re.findall(r"FLOCKWATCH_([A-Z]+__[A-Z_0-9]+)", code_of(page))
    ]
    unknown = []
    for name in named:
        section, dot, key = name.partition(".")
        if dot and section in SECTIONS and key not in SECTIONS[section] | FILE_ENDINGS:
            unknown.append(name)
    assert unknown == []


@every_page
def test_each_command_that_a_page_names_exists(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"(?:^|[`/ ])flockwatch ([a-z]+)\b", code_of(page), re.MULTILINE))
    unknown = []
    for name in sorted(named):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        if ended.value.code != 0:
            unknown.append(name)
    assert unknown == [], capsys.readouterr().err


@every_page
def test_each_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    if page.name == PAST:
        return
    named = [span for span in CODE.findall(FENCE.sub("", page.read_text())) if FILE.fullmatch(span)]
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def code_of(page: Path) -> str:
    """Everything on a page that is set as code."""
    text = page.read_text()
    return "\n".join([*FENCE.findall(text), *CODE.findall(FENCE.sub("", text))])


def test_the_changes_name_each_setting_that_was_removed() -> None:
    changes = (ROOT / PAST).read_text()
    assert [name for name in REMOVED_SETTINGS if f"`{name.partition(':')[0]}`" not in changes] == []


@pytest.mark.parametrize("page", ["security.md#error messages", "live.md#`/metrics` and `/healthz`"])
def test_the_programs_have_each_message_that_a_table_quotes(page: str) -> None:
    """Most runs of three words of each part of a quoted message are in the source."""
    name, _, heading = page.partition("#")
    source = "".join(
        path.read_text() for p in ("client", "server", "common") for path in (ROOT / p).rglob("*.py")
    )
    text = (ROOT / "docs" / name).read_text()
    start = re.search(rf"^## {re.escape(heading)}$", text, re.MULTILINE | re.IGNORECASE)
    assert start is not None
    rows = [line for line in text[start.end() :].partition("\n## ")[0].splitlines() if line.startswith("|")]
    quoted = [span for row in rows for cell in row.split("|")[2:] for span in CODE.findall(cell)]
    parts = [part.strip(" ;,") for span in quoted for part in re.split(r"SHA256|\.\.\.|[=:]|-?\d+", span)]
    phrases = [part.split() for part in parts if " " in part]
    assert phrases
    unknown = []
    for words in phrases:
        length = min(3, len(words))
        runs = [" ".join(words[i : i + length]) for i in range(len(words) - length + 1)]
        if words[0] not in BUILT and sum(run in source for run in runs) * 2 <= len(runs):
            unknown.append(" ".join(words))
    assert unknown == []


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_a_decision_has_at_most_40_lines() -> None:
    lengths = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "docs" / "decisions").glob("0*.md")}
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    docs = ROOT / "docs"
    assert [p.name for p in docs.rglob("*.md") if str(p.relative_to(docs)) not in navigation] == []


@pytest.mark.parametrize("package", ["client", "common", "flockwatch", "server"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
