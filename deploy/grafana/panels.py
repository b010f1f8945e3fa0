"""What a dashboard is to Grafana: its classic model, which Grafana 11 to 13 import and provision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 41
COLUMNS, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """`queries`: PromQL and the legend of its lines. `unit`: Grafana's name of it. A `stat` shows the last numbers, a `table` them by policy."""

    title: str
    says: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 8
    from_zero: bool = True

    def model(self, number: int, x: int, y: int) -> dict[str, Any]:
        shape = {"h": HEIGHT if self.kind != "stat" else HEIGHT // 2, "w": self.width, "x": x, "y": y}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.says,
            "datasource": SOURCE,
            "gridPos": shape,
            "targets": [self._target(*query, ref) for query, ref in zip(self.queries, "ABCDEFGH", strict=False)],
            "fieldConfig": {"defaults": {"unit": self.unit, **self._look()}, "overrides": self._columns()},
            "options": self._options(),
            "transformations": self._transformations(),
        }

    def _target(self, query: str, legend: str, ref: str) -> dict[str, Any]:
        at_once = self.kind != "timeseries"
        target = {"refId": ref, "datasource": SOURCE, "expr": query, "legendFormat": legend, "instant": at_once}
        return {**target, "range": not at_once, "format": "table" if self.kind == "table" else "time_series"}

    def _look(self) -> dict[str, Any]:
        if self.kind != "timeseries":
            return {"color": {"mode": "fixed", "fixedColor": "text"}}
        return {
            "custom": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"},
            **({"min": 0} if self.from_zero else {}),
        }

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "auto", "graphMode": "none"}
        if self.kind == "table":
            return {"showHeader": True}
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}

    def _transformations(self) -> list[dict[str, Any]]:
        if self.kind != "table":
            return []
        hidden = {"excludeByName": {"Time": True, "__name__": True, "job": True, "instance": True, "Value": True}}
        return [{"id": "merge", "options": {}}, {"id": "organize", "options": hidden}]

    def _columns(self) -> list[dict[str, Any]]:
        """The names of a table's columns, which Grafana calls `Value #A` and so on."""
        if self.kind != "table" or len(self.queries) == 1:
            return []
        return [
            {
                "matcher": {"id": "byName", "options": f"Value #{ref}"},
                "properties": [{"id": "displayName", "value": legend}],
            }
            for (_, legend), ref in zip(self.queries, "ABCDEFGH", strict=False)
        ]


def board(uid: str, title: str, says: str, rows: Mapping[str, Sequence[Panel]]) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "description": says,
        "tags": ["scrutin"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), _variable("job", ""), _variable("ensemble", '{job=~"$job"}')]},
        "annotations": {"list": []},
        "panels": list(_placed(rows)),
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, within: str) -> dict[str, Any]:
    query = f"label_values(ensemble_info{within}, {name})"
    choice = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    asked = {"query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1}
    return {"name": name, "type": "query", "datasource": SOURCE, **asked, **choice}


def _placed(rows: Mapping[str, Sequence[Panel]]) -> Iterator[dict[str, Any]]:
    """Panels beside each other while there is room, row after row."""
    number, y = 1, 0
    for title, panels in rows.items():
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _bar(y)}
        number, x, y = number + 1, 0, y + 1
        bottom = y
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, bottom
            model = panel.model(number, x, y)
            yield model
            number, x, bottom = number + 1, x + panel.width, y + model["gridPos"]["h"]
        y = bottom


def _bar(y: int) -> dict[str, int]:
    return {"h": 1, "w": COLUMNS, "x": 0, "y": y}
