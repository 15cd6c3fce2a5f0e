"""A dependency that calls its coroutine and forgets to await it: no row is ever audited."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI

seen: list[str] = []
router = APIRouter()


async def audit(user: str) -> None:
    seen.append(user)


async def user(name: str = "ada") -> str:
    audit(name)  # type: ignore[unused-coroutine]
    return name


@router.get("/profile")
async def profile(name: Annotated[str, Depends(user)]) -> dict[str, str]:
    return {"name": name}


app = FastAPI()
app.include_router(router)
