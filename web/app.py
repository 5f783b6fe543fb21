"""The server: pages, uploads, jobs and results over HTTP, and the same for Gradio's clients."""

import asyncio
import io
import json
import logging
import os
import re
import shutil
import threading
import urllib.parse
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH as TILE_LENGTH
from PIL.TiffImagePlugin import TILEWIDTH as TILE_WIDTH
from PIL.TiffImagePlugin import TiffImageFile
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from datamodules.images import DAMAGED, SUFFIXES, read_photo, to_array
from datamodules.sample import photo as sample_photo
from networks.bicubic import imresize
from web.guard import Guard, refuse
from web.offers import Task
from web.store import FullError, Store
from web.work import KINDS, Job, Upload, Worker, sentence

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
TYPES = {".css": "text/css", ".js": "text/javascript"}
STATIC = {path.name: TYPES[path.suffix] for path in HERE.iterdir() if path.suffix in TYPES}
EXAMPLES = {"coffee": "coffee.png", "cat": "chelsea.png", "astronaut": "astronaut.png"}
CLEAN_SECONDS = 60  # between looks for what has expired
STEP_SECONDS = 0.2  # between looks of Gradio's generators at a job
CHUNK = 2**20
TILE_PIXELS = 1e6  # that a tile of a TIFF file may have whatever the limit for photos


@dataclass(frozen=True)
class Settings:
    """What the pages and the guard have to know.

    Attributes:
        title: heading of the page.
        host: the address that is listened at.
        login: user and password; None for no login.
        hosts: names under which a proxy serves this, beside those of loopback.
    """

    title: str
    host: str
    login: tuple[str, str] | None
    hosts: tuple[str, ...] = ()


class JobRequest(BaseModel):
    """What POST /jobs takes."""

    photos: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=100)]
    task: Annotated[str, Field(max_length=50)]
    scale: int
    models: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=100)]


class RefusedError(Exception):
    """An upload that is not taken: a status of HTTP and a sentence for people."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Desk:
    """Takes photos in, one at a time, so that decoding them cannot exhaust the memory."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self.store = store
        self.worker = worker
        self.turn = asyncio.Semaphore(1)
        self.uploads: dict[str, Upload] = {}

    async def receive(self, request: Request) -> Upload:
        """Writes a request's body to a file of a random name and looks whether it is a photo.

        Raises:
            RefusedError: if it is not one, or too large.
            FullError: if too many wait.
        """
        path = self.store.new_upload()
        part = path.with_suffix(".part")
        try:
            with open(part, "xb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
        except ClientDisconnect as error:  # the guard ends what goes on beyond the limit
            part.unlink(missing_ok=True)
            raise RefusedError(
                413, "The photo is too large, or the connection was lost."
            ) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.rename(path)
        return await self.look(path, clean_name(request.headers.get("x-file-name", "")))

    async def copy(self, source: str, name: str) -> Upload:
        """The same for a file that Gradio has received: others may have sent the same one.

        Raises:
            RefusedError: as `receive`, and for a file that is not among Gradio's.
        """
        if not self.store.is_api_upload(source):  # the guard has looked, too
            raise RefusedError(422, "Send photos as files (in Python: handle_file).")
        path = self.store.new_upload()
        await asyncio.to_thread(shutil.copyfile, source, path)
        return await self.look(path, clean_name(name))

    async def look(self, path: Path, name: str) -> Upload:
        """Decodes a file once; what cannot be decoded is removed and refused."""
        try:
            async with self.turn:
                width, height = await asyncio.to_thread(self.inspect, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        upload = self.uploads[path.name] = Upload(path, name, width, height)
        return upload

    def inspect(self, path: Path) -> tuple[int, int]:
        """Width and height of a photo, upright.

        Raises:
            RefusedError: if it is none, or too large to be decoded.
        """
        if path.stat().st_size == 0:
            raise RefusedError(422, "The file is empty.")
        try:
            with Image.open(path, formats=KINDS) as file:  # the header alone
                width, height = file.size
                # A photo of few pixels may lie in a tile of many.
                tags = file.tag_v2 if isinstance(file, TiffImageFile) else {}
                tile = int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_LENGTH, 0))
        except Image.DecompressionBombError as error:  # over 179 million
            raise RefusedError(413, "The photo has far more pixels than are accepted.") from error
        except DAMAGED as error:
            raise RefusedError(
                415, "Not a photo that can be read: PNG, JPEG, WebP, BMP and TIFF can."
            ) from error
        limit = self.worker.limits.megapixels
        if width * height > limit * 1e6:
            raise RefusedError(
                413,
                f"{width} x {height} pixels are {width * height / 1e6:.1f} megapixels; "
                f"up to {limit:g} are accepted here.",
            )
        if tile[0] * tile[1] > max(limit * 1e6, TILE_PIXELS):
            raise RefusedError(413, f"The photo lies in tiles of {tile[0]} x {tile[1]} pixels.")
        try:
            height, width = read_photo(path).pixels.shape[1:]
        except ValueError as error:
            raise RefusedError(422, sentence(error, path)) from error
        return width, height

    def find(self, names: Sequence[str]) -> list[Upload]:
        """The uploads that a job asks for.

        Raises:
            ValueError: if one is not there any more.
        """
        if len(set(names)) < len(names):
            raise ValueError("A photo is named twice.")
        if any(name not in self.uploads or not self.store.find_upload(name) for name in names):
            raise ValueError("A photo is not here any more; please choose it again.")
        return [self.uploads[name] for name in names]

    def hand_over(self, uploads: Sequence[Upload]) -> None:
        """Forgets uploads, which are a job's now, and those that were removed for their age."""
        for upload in uploads:
            self.uploads.pop(upload.path.name, None)
        for name in list(self.uploads):  # threads take some away meanwhile
            if not self.store.find_upload(name):
                self.uploads.pop(name, None)

    def drop(self, name: str) -> None:
        """Removes an upload that is not wanted any more."""
        if upload := self.uploads.pop(name, None):
            upload.path.unlink(missing_ok=True)


def clean_name(name: str) -> str:
    """A file's name as people gave it, without a path and without what cannot be shown."""
    name = re.split(r"[/\\]", urllib.parse.unquote(name, errors="replace"))[-1]
    name = "".join(c if c.isprintable() else "_" for c in name).strip()
    return name[:200] or "photo"


def build_app(store: Store, worker: Worker, settings: Settings) -> Guard:
    """The application, guarded.

    Args:
        store: uploads and results.
        worker: does the jobs; started and ended with the application.
        settings: see `Settings`.
    """
    desk = Desk(store, worker)
    pages = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    examples = {name: example(file) for name, file in EXAMPLES.items()}
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
        await asyncio.to_thread(worker.end)

    app = FastAPI(
        title=settings.title,
        description="Photos in, enhanced and rated photos out. docs/web.md has examples.",
        docs_url=None,  # their scripts would come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )

    def tasks() -> list[dict[str, Any]]:
        return [
            {
                "task": task.name,
                "scale": task.scale,
                "label": task.label,
                "models": [
                    {
                        "id": offer.id,
                        "name": offer.name,
                        "note": offer.note,
                        "seconds": worker.speeds.get(offer, task),
                        "gammas": offer.gammas or None,
                    }
                    for offer in offers
                ],
            }
            for task, offers in worker.tasks().items()
        ]

    def limits() -> dict[str, Any]:
        found = worker.limits
        return {
            "photos": found.photos,
            "bytes": found.bytes,
            "megapixels": found.megapixels,
            "types": list(SUFFIXES),
        }

    def page(template: str, content: dict[str, Any], status: int = 200) -> HTMLResponse:
        content = {"title": settings.title, **content}
        return HTMLResponse(pages.get_template(template).render(page=content), status)

    def upload_page(notice: str | None = None) -> HTMLResponse:
        content = {
            "tasks": tasks(),
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
        return page("upload.html", content, 404 if notice else 200)

    @app.get("/", response_class=HTMLResponse)
    def index() -> HTMLResponse:
        """The page on which photos are chosen."""
        return upload_page()

    @app.get("/api", response_class=HTMLResponse)
    def api(request: Request) -> HTMLResponse:
        """How to use this from Python and from a shell."""
        base = str(request.base_url).rstrip("/")
        content = {"base": base, "tasks": tasks(), "limits": limits()}
        return page("api.html", content | {"login": settings.login is not None})

    @app.get("/web/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in STATIC:
            return refuse(404, "There is nothing here.")
        return FileResponse(HERE / name, media_type=STATIC[name])

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return Response(status_code=204)

    @app.get("/examples/{name}.png", response_class=Response)
    def example_file(name: str) -> Response:
        """A photo to try things with."""
        if name not in examples:
            return refuse(404, "There is no such example.")
        return Response(examples[name][0], media_type="image/png")

    @app.get("/models")
    def models() -> list[dict[str, Any]]:
        """Tasks with the models that do them, and the seconds that a megapixel takes."""
        return tasks()

    @app.post("/uploads", status_code=201)
    async def upload(request: Request) -> JSONResponse:
        """Takes a photo: the body is the file, X-File-Name its name, percent-encoded."""
        try:
            taken = await desk.receive(request)
        except RefusedError as error:
            return refuse(error.status, str(error))
        except FullError as error:
            return refuse(507, str(error))
        except OSError as error:
            log.warning("an upload could not be kept: %s", error)
            return refuse(507, f"The server could not keep the photo: {error.strerror}.")
        facts = {"id": taken.path.name, "name": taken.name, "megapixels": taken.megapixels}
        return JSONResponse(facts | {"width": taken.width, "height": taken.height}, 201)

    @app.delete("/uploads/{name}", status_code=204)
    def drop(name: str) -> Response:
        """Removes a photo that no job has taken."""
        desk.drop(name)
        return Response(status_code=204)

    @app.post("/jobs", status_code=201)
    async def jobs(wanted: JobRequest) -> JSONResponse:
        """Asks for photos to be enhanced."""
        try:
            task = Task(wanted.task, wanted.scale)
            uploads = desk.find(wanted.photos)
            job = worker.submit(uploads, task, wanted.models)
            desk.hand_over(uploads)
        except FullError as error:
            return refuse(503, str(error))
        except ValueError as error:
            return refuse(422, str(error))
        return JSONResponse({"token": job.token, "url": f"/results/{job.token}"}, 201)

    @app.get("/results/{token}", response_class=HTMLResponse)
    def results(token: str) -> HTMLResponse:
        """The page of a job."""
        found = worker.state(token)
        if found is None:
            return upload_page("This result does not exist, or it has expired.")
        return page("results.html", found)

    @app.get("/results/{token}/result.json")
    def result(token: str, download: str | None = None) -> JSONResponse:
        """State, files and scores of a job."""
        found = worker.state(token)
        if found is None:
            return refuse(404, "This result does not exist, or it has expired.")
        attach = {"Content-Disposition": 'attachment; filename="scores.json"'}
        return JSONResponse(found, headers=attach if download is not None else None)

    @app.get("/results/{token}/all.zip", response_class=StreamingResponse)
    def archive(token: str) -> Response:
        """All pictures of a job, and its result.json."""
        folder, found = store.find(token), worker.state(token)
        if folder is None or found is None:
            return refuse(404, "This result does not exist, or it has expired.")
        headers = {"Content-Disposition": 'attachment; filename="results.zip"'}
        parts = zipped(folder, found)
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    @app.get("/results/{token}/{file}", response_class=FileResponse)
    def picture(token: str, file: str, download: str | None = None) -> Response:
        """A picture of a job, as PNG."""
        folder, found = store.find(token), worker.state(token)
        names = download_names(found) if found else {}
        if folder is None or file not in names or (folder / file).is_symlink():
            return refuse(404, "There is no such picture.")
        return FileResponse(
            folder / file,
            media_type="image/png",
            headers={"Cache-Control": "private, max-age=3600"},
            filename=names[file] if download is not None else None,
        )

    @app.post("/results/{token}/cancel", status_code=204)
    def cancel(token: str) -> Response:
        """Stops a job; what is done stays."""
        found = worker.stop_job(token)
        return Response(status_code=204) if found else refuse(404, "There is no such job.")

    @app.post("/results/{token}/delete", status_code=204)
    def delete(token: str) -> Response:
        """Stops a job and removes all of it."""
        found = worker.stop_job(token, delete=True)
        return Response(status_code=204) if found else refuse(404, "There is no such job.")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return refuse(422, f"{place or 'request'}: {first['msg']}"[:300])

    @app.exception_handler(HTTPException)
    async def wrong(request: Request, error: HTTPException) -> JSONResponse:
        return refuse(error.status_code, str(error.detail))

    add_gradio(app, desk, worker, tasks)
    return Guard(
        app,
        host=settings.host,
        login=settings.login,
        hosts=settings.hosts,
        max_upload=worker.limits.bytes,
        max_photos=worker.limits.photos,
        has_room=store.has_room,
        is_upload=store.is_api_upload,
        clear_parts=store.clear_parts,
    )


def add_gradio(
    app: FastAPI, desk: Desk, worker: Worker, tasks: Callable[[], list[dict[str, Any]]]
) -> None:
    """Adds the functions `enhance`, `score` and `models` for Gradio's clients.

    Gradio brings its queue, its stream of events and its files; the work is the same worker's.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(desk.store.api_uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio
    from gradio.data_classes import FileData
    from gradio.events import api

    refused = partial(gradio.Error, print_exception=False)

    async def followed(
        photos: list[FileData], task: Task | None, models: Sequence[str], *, keep: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What result.json says, whenever it changes, until the job is finished."""
        uploads: list[Upload] = []
        try:
            worker.chosen(task, models)
            for path, name in files_of(photos)[: worker.limits.photos + 1]:
                uploads.append(await desk.copy(path, name))
            job = worker.submit(uploads, task, models)
            desk.hand_over(uploads)
        except (RefusedError, ValueError) as error:
            for one in uploads:
                desk.drop(one.path.name)
            raise refused(str(error)) from error
        try:
            async for state in states(job, worker):
                yield state
        finally:  # a client that has gone or cancelled
            if job.unfinished or not keep:
                worker.stop_job(job.token, delete=not keep)

    async def enhance(
        photos: list[FileData],
        task: str = "super-resolution",
        scale: int = 2,
        models: list[str] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Enhances and rates photos.

        Args:
            photos: image files.
            task: super-resolution, deblurring or restoration.
            scale: 1, 2, 3 or 4.
            models: their ids, see `models`; all by default.
        """
        wanted = Task(task, scale)
        offered = [offer.id for offer in worker.tasks().get(wanted, [])]
        ids = offered if models is None else models
        async for state in followed(photos, wanted, ids, keep=True):
            yield state

    async def score(photos: list[FileData]) -> list[dict[str, Any]]:
        """Rates photos.

        Args:
            photos: image files.
        """
        state: dict[str, Any] = {}
        async for found in followed(photos, None, [], keep=False):
            state = found
        if state["state"] != "done":
            raise refused(state["error"] or "The job was stopped.")
        return [
            {"name": photo["name"], "error": photo["error"]}
            | ((photo["versions"] and photo["versions"][0]["score"]) or {})
            for photo in state["photos"]
        ]

    def models() -> list[dict[str, Any]]:
        """Tasks with the models that do them."""
        return tasks()

    # Gradio reads what a function gives off this, and a generator gives one thing after the other.
    enhance.__annotations__["return"] = dict
    with gradio.Blocks(analytics_enabled=False) as blocks:
        api(enhance, api_name="enhance", concurrency_limit=None)
        api(score, api_name="score", concurrency_limit=None)
        api(models, api_name="models", concurrency_limit=None)
    blocks.queue(max_size=worker.limits.waiting)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="",
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        max_file_size=worker.limits.bytes,
    )
    blocks.has_launched = True  # else it does not look where files of calls are, see `Guard`
    blocks._queue.sleep_when_free = 0.05  # as on Windows; else it wakes up 1000 times a second


def files_of(photos: Any) -> list[tuple[str, str]]:  # noqa: ANN401
    """Paths and names of the files that a call of Gradio brings.

    Raises:
        ValueError: if it brings something else.
    """
    given = photos if isinstance(photos, list) else [None]
    files = [photo if isinstance(photo, dict) else {} for photo in given]
    if not all(isinstance(file.get("path"), str) for file in files):
        raise ValueError("photos: a list of files is needed (in Python: [handle_file(...)]).")
    return [(file["path"], str(file.get("orig_name") or "")) for file in files]


async def states(job: Job, worker: Worker) -> AsyncGenerator[dict[str, Any], None]:
    """A job's state whenever it changes; the last one is that of the finished job."""
    before = ""
    while True:
        unfinished = job.unfinished
        state = worker.state(job.token)
        if state is None:  # deleted by somebody
            yield {**job.result, "state": "cancelled"}
            return
        now = json.dumps(state)
        if now != before or not unfinished:
            yield json.loads(now)
        if not unfinished:
            return
        before = now
        await asyncio.sleep(STEP_SECONDS)


def example(file: str) -> tuple[bytes, int, int]:
    """A built-in photo at half its size, as PNG, with its width and height."""
    small = imresize(sample_photo(file), 0.5)
    buffer = io.BytesIO()
    Image.fromarray(to_array(small)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), small.shape[2], small.shape[1]


def download_names(result: dict[str, Any]) -> dict[str, str]:
    """What the pictures of a job are called where they are saved, by file."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for number, photo in enumerate(result["photos"], 1):
        stem = re.sub(r"[^\w-]+", "_", Path(photo["name"]).stem).strip("_")
        # File systems take names of 255 bytes.
        stem = stem.encode()[:120].decode(errors="ignore") or f"photo_{number}"
        while stem.lower() in used:  # of another photo, also where case does not count
            stem += f"_{number}"
        used.add(stem.lower())
        for version in photo["versions"]:
            name = f"{stem}_{version['id'].partition('-')[2]}.png"
            names |= {version["view"]: name, version["file"]: name}
    return names


def zipped(folder: Path, result: dict[str, Any]) -> Iterator[bytes]:
    """A ZIP archive of a job's pictures, in parts; PNG files are compressed already."""

    class Sink(io.RawIOBase):
        """Keeps what is written until it is taken."""

        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, part: Any) -> int:  # noqa: ANN401
            self.parts.append(bytes(part))
            return len(part)

        def take(self) -> bytes:
            taken, self.parts = b"".join(self.parts), []
            return taken

    sink = Sink()
    views = {v["view"] for photo in result["photos"] for v in photo["versions"]}
    files = {v["file"] for photo in result["photos"] for v in photo["versions"]}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("scores.json", json.dumps(result, indent=2) + "\n")
        for file, name in download_names(result).items():
            if file in views - files:
                continue
            if (folder / file).is_symlink():  # never one of ours
                continue
            with open(folder / file, "rb") as source, archive.open(name, "w") as entry:
                while part := source.read(CHUNK):
                    entry.write(part)
                    yield sink.take()
    yield sink.take()
