"""Routes of the HTTP API, see docs/web.md; the pages' scripts use the same."""

import logging
import stat
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from web.archive import download_names, zipped
from web.desk import Desk, clean_name
from web.offers import Task
from web.schema import JobRequest, JobResult, OfferedTask, StartedJob, UploadedPhoto
from web.store import FullError, Store
from web.work import Worker

log = logging.getLogger(__name__)

SCORE = "score"  # the task of a job that only rates photos
GONE = "This result does not exist, or it has expired."
BINARY = {"schema": {"type": "string", "format": "binary"}}


def offered_tasks(worker: Worker) -> list[dict[str, Any]]:
    """Tasks with the models that do them, as `OfferedTask` describes."""
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


def api_routes(store: Store, worker: Worker, desk: Desk) -> APIRouter:
    """Everything that programs use."""
    router = APIRouter()
    add_jobs(router, worker, desk)
    add_results(router, store, worker)
    return router


def add_jobs(router: APIRouter, worker: Worker, desk: Desk) -> None:
    """Add the routes by which photos are sent and jobs are started."""

    @router.get("/models", response_model=list[OfferedTask])
    def models() -> list[dict[str, Any]]:
        """List the tasks with the models that do them."""
        return offered_tasks(worker)

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
        """Send a photo: the body is the file itself. It waits an hour for a job."""
        try:
            taken = await desk.receive(request, clean_name(x_file_name))
        except FullError as error:
            raise HTTPException(507, str(error)) from error
        except OSError as error:
            log.warning("an upload could not be kept: %s", error)
            reason = error.strerror or "error"
            raise HTTPException(507, f"The server could not keep the photo: {reason}.") from error
        return UploadedPhoto(
            id=taken.path.name,
            name=taken.name,
            width=taken.width,
            height=taken.height,
            megapixels=taken.megapixels,
        )

    @router.delete("/uploads/{name}", status_code=204)
    def drop(name: str) -> Response:
        """Remove a photo that no job has taken."""
        desk.drop(name)
        return Response(status_code=204)

    @router.post("/jobs", status_code=201)
    async def jobs(wanted: JobRequest) -> StartedJob:
        """Start a job: enhance and score photos, or score them only (task=score)."""
        try:
            task = None if wanted.task == SCORE else Task(wanted.task, wanted.scale)
            names = wanted.models
            if names is None:
                offers = worker.tasks().get(task, []) if task else []
                names = [offer.id for offer in offers]
            uploads = desk.find(wanted.photos)
            job = worker.submit(uploads, task, names)
            desk.hand_over(uploads)
        except FullError as error:
            raise HTTPException(503, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return StartedJob(token=job.token, url=f"/results/{job.token}")


def add_results(router: APIRouter, store: Store, worker: Worker) -> None:
    """Add the routes by which a job is followed, fetched and ended."""

    @router.get("/results/{token}/result.json", response_model=JobResult)
    def result(token: str, download: str | None = None) -> JSONResponse:
        """Tell a job's state, files and scores; finished when it neither waits nor works."""
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
        """Fetch all pictures of a job and its result.json as a ZIP archive."""
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
        """Fetch a picture of a job as PNG; `?download` names it after the photo."""
        folder, found = store.find(token), worker.state(token)
        names = download_names(found) if found else {}
        if folder is None or file not in names:
            raise HTTPException(404, "There is no such picture.")
        try:
            facts = (folder / file).lstat()
        except FileNotFoundError as error:  # removed meanwhile
            raise HTTPException(404, "There is no such picture.") from error
        if not stat.S_ISREG(facts.st_mode):  # a link, which is never one of ours
            raise HTTPException(404, "There is no such picture.")
        return FileResponse(
            folder / file,
            media_type="image/png",
            headers={"Cache-Control": "private, max-age=3600"},
            filename=names[file] if download is not None else None,
            stat_result=facts,
        )

    @router.post("/results/{token}/cancel", status_code=204)
    def cancel(token: str) -> Response:
        """Stop a job; what is done stays."""
        if not worker.stop_job(token):
            raise HTTPException(404, "There is no such job.")
        return Response(status_code=204)

    @router.post("/results/{token}/delete", status_code=204)
    def delete(token: str) -> Response:
        """Stop a job and remove all of it."""
        if not worker.stop_job(token, delete=True):
            raise HTTPException(404, "There is no such job.")
        return Response(status_code=204)
