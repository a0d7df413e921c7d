"""How the description of a route names a form of images, which the route reads itself."""

from __future__ import annotations

from typing import Any

IMAGES = {"type": "array", "items": {"type": "string", "format": "binary"}}


def form(**fields: dict[str, Any]) -> dict[str, Any]:
    """Return how OpenAPI says that a route takes a form of images, and texts beside them."""
    schema = {"type": "object", "properties": {"image": IMAGES, **fields}, "required": ["image", *fields]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
