"""The API as an OpenAPI 3.1 document, and as a page that needs nothing but this server."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from serving import problems
from serving.intake import FORM
from serving.problems import Kind
from serving.settings import Settings

VERSION = "1.0.0"
"""Of the API under `/v1`, not of the model."""

PREDICT_PROBLEMS = tuple(
    kind for kind in problems.KINDS if kind not in (problems.NOT_FOUND, problems.METHOD_NOT_ALLOWED, problems.DEFECT)
)
"""What can be wrong with a prediction. Other paths and methods are not in the document, and none finds a defect."""

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream")
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT = {"type": "string"}
_TIME = {"type": "number", "minimum": 0}
_COUNT = {"type": "integer", "minimum": 0}


def document(settings: Settings, labels: Sequence[str]) -> dict[str, Any]:
    """The document of a service with these limits around a model with these labels."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Assay", "version": VERSION, "summary": "An image in; a label and its probability out."},
        "paths": {
            "/v1/predict": {"post": _predict(settings)},
            "/v1/model": {"get": _get("The model that is served: labels, lineage, card, limits", _ref("Model"))},
            "/v1/live": {"get": _get("Whether the process runs", _flag("live"))},
            "/v1/ready": {
                "get": _get(
                    "Whether a prediction would be taken now", _flag("ready"), (problems.BUSY, problems.DRAINING)
                )
            },
            "/v1/metrics": {"get": _get("Metrics for Prometheus", _TEXT, media="text/plain")},
            "/openapi.json": {"get": _get("This document", {"type": "object"})},
            "/docs": {"get": _get("This document for people", _TEXT, media="text/html")},
        },
        "components": {"schemas": _schemas(labels)},
    }


def _predict(settings: Settings) -> dict[str, Any]:
    binary: dict[str, Any] = {media: {"schema": {}} for media in _IMAGE_TYPES}
    files = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "array", "items": {}}}
    answer = {"oneOf": [_ref("Prediction"), _ref("Predictions")]}
    return {
        "operationId": "predict",
        "summary": "Classify one image, or several",
        "description": (
            "The image is the body, or one or several images are files of a form, under any names. What counts is "
            f"the content: JPEG, PNG, WebP or BMP of at most {settings.max_pixels:,} pixels. One image is answered "
            "with a Prediction, several with Predictions."
        ),
        "parameters": [
            _parameter("top_k", {"type": "integer", "minimum": 1, "default": settings.top_k}, "Probabilities to tell."),
            _parameter(
                "explain",
                {"type": "boolean", "default": False},
                "Add a heat map of what decided; with `Accept: image/png` and one image, the map is the answer.",
            ),
        ],
        "requestBody": {"required": True, "content": {**binary, FORM: {"schema": files}}},
        "responses": {
            "200": {
                "description": "What the model says.",
                "content": {"application/json": {"schema": answer}, "image/png": {"schema": {}}},
            },
            **_failures(PREDICT_PROBLEMS),
        },
    }


def _get(
    summary: str, schema: Mapping[str, Any], kinds: Sequence[Kind] = (), media: str = "application/json"
) -> dict[str, Any]:
    success = {"description": f"{summary}.", "content": {media: {"schema": dict(schema)}}}
    return {"summary": summary, "responses": {"200": success, **_failures(kinds)}}


def _failures(kinds: Sequence[Kind]) -> dict[str, Any]:
    """One response a status; its schema names the codes that it may carry."""
    by_status: dict[int, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    return {str(status): _failure(some) for status, some in sorted(by_status.items())}


def _failure(kinds: Sequence[Kind]) -> dict[str, Any]:
    codes = {"properties": {"error": {"properties": {"code": {"enum": [kind.code for kind in kinds]}}}}}
    told: dict[str, Any] = {
        "description": " ".join(f"`{kind.code}`: {kind.meaning}" for kind in kinds),
        "content": {"application/json": {"schema": {"allOf": [_ref("Error"), codes]}}},
    }
    if kinds[0].status == 503:
        told["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return told


def _schemas(labels: Sequence[str]) -> dict[str, Any]:
    identity = {"name": _TEXT, "version": _TEXT, "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}
    label = {"type": "string", "enum": list(labels)}
    prediction = {
        "label": {**label, "description": "The most probable label."},
        "probabilities": {
            "type": "object",
            "propertyNames": label,
            "additionalProperties": _SHARE,
            "description": "Calibrated, highest first, as many as asked for.",
        },
        "abstained": {"type": "boolean", "description": "The model is not sure enough to give an answer."},
        "threshold": {"type": ["number", "null"], "description": "It abstains unless just one label reaches this."},
        "model": _object(identity),
        "milliseconds": {
            **_object(dict.fromkeys(("decode", "inference", "total"), _TIME), explain=_TIME),
            "description": "`total` is from the arrival of the request to this answer, waiting included; "
            "`explain` is there with a heat map.",
        },
    }
    heatmap = {"type": "string", "description": "With `explain`: a PNG as a data URL."}
    error = {"code": {"type": "string", "enum": [kind.code for kind in problems.KINDS]}, "message": _TEXT}
    return {
        "Prediction": _object(prediction, heatmap=heatmap),
        "Predictions": _object({"predictions": {"type": "array", "items": _ref("Prediction"), "minItems": 2}}),
        "Model": _object(_model(identity)),
        "Error": _object({"error": _object(error, limit={"type": "number", "description": "What was passed."})}),
    }


def _model(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **identity,
        "labels": {"type": "array", "items": _TEXT},
        "geometry": _object({"size": _COUNT, "fit": _TEXT}),
        "thresholds": {"type": "object", "additionalProperties": _SHARE},
        "abstention": {"type": ["object", "null"]},
        "parity": {"type": "object"},
        "lineage": {"type": "object"},
        "runtime": _TEXT,
        "limits": {"type": "object", "additionalProperties": {"type": "number"}},
        "card": _TEXT,
    }


def _object(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _flag(name: str) -> dict[str, Any]:
    return _object({name: {"const": True}})


def _parameter(name: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": dict(schema), "description": description}


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; font-size: 1.1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; padding: .75rem 1rem; border: 1px solid #8886; border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid #8884; }
th { white-space: nowrap; width: 6rem; }
"""

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
    ),
    "Referrer-Policy": "no-referrer",
}
"""Of the page: it loads nothing, and its one style is the one that is meant."""

_EXAMPLES = """curl --data-binary @photo.jpg HOST/v1/predict
curl --form file=@one.jpg --form file=@two.png 'HOST/v1/predict?top_k=2'
curl --data-binary @photo.jpg --header 'Accept: image/png' --output map.png 'HOST/v1/predict?explain=true'"""


def page(document: Mapping[str, Any]) -> str:
    """The document as HTML."""
    parts = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Assay: the API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>The API</h1><p>{html.escape(document['info']['summary'])} "
        f'<a href="openapi.json">OpenAPI 3.1</a>, <a href="./">the page</a>.</p>'
        f"<pre>{html.escape(_EXAMPLES)}</pre>{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = [(f"?{p['name']}", p["description"]) for p in operation.get("parameters", [])]
    rows += [(status, told["description"]) for status, told in operation["responses"].items()]
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{_marked_up(text)}</td></tr>" for name, text in rows)
    about = _marked_up(operation.get("description", operation["summary"]))
    return f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{about}</p><table>{cells}</table>"


def _marked_up(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))
