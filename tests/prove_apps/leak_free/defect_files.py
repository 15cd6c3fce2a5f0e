"""A handler of errors that opens a file for each and never closes it."""

import tempfile
from typing import IO, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

app = FastAPI()
reports: list[IO[Any]] = []


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    report = tempfile.TemporaryFile()  # noqa: SIM115
    report.write(str(error).encode())
    reports.append(report)
    return JSONResponse({"detail": "wrong value"}, status_code=422)


@app.get("/items/{item}")
def read_item(item: int) -> dict[str, int]:
    return {"item": item}
