"""Routes of the HTTP API, see docs/web.md; the pages' scripts use them too."""

import logging
import stat
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from web.archive import download_names, zipped
from web.enhancers import Task
from web.schema import JobRequest, JobResult, Model, OfferedTask, StartedJob, UploadedPhoto
from web.store import FullError, Store
from web.uploads import Uploads, clean_name
from web.worker import Worker

log = logging.getLogger(__name__)

SCORE = "score"  # the task of a job that only scores photos
GONE = "This result does not exist, or it has expired."
BINARY = {"schema": {"type": "string", "format": "binary"}}

router = APIRouter()


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


@dataclass(frozen=True)
class Site:
    """The parts of the server that the routes use."""

    store: Store
    worker: Worker
    uploads: Uploads
    settings: Settings


async def site_of(request: Request) -> Site:
    """Return the site that the application serves."""
    site: Site = request.app.state.site
    return site


Served = Annotated[Site, Depends(site_of)]


def offered_tasks(worker: Worker) -> list[OfferedTask]:
    """Return the tasks with the models for each."""
    return [
        OfferedTask(
            task=task.name,
            scale=task.scale,
            label=task.label,
            models=[
                Model(
                    id=enhancer.id,
                    name=enhancer.name,
                    note=enhancer.note,
                    seconds=worker.speeds.get(enhancer, task),
                    margin=enhancer.margin,
                    gammas=enhancer.gammas or None,
                )
                for enhancer in enhancers
            ],
        )
        for task, enhancers in worker.tasks().items()
    ]


@router.get("/models")
def models(site: Served) -> list[OfferedTask]:
    """List the tasks with the models for each."""
    return offered_tasks(site.worker)


@router.post(
    "/uploads",
    status_code=201,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": BINARY}}
    },
)
async def upload(
    site: Served,
    request: Request,
    x_file_name: Annotated[
        str, Header(description="name of the photo: percent-encoded, RFC 5987 or UTF-8")
    ] = "",
) -> UploadedPhoto:
    """Upload a photo as the body. It is kept for an hour, unless a job uses it."""
    try:
        received = await site.uploads.receive(request, clean_name(x_file_name))
    except FullError as error:
        raise HTTPException(507, str(error)) from error
    except OSError as error:
        log.warning("could not store an upload: %s", error)
        reason = error.strerror or "error"
        raise HTTPException(507, f"The server could not store the photo: {reason}.") from error
    return UploadedPhoto(
        id=received.path.name,
        name=received.name,
        width=received.width,
        height=received.height,
        megapixels=received.megapixels,
    )


@router.delete("/uploads/{name}", status_code=204)
def drop(site: Served, name: str) -> None:
    """Delete a photo that no job uses."""
    site.uploads.drop(name)


@router.post("/jobs", status_code=201)
async def jobs(site: Served, wanted: JobRequest) -> StartedJob:
    """Start a job: enhance and score photos, or score them only (task=score)."""
    try:
        task = None if wanted.task == SCORE else Task(wanted.task, wanted.scale)
        names = wanted.models
        if names is None:
            offered = site.worker.tasks().get(task, []) if task else []
            names = [enhancer.id for enhancer in offered[:1]]
        photos = site.uploads.find(wanted.photos)
        job = site.worker.submit(photos, task, names)
        site.uploads.hand_over(photos)
    except FullError as error:
        raise HTTPException(503, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return StartedJob(token=job.token, url=f"/results/{job.token}")


@router.get("/results/{token}/result.json", response_model=JobResult)
def result(site: Served, token: str, download: str | None = None) -> Response:
    """Get a job's state, files and scores; it has ended unless it is waiting or working."""
    found = site.worker.state(token)
    if found is None:
        raise HTTPException(404, GONE)
    attach = {"Content-Disposition": 'attachment; filename="scores.json"'}
    headers = attach if download is not None else None
    return JSONResponse(found.model_dump(mode="json"), headers=headers)


@router.get(
    "/results/{token}/all.zip",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": BINARY}}},
)
def archive(site: Served, token: str) -> StreamingResponse:
    """Download all pictures of a job and its scores as a ZIP archive."""
    folder, found = site.store.find(token), site.worker.state(token)
    if folder is None or found is None:
        raise HTTPException(404, GONE)
    headers = {"Content-Disposition": 'attachment; filename="results.zip"'}
    return StreamingResponse(zipped(folder, found), media_type="application/zip", headers=headers)


@router.get(
    "/results/{token}/{file}",
    response_class=FileResponse,
    responses={200: {"content": {"image/png": BINARY, "image/webp": BINARY}}},
)
def picture(site: Served, token: str, file: str, download: str | None = None) -> FileResponse:
    """Get a picture of a job; with `?download`, as a file named after the photo."""
    folder, found = site.store.find(token), site.worker.state(token)
    names = download_names(found.photos) if found else {}
    try:
        facts = (folder / file).lstat() if folder and file in names else None
    except FileNotFoundError:  # removed meanwhile
        facts = None
    if folder is None or facts is None or not stat.S_ISREG(facts.st_mode):  # we create no links
        raise HTTPException(404, "There is no such picture.")
    return FileResponse(
        folder / file,
        media_type="image/webp" if file.endswith(".webp") else "image/png",
        headers={"Cache-Control": "private, max-age=3600"},
        filename=names[file] if download is not None else None,
        stat_result=facts,
    )


@router.post("/results/{token}/cancel", status_code=204)
def cancel(site: Served, token: str) -> None:
    """Cancel a job; finished results stay."""
    if not site.worker.stop_job(token):
        raise HTTPException(404, "There is no such job.")


@router.post("/results/{token}/delete", status_code=204)
def delete(site: Served, token: str) -> None:
    """Cancel a job and delete its results."""
    if not site.worker.stop_job(token, delete=True):
        raise HTTPException(404, "There is no such job.")
