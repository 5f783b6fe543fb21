"""Build the application: the pages, the HTTP API, and the guard around both."""

import asyncio
import functools
import io
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from PIL import Image
from starlette.exceptions import HTTPException as AnyHTTPException

from datamodules.sample import photo as sample_photo
from images.formats import SUFFIXES
from images.pixels import to_array
from networks.bicubic import imresize
from web import api
from web.api import GONE, Served, Settings, Site, offered_tasks
from web.guard import Guard
from web.pages import HERE, NOTHING, REVALIDATE, refuse, render
from web.schema import Refusal
from web.speeds import PICTURE
from web.store import FullError, Store
from web.uploads import Uploads
from web.worker import Worker

log = logging.getLogger(__name__)

TYPES = {".css": "text/css", ".js": "text/javascript"}
STATIC = {path.name: TYPES[path.suffix] for path in HERE.iterdir() if path.suffix in TYPES}
EXAMPLES = {"coffee": "coffee.png", "cat": "chelsea.png", "astronaut": "astronaut.png"}
CLEAN_SECONDS = 60  # between clean-ups of expired files
OPENAPI = "/api/openapi.json"

pages = APIRouter()


def build_app(store: Store, worker: Worker, settings: Settings) -> Guard:
    """Return the application behind its guard."""
    over = threading.Event()

    def tidy() -> None:
        while not over.wait(CLEAN_SECONDS):
            try:
                store.clean(worker.busy())
            except (OSError, FullError) as error:
                log.warning("clean-up: %s", error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.thread.start()
        threading.Thread(target=tidy, name="clean-up", daemon=True).start()
        yield
        over.set()
        if num := worker.num_unfinished():
            log.info("stopping: interrupting %d jobs after the current tile", num)
        await asyncio.to_thread(worker.end)

    app = FastAPI(
        title=settings.title,
        description="Enhance and score photos. See docs/web.md for examples.",
        openapi_url=OPENAPI,
        docs_url=None,  # it would load scripts from other servers
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": {"model": Refusal}, "5XX": {"model": Refusal}, 422: {"model": Refusal}},
        exception_handlers={RequestValidationError: invalid, AnyHTTPException: wrong},
    )
    app.state.site = Site(store, worker, Uploads(store, worker), settings)
    app.include_router(pages, include_in_schema=False)
    app.include_router(api.router)
    return Guard(
        app,
        host=settings.host,
        login=settings.login,
        hosts=settings.hosts,
        max_upload=worker.limits.bytes,
        has_room=store.has_room,
    )


async def invalid(request: Request, error: Exception) -> Response:
    """Answer a request whose content has the wrong form."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return refuse(request.scope, 422, f"{place or 'request'}: {first['msg']}"[:300])


async def wrong(request: Request, error: Exception) -> Response:
    """Answer a request that was refused."""
    assert isinstance(error, AnyHTTPException)
    status, reason = error.status_code, str(error.detail)
    # A browser shows "not found" for addresses that only accept POST or DELETE.
    if reason == "Not Found" or (status == 405 and request.method == "GET"):
        status, reason = 404, NOTHING
    return refuse(request.scope, status, reason)


def content_of(site: Site) -> dict[str, object]:
    """Return what the pages about photos and the API show."""
    limits = site.worker.limits
    return {
        "title": site.settings.title,
        "tasks": [task.model_dump() for task in offered_tasks(site.worker)],
        "limits": {
            "photos": limits.photos,
            "bytes": limits.bytes,
            "megapixels": limits.megapixels,
            "types": list(SUFFIXES),
        },
    }


def upload_page(site: Site, notice: str | None = None) -> HTMLResponse:
    """Return the page for choosing photos, as a 404 if there is a notice."""
    content = {
        "scorer": site.worker.scorer_facts.model_dump(),
        "keep_hours": site.store.keep_seconds / 3600,
        "device": site.worker.device_name,
        "waiting": site.worker.num_unfinished(),
        "estimates": {
            "tile": site.worker.speeds.tile,
            "rest": site.worker.speeds.rest_seconds,
            "picture": PICTURE,
        },
        "examples": [
            {"name": name, "url": f"/examples/{name}.png", "width": width, "height": height}
            for name, (_, width, height) in examples().items()
        ],
        "notice": notice,
    }
    return render("upload.html", content_of(site) | content, 404 if notice else 200)


@pages.get("/")
def index(site: Served) -> HTMLResponse:
    """Show the page for choosing photos."""
    page = upload_page(site)
    page.headers.update(REVALIDATE)
    return page


@pages.get("/api")
def guide(site: Served, request: Request) -> HTMLResponse:
    """Show how to use the API from Python and from a shell."""
    content = {
        "base": str(request.base_url).rstrip("/"),
        "openapi": OPENAPI,
        "login": site.settings.login is not None,
    }
    page = render("api.html", content_of(site) | content)
    page.headers.update(REVALIDATE)
    return page


@pages.get("/results/{token}")
def results(site: Served, token: str) -> HTMLResponse:
    """Show a job's results, or the first page if there is no such job."""
    found = site.worker.state(token)
    if found is None:
        return upload_page(site, GONE)
    return render("results.html", {"title": site.settings.title} | found.model_dump(mode="json"))


@pages.get("/web/{name}")
def static(name: str) -> FileResponse:
    """Send a style sheet or a script."""
    if name not in STATIC:
        raise HTTPException(404, NOTHING)
    return FileResponse(HERE / name, media_type=STATIC[name], headers=REVALIDATE)


@pages.get("/favicon.ico", status_code=204)
def favicon() -> None:
    """Send nothing: the pages have no icon."""


@pages.get("/examples/{name}.png")
def example(name: str) -> Response:
    """Send an example photo."""
    if name not in examples():
        raise HTTPException(404, "There is no such example.")
    png, _, _ = examples()[name]
    return Response(png, media_type="image/png", headers=REVALIDATE)


@functools.cache
def examples() -> dict[str, tuple[bytes, int, int]]:
    """Return built-in photos at half their size, as PNG with width and height."""
    made = {}
    for name, file in EXAMPLES.items():
        small = imresize(sample_photo(file), 0.5)
        buffer = io.BytesIO()
        Image.fromarray(to_array(small)).save(buffer, "PNG", optimize=True)
        made[name] = buffer.getvalue(), small.shape[2], small.shape[1]
    return made
