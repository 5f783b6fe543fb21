"""Routes of the HTTP API, see docs/web.md; the pages' scripts use them too."""

import logging
import stat
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from web.archive import download_names, zipped
from web.enhancers import Task
from web.schema import JobRequest, JobResult, OfferedTask, StartedJob, UploadedPhoto
from web.store import FullError, Store
from web.uploads import Uploads, clean_name
from web.worker import Worker

log = logging.getLogger(__name__)

SCORE = "score"  # the task of a job that only scores photos
GONE = "This result does not exist, or it has expired."
BINARY = {"schema": {"type": "string", "format": "binary"}}


def offered_tasks(worker: Worker) -> list[dict[str, Any]]:
    """Return the tasks with the models for each, as `OfferedTask` describes."""
    return [
        {
            "task": task.name,
            "scale": task.scale,
            "label": task.label,
            "models": [
                {
                    "id": enhancer.id,
                    "name": enhancer.name,
                    "note": enhancer.note,
                    "seconds": worker.speeds.get(enhancer, task),
                    "gammas": enhancer.gammas or None,
                }
                for enhancer in enhancers
            ],
        }
        for task, enhancers in worker.tasks().items()
    ]


def api_routes(store: Store, worker: Worker, uploads: Uploads) -> APIRouter:
    """Return the routes of the API."""
    router = APIRouter()
    add_models(router, worker)
    add_uploads(router, uploads)
    add_jobs(router, worker, uploads)
    add_results(router, store, worker)
    add_endings(router, worker)
    return router


def add_models(router: APIRouter, worker: Worker) -> None:
    """Add the route that lists tasks and models."""

    @router.get("/models", response_model=list[OfferedTask])
    def models() -> list[dict[str, Any]]:
        """List the tasks with the models for each."""
        return offered_tasks(worker)


def add_uploads(router: APIRouter, uploads: Uploads) -> None:
    """Add the routes that receive and delete photos."""

    @router.post(
        "/uploads",
        status_code=201,
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/octet-stream": BINARY}}
        },
    )
    async def upload(
        request: Request,
        x_file_name: Annotated[
            str, Header(description="name of the photo: percent-encoded, RFC 5987 or UTF-8")
        ] = "",
    ) -> UploadedPhoto:
        """Upload a photo as the body. It is kept for an hour, unless a job uses it."""
        try:
            received = await uploads.receive(request, clean_name(x_file_name))
        except FullError as error:
            raise HTTPException(507, str(error)) from error
        except OSError as error:
            log.warning("an upload could not be kept: %s", error)
            reason = error.strerror or "error"
            raise HTTPException(507, f"The server could not keep the photo: {reason}.") from error
        return UploadedPhoto(
            id=received.path.name,
            name=received.name,
            width=received.width,
            height=received.height,
            megapixels=received.megapixels,
        )

    @router.delete("/uploads/{name}", status_code=204)
    def drop(name: str) -> Response:
        """Delete a photo that no job uses."""
        uploads.drop(name)
        return Response(status_code=204)


def add_jobs(router: APIRouter, worker: Worker, uploads: Uploads) -> None:
    """Add the route that starts jobs."""

    @router.post("/jobs", status_code=201)
    async def jobs(wanted: JobRequest) -> StartedJob:
        """Start a job: enhance and score photos, or score them only (task=score)."""
        try:
            task = None if wanted.task == SCORE else Task(wanted.task, wanted.scale)
            names = wanted.models
            if names is None:
                enhancers = worker.tasks().get(task, []) if task else []
                names = [enhancer.id for enhancer in enhancers]
            photos = uploads.find(wanted.photos)
            job = worker.submit(photos, task, names)
            uploads.hand_over(photos)
        except FullError as error:
            raise HTTPException(503, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return StartedJob(token=job.token, url=f"/results/{job.token}")


def add_results(router: APIRouter, store: Store, worker: Worker) -> None:
    """Add the routes that return a job's state, pictures and scores."""

    @router.get("/results/{token}/result.json", response_model=JobResult)
    def result(token: str, download: str | None = None) -> JSONResponse:
        """Get a job's state, files and scores; it has ended unless it is waiting or working."""
        found = worker.state(token)
        if found is None:
            raise HTTPException(404, GONE)
        attach = {"Content-Disposition": 'attachment; filename="scores.json"'}
        return JSONResponse(found, headers=attach if download is not None else None)

    @router.get(
        "/results/{token}/all.zip",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/zip": BINARY}}},
    )
    def archive(token: str) -> StreamingResponse:
        """Download all pictures of a job and its scores as a ZIP archive."""
        folder, found = store.find(token), worker.state(token)
        if folder is None or found is None:
            raise HTTPException(404, GONE)
        headers = {"Content-Disposition": 'attachment; filename="results.zip"'}
        parts = zipped(folder, found)
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    @router.get(
        "/results/{token}/{file}",
        response_class=FileResponse,
        responses={200: {"content": {"image/png": BINARY}}},
    )
    def picture(token: str, file: str, download: str | None = None) -> FileResponse:
        """Get a picture of a job as PNG; with `?download`, as a file named after the photo."""
        folder, found = store.find(token), worker.state(token)
        names = download_names(found) if found else {}
        if folder is None or file not in names:
            raise HTTPException(404, "There is no such picture.")
        try:
            facts = (folder / file).lstat()
        except FileNotFoundError as error:  # removed meanwhile
            raise HTTPException(404, "There is no such picture.") from error
        if not stat.S_ISREG(facts.st_mode):  # such as a link, which we never create
            raise HTTPException(404, "There is no such picture.")
        return FileResponse(
            folder / file,
            media_type="image/png",
            headers={"Cache-Control": "private, max-age=3600"},
            filename=names[file] if download is not None else None,
            stat_result=facts,
        )


def add_endings(router: APIRouter, worker: Worker) -> None:
    """Add the routes that cancel and delete jobs."""

    @router.post("/results/{token}/cancel", status_code=204)
    def cancel(token: str) -> Response:
        """Cancel a job; finished results stay."""
        if not worker.stop_job(token):
            raise HTTPException(404, "There is no such job.")
        return Response(status_code=204)

    @router.post("/results/{token}/delete", status_code=204)
    def delete(token: str) -> Response:
        """Cancel a job and delete its results."""
        if not worker.stop_job(token, delete=True):
            raise HTTPException(404, "There is no such job.")
        return Response(status_code=204)
