"""Render HTML pages, and errors as pages for people or JSON for programs."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

HERE = Path(__file__).parent
TEMPLATES = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
NO_STORE = {"Cache-Control": "no-store"}
# Revalidates with the server, but lets Back restore the page as it was left.
REVALIDATE = {"Cache-Control": "private, no-cache"}
NOTHING = "There is nothing at this address."
MAX_REASON = 600  # characters


def render(template: str, content: Mapping[str, object], status: int = 200) -> HTMLResponse:
    """Fill in a page's template."""
    html = TEMPLATES.get_template(template).render(page=content)
    return HTMLResponse(html, status, NO_STORE)


def refuse(scope: Scope, status: int, text: str) -> Response:
    """Return an error as a page if the client accepts HTML, otherwise as JSON."""
    # Lone surrogates, which JSON may contain, cannot be encoded in UTF-8.
    text = text.encode("utf-8", "replace").decode()[:MAX_REASON]
    if "text/html" in Headers(scope=scope).get("accept", ""):
        phrase = HTTPStatus(status).phrase.capitalize()
        return render("error.html", {"title": phrase, "text": text}, status)
    return JSONResponse({"error": text}, status, NO_STORE)
