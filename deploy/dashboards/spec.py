# SPDX-License-Identifier: Apache-2.0
"""The dashboards of quantd, written once: generate.py makes Grafana's JSON and Prometheus' console pages of this.

A dashboard is rows of panels. A panel's width is of 24 columns. Queries are (expression, legend); in a legend {{name}} is
a label. RATE stands for the window of rate(), long enough for a few scrapes. Several quantd on one database tell the same
jobs and artifacts: those gauges are taken with max, counters are summed.
"""

RATE = "$__rate_interval"
QUANTD = 'job="quantd"'
WORKER = 'job="quant-worker"'


def quantiles(metric, by="", only=""):
    """Queries for the median, p95 and p99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return [(f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{only}}}[{RATE}])))", f"{legend}p{q[2:]:0<2}")
            for q in ("0.5", "0.95", "0.99")]


def stat(title, expr, unit="short", width=3, help="", good=None, bad=None):
    """One number. It is green up to `good` and red from `bad` on; with bad < good the other way round."""
    return {"kind": "stat", "title": title, "queries": [(expr, "")], "unit": unit, "width": width, "help": help,
            "good": good, "bad": bad}


def graph(title, queries, unit="short", width=12, help="", stack=False):
    return {"kind": "graph", "title": title, "queries": queries, "unit": unit, "width": width, "help": help,
            "stack": stack}


def bars(title, expr, legend, unit="short", width=12, help=""):
    """The newest values side by side."""
    return {"kind": "bars", "title": title, "queries": [(expr, legend)], "unit": unit, "width": width, "help": help}


def heat(title, expr, legend, unit="s", width=12, help=""):
    """A line per series, its cells coloured by value over time."""
    return {"kind": "heat", "title": title, "queries": [(expr, legend)], "unit": unit, "width": width, "help": help}


def table(title, keys, columns, width=24, help=""):
    """A line per set of the labels in `keys`; columns are (title, expression, unit)."""
    return {"kind": "table", "title": title, "keys": keys, "columns": columns, "width": width, "help": help}


OVERVIEW = {
    "name": "overview", "title": "quantd: overview", "variables": [],
    "rows": [
        ("Now", [
            stat("Jobs that succeed, 1 h", "1 - quant:jobs_failed:ratio_rate1h", "percent", good=0.99, bad=0.95,
                 help="Of the jobs that ended by themselves in the last hour; cancelled ones do not count."),
            stat("Wait in the queue, p95 of 1 h", "quant:job_queue_wait_seconds:p95_1h", "s", good=60, bad=300),
            stat("Run time, p95 of 1 h", "quant:job_run_seconds:p95_1h", "s"),
            stat("Error budget left", "quant:grpc_error_budget_left:ratio", "percent", good=0.5, bad=0.0001,
                 help="Of 0.5 % of the rpcs of 30 days, which may fail by the server."),
            stat("Jobs queued", "sum(max by (priority) (quant_queue_depth))"),
            stat("Jobs running", 'max(quant_jobs{state="running"})'),
            stat("Workers up", 'sum(quant_workers{state="up"})', good=1, bad=0.5),
            stat("Alerts firing", 'count(ALERTS{alertstate="firing"}) or vector(0)', good=0, bad=1),
        ]),
        ("Jobs", [
            graph("In and out", [("quant:jobs_submitted:rate5m", "submitted"),
                                 ("quant:jobs_finished:rate5m", "{{outcome}}")], "per_second",
                  help="Jobs per second over 5 minutes, by how they ended."),
            graph("Jobs that are not done", [('max by (state) (quant_jobs{state!~"succeeded|failed|cancelled"})', "{{state}}")],
                  stack=True),
            graph("Run time by method, p50", quantiles("quant_job_run_seconds", "method", 'outcome!="cached"')[:1], "s", 8),
            graph("Run time by method, p95", quantiles("quant_job_run_seconds", "method", 'outcome!="cached"')[1:2], "s", 8),
            graph("Run time by method, p99", quantiles("quant_job_run_seconds", "method", 'outcome!="cached"')[2:], "s", 8),
            heat("Where jobs spend their time",
                 f"sum by (phase) (rate(quant_job_phase_seconds_sum[{RATE}]))"
                 f" / sum by (phase) (rate(quant_job_phase_seconds_count[{RATE}]))", "{{phase}}",
                 help="Mean seconds of each phase, of the jobs that ended at that time."),
            graph("Failures", [(f'sum by (reason) (rate(quant_jobs_finished_total{{outcome=~"failed|dead"}}[{RATE}]))',
                                "{{reason}}")], "per_second", help="Per second, by class of the error."),
        ]),
        ("Rpcs", [
            graph("Rate by method", [(f"topk(10, sum by (grpc_method) (rate(grpc_server_handled_total[{RATE}])))",
                                      "{{grpc_method}}")], "per_second", 8),
            graph("Errors by status",
                  [(f'topk(6, sum by (grpc_code) (rate(grpc_server_handled_total{{grpc_code!="OK"}}[{RATE}])))', "{{grpc_code}}")],
                  "per_second", 8, help="Callers' mistakes are among them; what counts against the budget is above."),
            graph("Time by method, p95",
                  [("histogram_quantile(0.95, sum by (le, grpc_method) (rate(grpc_server_handling_seconds_bucket"
                    f'{{grpc_method!~"WatchJob|LeaseJob"}}[{RATE}])))', "{{grpc_method}}")], "s", 8,
                  help="Without WatchJob and LeaseJob, which are long on purpose."),
        ]),
        ("Processes", [
            graph("Targets that answer", [("sum by (job) (up)", "{{job}}")], "short", 6),
            graph("Memory", [(f"process_resident_memory_bytes{{{QUANTD}}}", "quantd {{instance}}"),
                             (f"process_resident_memory_bytes{{{WORKER}}} + on (instance) quant_worker_job_rss_bytes{{{WORKER}}}",
                              "worker {{instance}} with jobs")], "bytes", 6),
            graph("CPU", [(f"rate(process_cpu_seconds_total{{{QUANTD}}}[{RATE}])", "quantd {{instance}}"),
                          (f"rate(quant_worker_cpu_seconds_total[{RATE}])", "jobs of {{instance}}")], "short", 6,
                  help="Cores in use. Jobs are counted when their process ends."),
            graph("Restarts in an hour", [('changes(process_start_time_seconds{job=~"quantd|quant-worker"}[1h])',
                                           "{{job}} {{instance}}")], "short", 6),
            table("Builds", ["job", "instance", "version", "isa"],
                  [("Up for", "time() - process_start_time_seconds{job=~\"quantd|quant-worker\"}"
                    " * on (job, instance) group_left (version, isa) (quant_build_info or quant_worker_info)", "s"),
                   ("Open files", "process_open_fds{job=~\"quantd|quant-worker\"}"
                    " * on (job, instance) group_left (version, isa) (quant_build_info or quant_worker_info)", "short")]),
        ]),
    ],
}

QUEUE = {
    "name": "queue", "title": "quantd: queue and workers", "variables": [],
    "rows": [
        ("Queue", [
            graph("Ready jobs by priority", [("max by (priority) (quant_queue_depth)", "priority {{priority}}")], "short", 8,
                  stack=True),
            graph("Wait of the oldest ready job", [("max(quant_queue_oldest_age_seconds)", "oldest")], "s", 8),
            graph("Wait in the queue", quantiles("quant_job_queue_wait_seconds", only='outcome!="cached"'), "s", 8,
                  help="Of the jobs that ended."),
            graph("Jobs by state", [("max by (state) (quant_jobs)", "{{state}}")], "short", 8),
            graph("Running jobs by phase", [("max by (phase) (quant_jobs_running)", "{{phase}}")], "short", 8, stack=True),
            graph("Submissions by what was there", [(f"sum by (outcome) (rate(quant_dedup_requests_total[{RATE}]))",
                                                     "{{outcome}}")], "per_second", 8, stack=True,
                  help="hit: answered from an earlier result; merged: waits for the same job; miss: neither; bypass: not asked."),
        ]),
        ("Leases and attempts", [
            graph("Leases taken away, 10 min", [("sum by (cause) (increase(quant_lease_expirations_total[10m]))",
                                                 "{{cause}}")], "short", 6),
            graph("Late reports refused, 10 min", [("sum by (call) (increase(quant_stale_reports_rejected_total[10m]))",
                                                    "{{call}}")], "short", 6),
            graph("Attempts tried again, 10 min",
                  [("sum by (reason) (increase(quant_job_retries_total[10m]))", "{{reason}}")], "short", 6),
            graph("Attempts per job", [(f"sum(rate(quant_job_attempts_sum[{RATE}])) / sum(rate(quant_job_attempts_count[{RATE}]))",
                                        "mean")], "short", 6, help="Of jobs that ended; an answer from an earlier result has 0."),
            graph("Time to cancel, p95", quantiles("quant_cancel_latency_seconds")[1:2], "s", 8),
            graph("A turn of the scheduler, p99", quantiles("quant_scheduler_loop_seconds")[2:], "s", 8),
            graph("Open watches", [("sum(quant_watch_streams)", "streams")], "short", 8),
        ]),
        ("Workers", [
            graph("Slots", [(f"sum by (state) (quant_worker_slots{{{WORKER}}})", "{{state}}")], "short", 8, stack=True,
                  help="As the workers tell them."),
            graph("Workers by state", [("sum by (state) (quant_workers)", "{{state}}")], "short", 8),
            graph("Memory of jobs", [("quant_worker_job_rss_bytes", "{{instance}}")], "bytes", 8),
            graph("Job processes that ended, 10 min", [("sum by (end) (increase(quant_worker_children_total[10m]))", "{{end}}")],
                  "short", 8, help="oom: ended for want of memory, by the worker or by the kernel."),
            graph("Jobs ended by the worker, 10 min",
                  [("sum by (cause) (increase(quant_worker_children_killed_total[10m]))", "{{cause}}")], "short", 8),
            graph("Heartbeats without an answer, 10 min",
                  [("sum by (instance) (increase(quant_worker_heartbeat_failures_total[10m]))", "{{instance}}")], "short", 8),
            graph("Inputs found in the cache",
                  [("sum by (instance) (quant_worker_cache_hit_bytes_total)"
                    " / clamp_min(sum by (instance) (quant_worker_cache_hit_bytes_total + quant_worker_cache_miss_bytes_total), 1)",
                    "{{instance}}")], "percent", 8, help="Share of all bytes since the worker started."),
            graph("Cache", [("quant_worker_cache_bytes", "{{instance}}")], "bytes", 8),
            graph("Peak memory of a job, p95", quantiles("quant_worker_job_peak_rss_bytes")[1:2], "bytes", 8),
            table("Workers", ["worker"],
                  [("Up", "max by (worker) (quant_worker_up)", "yes"),
                   ("Heard of", f"time() - max by (worker) (quant_worker_last_heartbeat_timestamp_seconds{{{QUANTD}}})", "s"),
                   ("Job without progress", "max by (worker) (quant_worker_progress_age_seconds)", "s")], 12,
                  help="As the server sees them: those of the last hour, 100 at most."),
            table("Worker processes", ["instance", "version", "isa"],
                  [("Slots", f"sum by (instance) (quant_worker_slots{{{WORKER}}})"
                    " * on (instance) group_right () quant_worker_info", "short"),
                   ("Connected", "quant_worker_connected * on (instance) group_right () quant_worker_info", "yes"),
                   ("Jobs ended", "sum by (instance) (quant_worker_jobs_total) * on (instance) group_right () quant_worker_info",
                    "short")], 12),
        ]),
        ("Tenants", [
            bars("Share of quotas used", "max by (tenant, resource) (quant_tenant_quota_used_ratio)", "{{tenant}}: {{resource}}",
                 "percent", 12, help="Of tenants with a quota in --limits; the first 50."),
            graph("Requests refused by a limit", [(f"sum by (resource) (rate(quant_quota_rejections_total[{RATE}]))",
                                                   "{{resource}}")], "per_second", 12),
        ]),
    ],
}

PICKED = 'model=~"$model", variant=~"$variant"'
VARIANT = "model, variant, method, dataset"
NAMED = "{{model}} {{variant}} {{method}}"

MODELS = {
    "name": "models", "title": "quantd: models", "variables": [
        ("model", "Model", "label_values(quant_model_size_bytes, model)"),
        ("variant", "Variant", "label_values(quant_model_size_bytes, variant)"),
    ],
    "rows": [
        ("The newest results", [
            table("Models and variants", ["model", "variant", "method", "dataset"],
                  [("Top-1", f'max by ({VARIANT}) (quant_model_accuracy{{metric="top1", {PICKED}}})', "percent"),
                   ("Perplexity", f'max by ({VARIANT}) (quant_model_accuracy{{metric="perplexity", {PICKED}}})', "short"),
                   ("Same top", f'max by ({VARIANT}) (quant_model_accuracy{{metric="same_top", {PICKED}}})', "percent"),
                   ("Loss", f'max by ({VARIANT}) (quant_model_accuracy_drop_ratio{{metric=~"top1|perplexity", {PICKED}}})',
                    "percent"),
                   ("Median time", f'max by ({VARIANT}) (quant_model_latency_seconds{{quantile="0.5", {PICKED}}})', "s"),
                   ("p99", f'max by ({VARIANT}) (quant_model_latency_seconds{{quantile="0.99", {PICKED}}})', "s"),
                   ("Speed-up", f"max by ({VARIANT}) (quant_model_speedup_ratio{{{PICKED}}})", "times"),
                   ("Size", f"max by ({VARIANT}) (quant_model_size_bytes{{{PICKED}}})", "bytes")],
                  help="The newest 20 quantized variants and their originals (fp32). Loss: the share of the original's "
                       "top-1 that is lost, or by which its perplexity grew."),
        ]),
        ("Accuracy", [
            bars("Loss against the original",
                 f'max by ({VARIANT}, metric) (quant_model_accuracy_drop_ratio{{metric=~"top1|perplexity", {PICKED}}})',
                 NAMED + " {{metric}}", "percent", 12),
            graph("Loss over time",
                  [(f'max by ({VARIANT}, metric) (quant_model_accuracy_drop_ratio{{metric=~"top1|perplexity", {PICKED}}})',
                    NAMED + " {{metric}}")], "percent", 12),
            bars("Outputs with the same top answer", f'max by ({VARIANT}) (quant_model_accuracy{{metric="same_top", {PICKED}}})',
                 NAMED, "percent", 12),
            bars("Output signal over quantization noise",
                 f'max by ({VARIANT}) (quant_model_accuracy{{metric="sqnr_db", {PICKED}}})', NAMED, "db", 12),
        ]),
        ("Speed and size", [
            bars("Speed-up", f"max by ({VARIANT}) (quant_model_speedup_ratio{{{PICKED}}})", NAMED, "times", 8),
            bars("Median time of one run", f'max by ({VARIANT}) (quant_model_latency_seconds{{quantile="0.5", {PICKED}}})',
                 NAMED, "s", 8),
            bars("Size", f"max by ({VARIANT}) (quant_model_size_bytes{{{PICKED}}})", NAMED, "bytes", 8),
            graph("Time of one run, p50, p95 and p99",
                  [(f"max by ({VARIANT}, quantile) (quant_model_latency_seconds{{{PICKED}}})", NAMED + " {{quantile}}")], "s", 24),
        ]),
        ("Where the numbers come from", [
            table("Formats", ["model", "variant", "method", "dataset", "format", "isa"],
                  [("Shown", f"quant_model_info{{{PICKED}}}", "yes")]),
        ]),
    ],
}

STORAGE = {
    "name": "storage", "title": "quantd: artifacts and storage", "variables": [],
    "rows": [
        ("Now", [
            stat("Models", 'max(quant_artifacts{kind="model"})', width=4),
            stat("Datasets", 'max(quant_artifacts{kind="dataset"})', width=4),
            stat("Blobs", "max(quant_cas_objects)", width=4),
            stat("Bytes of blobs", "max(quant_cas_bytes)", "bytes", width=4),
            stat("Room used", "quant:cas_used:ratio", "percent", 4, good=0.85, bad=0.95,
                 help="Of the blobs there are and what the disk takes more; not for a store without bound (S3)."),
            stat("Uploads with other bytes, 1 h", "sum(increase(quant_upload_digest_mismatch_total[1h]))", "short", 4, good=0,
                 bad=1),
        ]),
        ("Blobs", [
            graph("Bytes", [("max(quant_cas_bytes)", "stored"), ("max(quant_cas_capacity_bytes)", "room")], "bytes", 8),
            graph("Models and datasets", [("max by (kind) (quant_artifacts)", "{{kind}}")], "short", 8),
            graph("Blobs", [("max(quant_cas_objects)", "blobs")], "short", 8),
            graph("Bytes in and out", [(f"sum(rate(quant_upload_bytes_total[{RATE}]))", "uploads"),
                                       (f"sum(rate(quant_download_bytes_total[{RATE}]))", "downloads")], "bytes_per_second", 8),
            graph("Uploads", [("sum(quant_uploads_in_progress)", "open"),
                              ("sum(increase(quant_upload_resumed_total[10m]))", "resumed in 10 min"),
                              ("sum(increase(quant_upload_digest_mismatch_total[10m]))", "with other bytes in 10 min")], "short", 8),
            graph("Refused for want of room", [(f'sum by (resource) (rate(quant_quota_rejections_total'
                                                f'{{resource=~"stored_bytes|model_bytes|disk|blob_size"}}[{RATE}]))', "{{resource}}")],
                  "per_second", 8),
        ]),
        ("Sweep and database", [
            graph("Bytes swept, 1 h", [("sum(increase(quant_cas_gc_reclaimed_bytes_total[1h]))", "reclaimed")], "bytes", 6),
            graph("Time of a sweep", [("sum(quant_cas_gc_duration_seconds_sum) / sum(quant_cas_gc_duration_seconds_count)",
                                       "mean since the start")], "s", 6),
            graph("Operations of the database, p95",
                  [(f"histogram_quantile(0.95, sum by (le, op) (rate(quant_store_operation_seconds_bucket[{RATE}])))", "{{op}}")],
                  "s", 6),
            graph("Failed operations", [(f"sum by (op) (rate(quant_store_errors_total[{RATE}]))", "{{op}}")], "per_second", 6),
        ]),
    ],
}

DASHBOARDS = [OVERVIEW, QUEUE, MODELS, STORAGE]
