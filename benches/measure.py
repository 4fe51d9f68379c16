#!/usr/bin/env python3
"""Measures one run of an engine: Kafka in, table health_records out.

    measure.py reset --servers DIR [--keep-first-commit]
    measure.py run   --servers DIR --oracle rows.csv --pids PIDS --cmd "submit or load command"
                     [--at 30 --do "kill command"] [--raw 3] [--timeout 300] [--out result.json]

`run` notes the time, starts --cmd, waits until every row of the oracle is visible, and prints JSON: catch-up and steady
rate, latency, gap after a failure, exactness by value, CPU and memory, and `\\copy` of the same rows as a reference.
--servers is the folder of `pulso-servers run --dir`. --pids is a file with the engine's pids, any text with numbers; it is read again
all the time, so replacements count too. The oracle may be written by --cmd itself (load.py).

Times of rows are pg_xact_commit_timestamp(xmin): taken just before the commit is flushed, the same for every engine.
An engine that writes a row again moves its xmin; with --keep-first-commit a trigger drops updates that change nothing,
so that the first commit stays. Use it for failover runs. Needs psycopg.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time

import psycopg

TABLE = """(patient_id text, timestamp timestamptz, heart_rate double precision, temperature double precision,
    oxygen_saturation double precision, large_data text, primary key (patient_id, timestamp))"""
TICK = os.sysconf("SC_CLK_TCK")


def environment(servers):
    env = dict(line.split("=", 1) for line in (servers / "env").read_text().split())
    return env, json.loads((servers / "pids").read_text())


def now_us():
    return time.time_ns() // 1000


# --- processes -----------------------------------------------------------------------------------------------------

def times(pid):
    """Own CPU seconds of a process, and those of its children that have ended."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return own / TICK, ended / TICK


def peak_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read())[1])


def family_cpu(pid):
    """CPU seconds of a process with all its children, living or not (PostgreSQL: one backend per connection)."""
    total = sum(times(pid))
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        for child in f.read().split():
            try:
                total += sum(times(int(child)))
            except OSError:
                pass
    return total


class Usage(threading.Thread):
    """Samples the engine five times a second, so that a killed process counts up to its last sample."""

    def __init__(self, pids, servers):
        super().__init__(daemon=True)
        self.pids, self.servers = pids, servers
        self.first, self.last, self.peak, self.rss = {}, {}, {}, 0
        self.begin = {name: family_cpu(pid) for name, pid in servers.items()}
        self.done = threading.Event()
        self.sample(known=True)

    def sample(self, known=False):
        try:
            pids = [int(p) for p in re.findall(r"(?<![-\w])\d+", self.pids.read_text())]
        except OSError:
            return
        resident = 0
        for pid in pids:
            try:
                cpu, peak = times(pid)[0], peak_kib(pid)
                with open(f"/proc/{pid}/statm") as f:
                    resident += int(f.read().split()[1]) * 4
            except (OSError, TypeError):
                continue
            self.first.setdefault(pid, cpu if known else 0)
            self.last[pid], self.peak[pid] = cpu, peak
        self.rss = max(self.rss, resident)

    def run(self):
        while not self.done.wait(0.2):
            self.sample()

    def report(self, messages):
        self.sample()
        self.done.set()
        cpu = sum(self.last[p] - self.first[p] for p in self.last)
        servers = {f"{n}_cpu_s": round(family_cpu(p) - self.begin[n], 1) for n, p in self.servers.items()}
        return {"engine_cpu_s": round(cpu, 1), "engine_cpu_s_per_million": round(cpu / messages * 1e6, 1),
                "engine_cpu_s_since_process_start": round(sum(self.last.values()), 1),
                "engine_peak_rss_mib": round(self.rss / 1024),
                "engine_peak_rss_mib_by_pid": {p: round(k / 1024) for p, k in self.peak.items()}, **servers}


# --- the table -----------------------------------------------------------------------------------------------------

def reset(db, keep_first):
    db.execute("drop table if exists health_records")
    db.execute(f"create table health_records {TABLE}")
    if keep_first:
        db.execute("create trigger keep_first before update on health_records for each row "
                   "execute function suppress_redundant_updates_trigger()")


def inserted(db):
    """Rows inserted by the statistics, at most a second behind; counting the table all the time would cost a core."""
    return db.execute("select n_tup_ins from pg_stat_user_tables where relname = 'health_records'").fetchone()[0]


def count(db):
    return db.execute("select count(*) from health_records").fetchone()[0]


def copy(db, table, path):
    with db.cursor().copy(f"copy {table} from stdin (format csv)") as out, open(path, "rb") as rows:
        while block := rows.read(1 << 18):
            out.write(block)


def raw(db, oracle, rows, rounds):
    """The reference: the same rows by `\\copy` into the same table, alone in one transaction."""
    rates = []
    for _ in range(rounds):
        db.execute("drop table if exists raw_reference")
        db.execute(f"create table raw_reference {TABLE}")
        db.execute("checkpoint")
        began = time.monotonic()
        copy(db, "raw_reference", oracle)
        rates.append(rows / (time.monotonic() - began))
    db.execute("drop table if exists raw_reference")
    return {"rows_per_s": [round(r) for r in rates], "median_rows_per_s": round(statistics.median(rates))}


def exactness(db, oracle):
    db.execute("drop table if exists oracle")
    db.execute(f"create unlogged table oracle {TABLE}")
    copy(db, "oracle", oracle)
    missing, extra, wrong = db.execute("""
        select count(*) filter (where t.patient_id is null), count(*) filter (where o.patient_id is null),
               count(*) filter (where t.patient_id is not null and o.patient_id is not null
                   and (t.heart_rate, t.temperature, t.oxygen_saturation, t.large_data)
                       is distinct from (o.heart_rate, o.temperature, o.oxygen_saturation, o.large_data))
        from oracle o full join health_records t using (patient_id, timestamp)""").fetchone()
    db.execute("drop table oracle")
    return {"rows": count(db), "missing": missing, "extra": extra, "wrong": wrong}


def catch_up(db, start_us, about):
    """Times of the commits that made 10 %, 90 % and 100 % of the rows visible."""
    first, p10, p90, last, rows = db.execute("""
        select min(c), percentile_disc(0.1) within group (order by c), percentile_disc(0.9) within group (order by c),
               max(c), count(*)
        from (select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1e6)::bigint c from health_records) t
        """).fetchone()
    if not rows:
        return None
    seconds = lambda us: round((us - start_us) / 1e6, 3)
    per_row = about["messages"] / about["distinct"]
    rate = 0.8 * rows / ((p90 - p10) / 1e6) if p90 > p10 else None
    return {"first_row_s": seconds(first), "all_rows_s": seconds(last), "rows": rows,
            "rows_per_s_overall": round(rows / ((last - start_us) / 1e6)),
            "rows_per_s_steady": rate and round(rate), "records_per_s_steady": rate and round(rate * per_row)}


def paced_rows(db, from_us):
    """(send, commit) in microseconds of the rows sent from then on, in the order of their commits."""
    return db.execute("""
        select s, c from (select split_part(large_data, ':', 1)::bigint s,
                                 (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1e6)::bigint c
                          from health_records) t where s >= %s order by c""", [from_us]).fetchall()


def latency(rows):
    ms = sorted((c - s) / 1000 for s, c in rows)
    at = lambda q: round(ms[min(len(ms) - 1, int(len(ms) * q))], 1)
    return {"rows": len(ms), "p50_ms": at(.5), "p95_ms": at(.95), "p99_ms": at(.99), "max_ms": at(1)} if ms else None


def failover(rows, event_us, window_s=30):
    """The longest time without a commit of a new row after the event, and the worst row of those sent around it."""
    commits = [event_us, *(c for _, c in rows if event_us < c < event_us + window_s * 1e6)]
    gap, at = max(((b - a, a) for a, b in zip(commits, commits[1:])), default=(None, None))
    near = [c - s for s, c in rows if event_us - 1e6 * window_s < s < event_us + 1e6 * window_s]
    before = [(s, c) for s, c in rows if s < event_us - 5e6]
    return {"longest_gap_ms": gap and round(gap / 1000), "gap_begins_after_ms": gap and round((at - event_us) / 1000),
            "worst_row_ms": near and round(max(near) / 1000), "before": latency(before)}


# --- one run -------------------------------------------------------------------------------------------------------

def run(db, args, env, servers):
    usage = Usage(args.pids, servers)
    usage.start()
    shell_env = {**os.environ, **env}
    if args.do:
        pathlib.Path(str(args.oracle) + ".paced").unlink(missing_ok=True)
    start_us, start = now_us(), time.monotonic()
    command = subprocess.Popen(args.cmd, shell=True, env=shell_env, stdout=sys.stderr)
    event_us = None
    if args.do:
        paced = pathlib.Path(str(args.oracle) + ".paced")     # written by load.py
        while not paced.exists() and command.poll() is None:
            time.sleep(0.01)
        time.sleep(args.at)
        event_us = now_us()
        subprocess.run(args.do, shell=True, env=shell_env, stdout=sys.stderr)
    failed = command.wait()
    about = json.loads(pathlib.Path(str(args.oracle) + ".json").read_text())
    complete, quiet = False, time.monotonic()
    while not complete and time.monotonic() - start < args.timeout:
        if inserted(db) >= about["distinct"] or time.monotonic() - quiet > 10:
            quiet = time.monotonic()
            complete = count(db) >= about["distinct"]
        if not complete:
            time.sleep(0.25)
    result = {"complete": complete, "command_exit": failed, "usage": usage.report(about["messages"])}
    time.sleep(args.settle)
    updated = db.execute("select n_tup_upd from pg_stat_user_tables where relname = 'health_records'").fetchone()[0]
    result |= {"load": about, "rows_written_again": updated, "exactness": exactness(db, args.oracle)}
    result["catch_up"] = catch_up(db, start_us, about)
    if about["paced_from_us"]:
        rows = paced_rows(db, about["paced_from_us"] + int(args.skip * 1e6))
        result["latency"] = latency(rows)
        if event_us:
            result["failover"] = failover(paced_rows(db, about["paced_from_us"]), event_us)
    if args.raw:
        result["raw"] = raw(db, args.oracle, about["distinct"], args.raw)
        steady = result["catch_up"] and result["catch_up"]["rows_per_s_steady"]
        result["steady_to_raw"] = steady and round(steady / result["raw"]["median_rows_per_s"], 3)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["reset", "run"])
    parser.add_argument("--servers", type=pathlib.Path, required=True)
    parser.add_argument("--keep-first-commit", action="store_true")
    parser.add_argument("--oracle", type=pathlib.Path)
    parser.add_argument("--pids", type=pathlib.Path, help="file with the engine's pids")
    parser.add_argument("--cmd", default="true", help="starts the work: submits the job, or produces the load")
    parser.add_argument("--at", type=float, default=30, help="seconds from the start of load.py's paced part to --do")
    parser.add_argument("--do", help="what fails: the command that kills or stops a process")
    parser.add_argument("--skip", type=float, default=0, help="seconds of the paced part left out of the latency")
    parser.add_argument("--settle", type=float, default=2, help="seconds to wait for rows too many")
    parser.add_argument("--raw", type=int, default=0, help="rounds of \\copy")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    env, servers = environment(args.servers)
    with psycopg.connect(env["DATABASE_URL"], autocommit=True) as db:
        if args.command == "reset":
            reset(db, args.keep_first_commit)
            return
        text = json.dumps(run(db, args, env, servers), indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
