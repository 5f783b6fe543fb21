"""The application: the pages, the HTTP API, and the guard around both."""

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
from web.desk import Desk
from web.guard import Guard
from web.pages import HERE, NOTHING, REVALIDATE, refuse, render
from web.schema import Refusal
from web.store import FullError, Store
from web.work import Worker

log = logging.getLogger(__name__)

TYPES = {".css": "text/css", ".js": "text/javascript"}
STATIC = {path.name: TYPES[path.suffix] for path in HERE.iterdir() if path.suffix in TYPES}
EXAMPLES = {"coffee": "coffee.png", "cat": "chelsea.png", "astronaut": "astronaut.png"}
CLEAN_SECONDS = 60  # between looks for what has expired
OPENAPI = "/api/openapi.json"


@dataclass(frozen=True)
class Settings:
    """What the pages and the guard have to know.

    Attributes:
        title: heading of the page.
        host: the address that is listened at.
        login: user and password; None for no login.
        hosts: names and addresses that are answered beside this machine's own.
    """

    title: str
    host: str
    login: tuple[str, str] | None
    hosts: tuple[str, ...] = ()


def build_app(store: Store, worker: Worker, settings: Settings) -> Guard:
    """The application, guarded.

    Args:
        store: uploads and results.
        worker: does the jobs; started and ended with the application.
        settings: see `Settings`.
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
            log.info("stopping: %d jobs are interrupted, after the tile at hand", num)
        await asyncio.to_thread(worker.end)

    app = FastAPI(
        title=settings.title,
        description="Photos in, enhanced and rated photos out. docs/web.md has examples.",
        openapi_url=OPENAPI,
        docs_url=None,  # their scripts would come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": {"model": Refusal}, "5XX": {"model": Refusal}, 422: {"model": Refusal}},
    )
    app.include_router(page_routes(store, worker, settings), include_in_schema=False)
    app.include_router(api_routes(store, worker, Desk(store, worker)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return refuse(request.scope, 422, f"{place or 'request'}: {first['msg']}"[:300])

    @app.exception_handler(AnyHTTPException)
    async def wrong(request: Request, error: AnyHTTPException) -> Response:
        status, reason = error.status_code, str(error.detail)
        # What can only be sent to or deleted is nothing to look at.
        if reason == "Not Found" or (status == 405 and request.method == "GET"):
            status, reason = 404, NOTHING
        return refuse(request.scope, status, reason)

    return Guard(
        app,
        host=settings.host,
        login=settings.login,
        hosts=settings.hosts,
        max_upload=worker.limits.bytes,
        has_room=store.has_room,
    )


def page_routes(store: Store, worker: Worker, settings: Settings) -> APIRouter:
    """The pages and what they consist of."""
    router = APIRouter()
    examples = {name: example(file) for name, file in EXAMPLES.items()}

    def limits() -> dict[str, Any]:
        found = worker.limits
        return {
            "photos": found.photos,
            "bytes": found.bytes,
            "megapixels": found.megapixels,
            "types": list(SUFFIXES),
        }

    def upload_page(notice: str | None = None) -> HTMLResponse:
        content = {
            "title": settings.title,
            "tasks": offered_tasks(worker),
            "limits": limits(),
            "scorer": worker.scorer_facts,
            "keep_hours": store.keep_seconds / 3600,
            "device": worker.device_name,
            "waiting": worker.num_unfinished(),
            "examples": [
                {"name": name, "url": f"/examples/{name}.png", "width": width, "height": height}
                for name, (_, width, height) in examples.items()
            ],
            "notice": notice,
        }
        return render("upload.html", content, 404 if notice else 200)

    @router.get("/")
    def index() -> HTMLResponse:
        """The page on which photos are chosen."""
        page = upload_page()
        page.headers.update(REVALIDATE)
        return page

    @router.get("/api")
    def api(request: Request) -> HTMLResponse:
        """How to use this from Python and from a shell."""
        base = str(request.base_url).rstrip("/")
        content = {
            "title": settings.title,
            "base": base,
            "openapi": OPENAPI,
            "limits": limits(),
            "tasks": offered_tasks(worker),
            "login": settings.login is not None,
        }
        page = render("api.html", content)
        page.headers.update(REVALIDATE)
        return page

    @router.get("/results/{token}")
    def results(token: str) -> HTMLResponse:
        """The page of a job."""
        found = worker.state(token)
        if found is None:
            return upload_page(GONE)
        return render("results.html", {"title": settings.title, **found})

    @router.get("/web/{name}")
    def static(name: str) -> FileResponse:
        if name not in STATIC:
            raise HTTPException(404, NOTHING)
        return FileResponse(HERE / name, media_type=STATIC[name], headers=REVALIDATE)

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return Response(status_code=204)

    @router.get("/examples/{name}.png")
    def example_file(name: str) -> Response:
        """A photo to try things with."""
        if name not in examples:
            raise HTTPException(404, "There is no such example.")
        return Response(examples[name][0], media_type="image/png", headers=REVALIDATE)

    return router


def example(file: str) -> tuple[bytes, int, int]:
    """A built-in photo at half its size, as PNG, with its width and height."""
    small = imresize(sample_photo(file), 0.5)
    buffer = io.BytesIO()
    Image.fromarray(to_array(small)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), small.shape[2], small.shape[1]
