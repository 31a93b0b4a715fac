#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes Grafana's dashboards (deploy/grafana/dashboards) and Prometheus' console pages (deploy/prometheus/consoles) from
spec.py.

  deploy/dashboards/generate.py           writes them
  deploy/dashboards/generate.py --check   tells which are not as spec.py has them; exit status 1 when there are some
"""
import json
import pathlib
import re
import sys

import spec

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
SOURCE = {"type": "prometheus", "uid": "quant-prometheus"}
UNITS = {"short": "short", "percent": "percentunit", "s": "s", "bytes": "bytes", "per_second": "cps", "times": "suffix: ×",
         "bytes_per_second": "Bps", "db": "dB", "yes": "bool_yes_no"}


def thresholds(panel):
    """Green, yellow and red; Grafana wants the steps in rising order."""
    good, bad = panel.get("good"), panel.get("bad")
    if bad is None:
        return {"mode": "absolute", "steps": [{"color": "text", "value": None}]}
    if bad > good:
        steps = [("green", None), ("yellow", good), ("red", bad)] if good > 0 else [("green", None), ("red", bad)]
    else:
        steps = [("red", None), ("yellow", bad), ("green", good)]
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}


def targets(panel):
    if panel["kind"] == "table":
        return [{"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "instant": True, "range": False,
                 "format": "table"} for i, (_, expr, _) in enumerate(panel["columns"])]
    instant = panel["kind"] in ("bars", "stat")
    return [{"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto",
             "instant": instant, "range": not instant} for i, (expr, legend) in enumerate(panel["queries"])]


def table_fields(panel):
    """One line per set of keys: the columns are joined on their labels, then named and put in order."""
    columns = [(f"Value #{chr(ord('A') + i)}", title, unit) for i, (title, _, unit) in enumerate(panel["columns"])]
    names = panel["keys"] + [value for value, _, _ in columns]
    organize = {"excludeByName": {"Time": True, "__name__": True},
                "includeByName": {name: True for name in names},
                "indexByName": {name: i for i, name in enumerate(names)},
                "renameByName": {value: title for value, title, _ in columns}}
    overrides = [{"matcher": {"id": "byName", "options": title}, "properties": [{"id": "unit", "value": UNITS[unit]}]}
                 for _, title, unit in columns]
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}], overrides


def grafana_panel(panel, number, x, y, height):
    out = {"id": number, "title": panel["title"], "description": panel["help"], "datasource": SOURCE,
           "gridPos": {"x": x, "y": y, "w": panel["width"], "h": height}, "targets": targets(panel)}
    defaults = {"unit": UNITS.get(panel.get("unit"), "short"), "thresholds": thresholds(panel)}
    overrides = []
    kind = panel["kind"]
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if kind == "stat":
        out.update(type="stat", options={"reduceOptions": reduce, "colorMode": "value", "graphMode": "none"})
    elif kind == "bars":
        defaults["color"] = {"mode": "palette-classic"}
        out.update(type="bargauge", options={"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic",
                                             "showUnfilled": True})
    elif kind == "heat":
        defaults["color"] = {"mode": "continuous-BlPu"}
        out.update(type="status-history", options={"showValue": "never", "rowHeight": 0.9,
                                                   "legend": {"showLegend": False, "displayMode": "list"}})
    elif kind == "table":
        out["transformations"], overrides = table_fields(panel)
        out.update(type="table", options={"showHeader": True})
    else:
        defaults["min"] = 0
        defaults["custom"] = {"drawStyle": "line", "lineWidth": 2, "fillOpacity": 40 if panel["stack"] else 5,
                              "spanNulls": True, "stacking": {"mode": "normal" if panel["stack"] else "none", "group": "A"}}
        out.update(type="timeseries", options={"tooltip": {"mode": "multi", "sort": "desc"},
                                               "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"}})
    if kind == "graph" and any(word in panel["title"] for word in ("Loss",)):
        del defaults["min"]  # may be negative: a gain
    out["fieldConfig"] = {"defaults": defaults, "overrides": overrides}
    return out


def grafana(board):
    panels, number, y = [], 0, 0
    for title, row in board["rows"]:
        number += 1
        panels.append({"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        x = tallest = 0
        for panel in row:
            number += 1
            height = 4 if panel["kind"] == "stat" else 8
            if x + panel["width"] > 24:
                x, y, tallest = 0, y + tallest, 0
            panels.append(grafana_panel(panel, number, x, y, height))
            x, tallest = x + panel["width"], max(tallest, height)
        y += tallest
    variables = [{"name": name, "label": label, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1,
                  "definition": query, "query": {"query": query, "refId": name}, "multi": True, "includeAll": True,
                  "allValue": ".*", "current": {"text": "All", "value": "$__all"}} for name, label, query in board["variables"]]
    return {"uid": f"quant-{board['name']}", "title": board["title"], "tags": ["quantd"], "timezone": "browser",
            "schemaVersion": 39, "version": 1, "editable": True, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
            "links": [{"title": "quantd", "type": "dashboards", "tags": ["quantd"], "asDropdown": True,
                       "includeVars": False, "keepTime": True}],
            "templating": {"list": variables}, "annotations": {"list": []}, "panels": panels}


def console(board):
    """A page: the library of console_libraries/quant.lib draws what stands here. Legends must not look like templates."""
    rows = [{"title": title, "panels": row} for title, row in board["rows"]]
    variables = [{"name": name, "title": title, "label": re.search(r", (\w+)\)", query).group(1),
                  "metric": re.search(r"\((\w+),", query).group(1)} for name, title, query in board["variables"]]
    panels = ",\n".join(f'{{"title": {json.dumps(row["title"])}, "panels": [\n'
                        + ",\n".join(json.dumps(panel, ensure_ascii=False) for panel in row["panels"]) + "]}" for row in rows)
    text = f'{{"variables": {json.dumps(variables)}, "rows": [\n{panels}]}}'
    text = re.sub(r"\{\{(\w+)\}\}", r"[[\1]]", text)
    assert "{{" not in text and "</" not in text, board["name"]
    return (f'{{{{/* Written by deploy/dashboards/generate.py from spec.py: change it there. */}}}}\n'
            f'{{{{ template "quant_head" "{board["name"]}" }}}}\n'
            f'<script type="application/json" id="spec">\n{text}\n</script>\n{{{{ template "quant_tail" . }}}}\n')


def files():
    for board in spec.DASHBOARDS:
        yield DEPLOY / "grafana/dashboards" / f"{board['name']}.json", json.dumps(grafana(board), indent=1,
                                                                                 ensure_ascii=False) + "\n"
        yield DEPLOY / "prometheus/consoles" / f"{board['name']}.html", console(board)


def main():
    check = "--check" in sys.argv[1:]
    stale = [path for path, text in files() if not path.exists() or path.read_text() != text]
    if not check:
        for path, text in files():
            path.write_text(text)
    for path in stale:
        print(f"{'differs from spec.py' if check else 'wrote'}: {path.relative_to(DEPLOY.parent)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
