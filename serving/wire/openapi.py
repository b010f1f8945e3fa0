"""The OpenAPI description of the HTTP routes, made from what is served, and a page that shows it without loading anything."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from ensembles.spec import EnsembleSpec, InputSpec
from serving.catalog import Catalog
from serving.wire.columns import ALL_OUTPUTS

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
STRING: Schema = {"type": "string"}
ERRORS = {
    "400": "malformed",
    "404": "unknown model",
    "413": "too large",
    "429": "queue full",
    "501": "not offered",
    "503": "not ready, or below quorum",
    "504": "deadline passed",
}


def document(catalog: Catalog) -> Schema:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Scrutin",
            "version": version("scrutin"),
            "description": "A vote of several classifiers: who voted for what, how long it took and what it cost.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_v1(catalog), **_v2(catalog)},
        "components": {"schemas": SCHEMAS, "responses": _error_responses()},
    }


def _error_responses() -> Schema:
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {code: {"description": text, "content": body} for code, text in ERRORS.items()}


def _object(optional: Sequence[str] = (), **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


SCHEMAS: Schema = {
    "Error": _object(error=STRING),
    "Answer": _object(
        optional=["receipt"],
        predictions=_list(
            _object(
                label={"type": "string", "description": '"" is an abstention'},
                probability={"type": ["number", "null"], "description": "pooled, of the label"},
                probabilities={**_list(NUMBER), "description": "pooled, of every class"},
                agreement={**NUMBER, "description": "share of the voting weight behind the label"},
                margin={**NUMBER, "description": "pooled probability of the first class less that of the second"},
                exact={"type": "boolean", "description": "the label is provably that of the full ensemble"},
                votes={"type": "object", "additionalProperties": STRING, "description": "label by member"},
            )
        ),
        policy={"type": "string", "description": "the one that was run"},
        requested_policy={"type": "string", "description": "the one that was asked for, or the default"},
        brownout_level={"type": "integer", "minimum": 0, "description": "steps of the brown-out below it; 0: none"},
        certificate={
            "enum": ["", "valid", "stale", "violated"],
            "description": "of the policy that was run; empty where it has none",
        },
        partial={"type": "boolean", "description": "a member that should have voted did not"},
        members={
            "type": "object",
            "additionalProperties": _object(
                outcome={"enum": ["ok", "failed", "late", "skipped"]}, seconds=NUMBER, cost_usd=NUMBER
            ),
        },
        latency_seconds=_object(queue=NUMBER, compute=NUMBER, vote=NUMBER, total=NUMBER),
        device_seconds=NUMBER,
        cost_usd=NUMBER,
        digest={"type": "string", "description": "sha256 of the manifest that answered"},
        receipt={"type": "string", "description": "to be sent back with the true labels"},
    ),
    "Score": _object(
        rows={"type": "integer", "minimum": 0, "description": "whose label was given"},
        right={"type": "integer", "minimum": 0, "description": "of these, where the answer was right"},
        members={
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 0},
            "description": "the same of every member that voted on one of these rows",
        },
    ),
    "Tensor": {
        **_object(name=STRING, datatype=STRING, shape=_list({"type": "integer"})),
        "properties": {
            "name": STRING,
            "datatype": STRING,
            "shape": _list({"type": "integer"}),
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    },
    "InferAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": STRING,
            "model_version": STRING,
            "id": STRING,
            "parameters": {"type": "object"},
            "outputs": _list({"$ref": "#/components/schemas/Tensor"}),
        },
    },
}


def _operation(summary: str, answer: Schema, **more: Any) -> Schema:
    ok = {"description": "done", "content": {"application/json": {"schema": answer}}}
    errors = {code: {"$ref": f"#/components/responses/{code}"} for code in ERRORS}
    return {"summary": summary, "responses": {"200": ok, **errors}, **more}


def _v1(catalog: Catalog) -> Schema:
    paths: Schema = {"/v1/models": {"get": _operation("What is served", _object(models=_list({"type": "object"})))}}
    for live in catalog.ensembles.values():
        spec = live.spec
        paths[f"/v1/models/{spec.name}"] = {"get": _operation(f"What {spec.name} is", {"type": "object"})}
        paths[f"/v1/models/{spec.name}:predict"] = {
            "post": _operation(
                f"Ask {spec.name} for a vote", {"$ref": "#/components/schemas/Answer"}, requestBody=_predict_body(spec)
            )
        }
        paths[f"/v1/models/{spec.name}:feedback"] = {
            "post": _operation(
                f"Tell {spec.name} what was true",
                {"$ref": "#/components/schemas/Score"},
                requestBody=_feedback_body(spec),
            )
        }
    return paths


def _feedback_body(spec: EnsembleSpec) -> Schema:
    labels = {
        "type": "array",
        "items": {"enum": ["", *spec.labels]},
        "minItems": 1,
        "maxItems": spec.limits.max_batch_size,
        "description": "the true ones; empty where it is not known",
    }
    schema = {**_object(receipt=STRING, labels=labels), "additionalProperties": False}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _predict_body(spec: EnsembleSpec) -> Schema:
    instances = {
        "type": "array",
        "items": _sample(spec.input),
        "minItems": 1,
        "maxItems": spec.limits.max_batch_size,
    }
    schema = {
        "type": "object",
        "required": ["instances"],
        "additionalProperties": False,
        "properties": {"instances": instances, "policy": {"enum": list(spec.policy_names)}},
    }
    content: Schema = {"application/json": {"schema": schema}}
    if spec.input.image:
        picture = {"type": "string", "contentMediaType": "application/octet-stream"}
        content["image/png"] = content["image/jpeg"] = {"schema": picture}
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": {"image": picture}}}
    return {"required": True, "content": content}


def _sample(given: InputSpec) -> Schema:
    schema = _value(given)
    for size in reversed(given.shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def _value(given: InputSpec) -> Schema:
    if given.dtype.kind == "b":
        return {"type": "boolean"}
    if given.dtype.kind == "f":
        return NUMBER
    bounds = np.iinfo(given.dtype)
    return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}


def _v2(catalog: Catalog) -> Schema:
    paths: Schema = {
        "/v2": {"get": _operation("The server", {"type": "object"})},
        "/v2/health/live": {"get": _operation("Is the process alive", _object(live={"type": "boolean"}))},
        "/v2/health/ready": {"get": _operation("Does it take requests", _object(ready={"type": "boolean"}))},
        "/v2/models/stats": {"get": _operation("Statistics of all models", {"type": "object"})},
    }
    for name, model in catalog.models.items():
        base = f"/v2/models/{name}"
        paths[base] = {"get": _operation(f"Inputs and outputs of {name}", {"type": "object"})}
        paths[f"{base}/ready"] = {"get": _operation(f"Is {name} ready", {"type": "object"})}
        paths[f"{base}/config"] = {"get": _operation(f"Triton's configuration of {name}", {"type": "object"})}
        paths[f"{base}/stats"] = {"get": _operation(f"Statistics of {name}", {"type": "object"})}
        paths[f"{base}/infer"] = {
            "post": _operation(
                f"Infer with {name} (Open Inference Protocol)",
                {"$ref": "#/components/schemas/InferAnswer"},
                requestBody=_infer_body(model.live.spec),
            )
        }
    return paths


def _infer_body(spec: EnsembleSpec) -> Schema:
    tensor = _object(
        name={"const": spec.input.name},
        datatype={"const": spec.input.datatype},
        shape=_list({"type": "integer", "minimum": 1}),
        data={"type": "array"},
    )
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": STRING,
            "parameters": {
                "type": "object",
                "properties": {
                    "policy": {"enum": list(spec.policy_names)},
                    "timeout": {"type": "integer", "minimum": 0, "description": "microseconds"},
                    "binary_data_output": {"type": "boolean"},
                },
            },
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": _list(_object(name={"enum": [output.name for output in ALL_OUTPUTS]})),
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Scrutin: HTTP routes</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } summary { cursor: pointer; padding: .4rem 0; border-bottom: 1px solid #ddd }
code { font: 14px/1.4 ui-monospace, monospace } .method { display: inline-block; width: 4rem; font-weight: 600 }
.about { color: #555; margin-left: 1rem } pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 13px }
</style></head><body>
<h1>Scrutin: HTTP routes</h1>
<p id="about"></p><p>As OpenAPI: <a href="/openapi.json">/openapi.json</a></p><div id="routes"></div>
<script>
const routes = document.getElementById("routes");
const add = (parent, tag, text, name) => {
  const element = parent.appendChild(document.createElement(tag));
  if (text) element.textContent = text;
  if (name) element.className = name;
  return element;
};
fetch("/openapi.json").then(answer => answer.json()).then(api => {
  document.getElementById("about").textContent = api.info.description;
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods)) {
      const route = add(routes, "details"), head = add(route, "summary");
      add(head, "code", method.toUpperCase(), "method");
      add(head, "code", path);
      add(head, "span", operation.summary, "about");
      if (operation.requestBody) {
        add(route, "p", "Body");
        add(route, "pre", JSON.stringify(operation.requestBody.content, null, 2));
      }
      add(route, "p", "Answer");
      const schema = operation.responses["200"].content["application/json"].schema;
      const name = schema.$ref && schema.$ref.split("/").pop();
      add(route, "pre", JSON.stringify(name ? api.components.schemas[name] : schema, null, 2));
    }
});
</script></body></html>
"""
