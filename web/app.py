"""Build the application: the pages, the HTTP API, and the guard around both."""

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from PIL import Image
from starlette.exceptions import HTTPException as AnyHTTPException

from datamodules.sample import photo as sample_photo
from images.pixels import to_array
from images.reading import SUFFIXES
from networks.bicubic import imresize
from web.api import GONE, api_routes, offered_tasks
from web.guard import Guard
from web.pages import HERE, NOTHING, REVALIDATE, refuse, render
from web.schema import Refusal
from web.store import FullError, Store
from web.uploads import Uploads
from web.worker import Worker

log = logging.getLogger(__name__)

TYPES = {".css": "text/css", ".js": "text/javascript"}
STATIC = {path.name: TYPES[path.suffix] for path in HERE.iterdir() if path.suffix in TYPES}
EXAMPLES = {"coffee": "coffee.png", "cat": "chelsea.png", "astronaut": "astronaut.png"}
CLEAN_SECONDS = 60  # between clean-ups of expired files
OPENAPI = "/api/openapi.json"


@dataclass(frozen=True)
class Settings:
    """Settings of the pages and the guard.

    Attributes:
        title: heading of the page.
        host: the address that the server binds to.
        login: user and password; None for no login.
        hosts: names and addresses to answer to, besides this machine's own.
    """

    title: str
    host: str
    login: tuple[str, str] | None
    hosts: tuple[str, ...] = ()


def build_app(store: Store, worker: Worker, settings: Settings) -> Guard:
    """Return the application behind its guard.

    Args:
        store: of uploads and results.
        worker: does the jobs; started and ended with the application.
        settings: of the pages and the guard.
    """
    over = threading.Event()

    def tidy() -> None:
        while not over.wait(CLEAN_SECONDS):
            try:
                store.clean(worker.busy())
            except (OSError, FullError) as error:
                log.warning("clean-up: %s", error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        threading.Thread(target=tidy, name="clean-up", daemon=True).start()
        yield
        over.set()
        if num := worker.num_unfinished():
            log.info("stopping: interrupting %d jobs after the current tile", num)
        await asyncio.to_thread(worker.end)

    app = FastAPI(
        title=settings.title,
        description="Photos in, enhanced and rated photos out. docs/web.md has examples.",
        openapi_url=OPENAPI,
        docs_url=None,  # it would load scripts from other servers
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": {"model": Refusal}, "5XX": {"model": Refusal}, 422: {"model": Refusal}},
    )
    pages = page_routes(PageContent(store, worker, settings))
    app.include_router(pages, include_in_schema=False)
    app.include_router(api_routes(store, worker, Uploads(store, worker)))
    add_refusals(app)
    return Guard(
        app,
        host=settings.host,
        login=settings.login,
        hosts=settings.hosts,
        max_upload=worker.limits.bytes,
        has_room=store.has_room,
    )


def add_refusals(app: FastAPI) -> None:
    """Answer errors as pages for people and as JSON for programs."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return refuse(request.scope, 422, f"{place or 'request'}: {first['msg']}"[:300])

    @app.exception_handler(AnyHTTPException)
    async def wrong(request: Request, error: AnyHTTPException) -> Response:
        status, reason = error.status_code, str(error.detail)
        # A browser shows "not found" for addresses that only accept POST or DELETE.
        if reason == "Not Found" or (status == 405 and request.method == "GET"):
            status, reason = 404, NOTHING
        return refuse(request.scope, status, reason)


class PageContent:
    """Content of the pages.

    Args:
        store: of uploads and results.
        worker: does the jobs.
        settings: of the server.
    """

    def __init__(self, store: Store, worker: Worker, settings: Settings) -> None:
        self.store = store
        self.worker = worker
        self.settings = settings
        self.examples = {name: example(file) for name, file in EXAMPLES.items()}

    def limits(self) -> dict[str, Any]:
        """Return the limits on a job, and the types of files."""
        limits = self.worker.limits
        return {
            "photos": limits.photos,
            "bytes": limits.bytes,
            "megapixels": limits.megapixels,
            "types": list(SUFFIXES),
        }

    def upload_page(self, notice: str | None = None) -> HTMLResponse:
        """Return the page for choosing photos, as a 404 if there is a notice."""
        content = {
            "title": self.settings.title,
            "tasks": offered_tasks(self.worker),
            "limits": self.limits(),
            "scorer": self.worker.scorer_facts,
            "keep_hours": self.store.keep_seconds / 3600,
            "device": self.worker.device_name,
            "waiting": self.worker.num_unfinished(),
            "examples": [
                {"name": name, "url": f"/examples/{name}.png", "width": width, "height": height}
                for name, (_, width, height) in self.examples.items()
            ],
            "notice": notice,
        }
        return render("upload.html", content, 404 if notice else 200)

    def api_page(self, base: str) -> HTMLResponse:
        """Return the page about the API.

        Args:
            base: address of the server.
        """
        content = {
            "title": self.settings.title,
            "base": base,
            "openapi": OPENAPI,
            "limits": self.limits(),
            "tasks": offered_tasks(self.worker),
            "login": self.settings.login is not None,
        }
        return render("api.html", content)

    def results_page(self, token: str) -> HTMLResponse:
        """Return the page of a job, or the first page if there is no such job."""
        found = self.worker.state(token)
        if found is None:
            return self.upload_page(GONE)
        return render("results.html", {"title": self.settings.title, **found})


def page_routes(content: PageContent) -> APIRouter:
    """Return the routes of the pages and their files."""
    router = APIRouter()

    @router.get("/")
    def index() -> HTMLResponse:
        """Show the page for choosing photos."""
        page = content.upload_page()
        page.headers.update(REVALIDATE)
        return page

    @router.get("/api")
    def api(request: Request) -> HTMLResponse:
        """Show how to use the API from Python and from a shell."""
        page = content.api_page(str(request.base_url).rstrip("/"))
        page.headers.update(REVALIDATE)
        return page

    @router.get("/results/{token}")
    def results(token: str) -> HTMLResponse:
        """Show a job's results."""
        return content.results_page(token)

    @router.get("/web/{name}")
    def static(name: str) -> FileResponse:
        """Send a style sheet or a script."""
        if name not in STATIC:
            raise HTTPException(404, NOTHING)
        return FileResponse(HERE / name, media_type=STATIC[name], headers=REVALIDATE)

    @router.get("/favicon.ico")
    def favicon() -> Response:
        """Send nothing: the pages have no icon."""
        return Response(status_code=204)

    @router.get("/examples/{name}.png")
    def example_file(name: str) -> Response:
        """Send an example photo."""
        if name not in content.examples:
            raise HTTPException(404, "There is no such example.")
        png, _, _ = content.examples[name]
        return Response(png, media_type="image/png", headers=REVALIDATE)

    return router


def example(file: str) -> tuple[bytes, int, int]:
    """Return a built-in photo at half its size, as PNG with its width and height."""
    small = imresize(sample_photo(file), 0.5)
    buffer = io.BytesIO()
    Image.fromarray(to_array(small)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), small.shape[2], small.shape[1]
