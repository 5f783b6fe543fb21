"""MkDocs hooks: put what lies outside docs/ on the site.

Documents link to each other by their paths in the repository, as GitHub wants it. These hooks add
the README as the landing page, the other Markdown files, a listing of every file and folder that a
document links to, and one reference page per package; then they point the links at those pages.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?!#|[a-z]+:)([^)#\s]+)")
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".json": "json", ".md": "markdown"}


def site_path(path: str) -> str:
    """Map a path in the repository to the path of its page or picture on the site."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return path if path.endswith(".md") else f"{path}.md"


def targets(path: str) -> list[str]:
    """List the paths in the repository that a Markdown file links to."""
    text = (ROOT / path).read_text("utf-8")
    return [normpath(f"{dirname(path)}/{link}".lstrip("/")) for link in LINK.findall(text)]


def listing(path: str) -> str:
    """Write the page of a file or folder that is not Markdown."""
    if (ROOT / path).is_dir():
        names = [p.name for p in sorted((ROOT / path).iterdir()) if p.name != "__pycache__"]
        return f"# {path}/\n\n" + "".join(
            f"- [{name}]({name})\n" if name.endswith(".md") else f"- `{name}`\n" for name in names
        )
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    text = (ROOT / path).read_text("utf-8")
    return f"# {path}\n\n``````{language}\n{text}\n``````\n"


def packages() -> dict[str, list[str]]:
    """Name the modules of each package in the repository, tests aside."""
    return {
        init.parent.name: [
            ".".join(module.relative_to(ROOT).with_suffix("").parts)
            for module in sorted(init.parent.rglob("*.py"))
            if not module.name.startswith("_")
        ]
        for init in sorted(ROOT.glob("[a-z]*/__init__.py"))
        if init.parent.name != "tests"
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the reference to the navigation."""
    assert config.nav is not None
    config.nav.append({"Reference": [{p: f"reference/{p}.md"} for p in packages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose sources lie outside docs/."""
    documents = [
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.md", "docs/*.md", "weights/*.md", "benchmarks/*.md")
        for path in sorted(ROOT.glob(pattern))
    ]
    pages = {site_path(d): (ROOT / d).read_text("utf-8") for d in documents}
    for target in sorted({t for d in documents for t in targets(d)}):
        if (ROOT / target).exists() and not target.startswith("docs/"):
            pages.setdefault(site_path(target), listing(target))
    for package, modules in packages().items():
        pages[f"reference/{package}.md"] = f"# {package}\n\n" + "".join(
            f"::: {module}\n\n" for module in modules
        )
    for uri, text in pages.items():
        if uri not in files.src_uris:
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between files of the repository at their pages."""
    uri = page.file.src_uri
    path = "README.md" if uri == "index.md" else uri
    if not (ROOT / path).exists():
        path = f"docs/{uri}"

    def point(match: re.Match[str]) -> str:
        target = normpath(f"{dirname(path)}/{match[1]}".lstrip("/"))
        return relpath(site_path(target), dirname(uri) or ".")

    return markdown if not (ROOT / path).exists() else LINK.sub(point, markdown)
