#!/usr/bin/env python3
"""Measures Pulso on the health job: one JobManager, two TaskManagers, real Kafka and PostgreSQL, all on this machine.

    run.py [catchup] [latency] [kill] [stop] [append] [--rounds 3] [--out DIR]

Prints one JSON object a run, before it what else the machine does, and at the end the medians. The load is load.py, the
measure is measure.py; both are the same for every engine. Needs `make build`, confluent-kafka and psycopg.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import psycopg

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "bin"
HERE = ROOT / "benches"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Servers:
    """Kafka and PostgreSQL for one benchmark."""

    def __init__(self, home):
        self.home = home / "servers"
        self.home.mkdir(parents=True)
        self.process = subprocess.Popen([BIN / "pulso-servers", "run", "--dir", self.home], stdout=subprocess.DEVNULL,
                                        stderr=open(home / "servers.log", "wb"))
        until = time.monotonic() + 120
        while not (self.home / "env").exists():
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the servers did not start: {(home / 'servers.log').read_text()}")
            time.sleep(0.05)
        self.env = dict(line.split("=", 1) for line in (self.home / "env").read_text().split())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Cluster:
    """One JobManager and TaskManagers, each with its log in the folder."""

    def __init__(self, home, env, task_managers=2):
        self.home, self.env = home, {**os.environ, **env, "RUST_LOG": os.environ.get("RUST_LOG", "info")}
        home.mkdir(parents=True)
        self.rpc, self.http = free_port(), free_port()
        self.processes, self.pids, self.started = [], home / "pids", 0
        self.env["PULSO_JOBMANAGER"] = f"127.0.0.1:{self.rpc}"
        self.start("jobmanager", "--rpc", f"127.0.0.1:{self.rpc}", "--http", f"127.0.0.1:{self.http}",
                   "--storage", f"file://{home}/storage")
        self.task_managers = [self.task_manager() for _ in range(task_managers)]
        until = time.monotonic() + 30
        while self.nodes() < task_managers:
            if time.monotonic() > until:
                sys.exit(f"the TaskManagers did not register; see {home}")
            time.sleep(0.05)

    def start(self, program, *arguments):
        log = open(self.home / f"{program}-{self.started}.log", "wb")
        self.started += 1
        process = subprocess.Popen([BIN / program, *arguments], env=self.env, stdout=log, stderr=log)
        self.processes.append(process)
        with open(self.pids, "a") as pids:
            pids.write(f"{process.pid}\n")
        return process

    def task_manager(self):
        data = self.home / f"task-manager-{self.started}"
        return self.start("taskmanager", "--jobmanager", f"127.0.0.1:{self.rpc}", "--data-dir", data)

    def healthctl(self, *arguments):
        done = subprocess.run([BIN / "healthctl", *arguments], env=self.env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"healthctl {' '.join(map(str, arguments))}: {done.stderr}{done.stdout}\nlogs: {self.home}")
        return done.stdout

    def nodes(self):
        done = subprocess.run([BIN / "healthctl", "nodes", "-o", "json"], env=self.env, capture_output=True, text=True)
        return len(re.findall(r'"task_manager"', done.stdout)) if done.returncode == 0 else 0

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes:
            process.wait()
        # Replacements are started by the measure, which only writes their pids down.
        for pid in map(int, self.pids.read_text().split()):
            with contextlib.suppress(OSError):
                if str(self.home).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def job_file(home, topic, append=False):
    """The health job without its aggregate, on this topic; `append`: into a table without a key."""
    text = (ROOT / "jobs/health-records.toml").read_text().replace('"health-data"', f'"{topic}"')
    if append:
        text = re.sub(r'write = "upsert".*\nkey = .*\n', 'write = "append"\n', text)
    path = home / f"{topic}.toml"
    path.write_text(text)
    return path


def reset(servers, keep_first=False, key=True):
    with psycopg.connect(servers.env["DATABASE_URL"], autocommit=True) as db:
        db.execute("drop schema if exists pulso cascade")
        if not key:
            db.execute("drop table if exists health_records")
    if key:
        flags = ["--keep-first-commit"] if keep_first else []
        subprocess.run([sys.executable, HERE / "measure.py", "reset", "--servers", servers.home, *flags], check=True)


def cpu_ticks():
    """CPU ticks so far of every process, by (pid, name)."""
    ticks = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, name, rest = re.match(r"(\d+) \((.*)\) (.*)", stat.read_text(), re.DOTALL).groups()
        except OSError:
            continue
        ticks[int(pid), name] = sum(map(int, rest.split()[11:13]))
    return ticks


def what_else_runs():
    """Load average, and the processes that took most CPU in the last second: figures of a busy machine are others."""
    before = cpu_ticks()
    time.sleep(1)
    used = {key: ticks - before.get(key, 0) for key, ticks in cpu_ticks().items()}
    busiest = sorted(((ticks, key) for key, ticks in used.items() if ticks > 0), reverse=True)[:5]
    percent = 100 / os.sysconf("SC_CLK_TCK")
    return {"load_average": [round(load, 2) for load in os.getloadavg()],
            "busiest": [f"{name} ({pid}): {round(ticks * percent)} %" for ticks, (pid, name) in busiest]}


def say_what_else_runs():
    print(json.dumps({"before": what_else_runs()}), flush=True)


def measure(servers, cluster, oracle, command, *flags):
    say_what_else_runs()
    done = subprocess.run([sys.executable, HERE / "measure.py", "run", "--servers", servers.home, "--oracle", oracle,
                           "--pids", cluster.pids, "--cmd", command, *flags],
                          env=cluster.env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def load(*arguments):
    return " ".join(map(str, [sys.executable, HERE / "load.py", *arguments]))


@contextlib.contextmanager
def cluster_for(home, servers, name):
    cluster = Cluster(home / name, servers.env)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(home / name / "storage", ignore_errors=True)


def catchup(home, servers, rounds):
    """1,000,000 messages wait in the topic. Cold is the first job of a cluster; the others follow on the same one."""
    oracle, topic = home / "catchup.csv", "catchup"
    subprocess.run(load("--messages", 1_000_000, "--topic", topic, "--oracle", oracle), shell=True, check=True,
                   env={**os.environ, **servers.env})
    job = job_file(home, topic)
    with cluster_for(home, servers, "catchup") as cluster:
        for _ in range(rounds):
            reset(servers)
            yield measure(servers, cluster, oracle, f"{BIN}/healthctl submit --new {job}", "--raw", "3")
            cluster.healthctl("cancel", "health-records", "--yes")


def paced(name, flags=lambda cluster: (), keep_first=False):
    def run(home, servers, rounds):
        for n in range(rounds):
            topic, oracle = f"{name}-{n}", home / f"{name}-{n}.csv"
            reset(servers, keep_first)
            with cluster_for(home, servers, f"{name}-{n}") as cluster:
                # The topic alone: a message of another seed would be a row that no oracle knows.
                subprocess.run(load("--messages", 0, "--topic", topic, "--oracle", home / "unused.csv"), shell=True,
                               check=True, env=cluster.env)
                cluster.healthctl("submit", job_file(home, topic))
                command = load("--messages", 200_000, "--pause", 15, "--rate", 2000, "--seconds", 60, "--seed", n + 2,
                               "--topic", topic, "--oracle", oracle)
                yield measure(servers, cluster, oracle, command, *flags(cluster))
    return run


def signalled(name):
    """A TaskManager gets the signal after 30 s; a replacement starts one second later."""
    def flags(cluster):
        victim = cluster.task_managers[0].pid
        data = cluster.home / "replacement"
        start = (f"{BIN}/taskmanager --jobmanager 127.0.0.1:{cluster.rpc} --data-dir {data} "
                 f">{cluster.home}/replacement.log 2>&1 & echo $! >>{cluster.pids}")
        return "--at", "30", "--do", f"kill -{name} {victim}; (sleep 1; {start}) &"
    return flags


def append(home, servers, rounds):
    """Into a table without a key, with five SIGKILLs: repeats and losses show."""
    for n in range(rounds):
        topic, oracle = f"append-{n}", home / f"append-{n}.csv"
        reset(servers, key=False)
        with cluster_for(home, servers, f"append-{n}") as cluster:
            command = load("--messages", 50_000, "--pause", 2, "--rate", 2000, "--seconds", 30, "--seed", n + 50,
                           "--topic", topic, "--oracle", oracle)
            say_what_else_runs()
            producer = subprocess.Popen(command, shell=True, env=cluster.env)
            time.sleep(2)
            cluster.healthctl("submit", job_file(home, topic, append=True))
            for _ in range(5):
                time.sleep(5)
                victim = cluster.task_managers.pop(0)
                victim.kill()
                time.sleep(1)
                cluster.task_managers.append(cluster.task_manager())
            producer.wait()
            about = json.loads(pathlib.Path(f"{oracle}.json").read_text())
            with psycopg.connect(servers.env["DATABASE_URL"], autocommit=True) as db:
                until = time.monotonic() + 120
                counts = "select count(*), count(distinct (patient_id, timestamp)) from health_records"
                while db.execute(counts).fetchone()[1] < about["distinct"] and time.monotonic() < until:
                    time.sleep(0.5)
                time.sleep(3)
                rows, distinct = db.execute(counts).fetchone()
            yield {"kills": 5, "rows": rows, "repeated": rows - distinct, "lost": about["distinct"] - distinct}


RUNS = {"catchup": catchup, "latency": paced("latency"), "kill": paced("kill", signalled("KILL"), True),
        "stop": paced("stop", signalled("STOP"), True), "append": append}

FIGURES = {
    "catchup": {"steady_to_raw": ["steady_to_raw"], "first_row_s": ["catch_up", "first_row_s"],
                "rows_per_s_steady": ["catch_up", "rows_per_s_steady"],
                "cpu_s_per_million": ["usage", "engine_cpu_s_per_million"],
                "peak_rss_mib": ["usage", "engine_peak_rss_mib"]},
    "latency": {f"{q}_ms": ["latency", f"{q}_ms"] for q in ("p50", "p95", "p99", "max")},
    "kill": {"worst_row_ms": ["failover", "worst_row_ms"], "gap_ms": ["failover", "longest_gap_ms"]},
    "stop": {"worst_row_ms": ["failover", "worst_row_ms"], "gap_ms": ["failover", "longest_gap_ms"]},
    "append": {"repeated": ["repeated"], "lost": ["lost"]},
}


def figure(result, path):
    for step in path:
        result = result and result.get(step)
    return result


def medians(name, results):
    table = {}
    for label, path in FIGURES[name].items():
        values = [v for r in results if (v := figure(r, path)) is not None]
        if values:
            table[label] = {"median": statistics.median(values), "all": values}
    wrong = [r["exactness"] for r in results if "exactness" in r and any(r["exactness"][k] for k in ("missing", "extra", "wrong"))]
    return {**table, "runs": len(results), "inexact": wrong}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], help="all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, help="folder for logs and results; kept")
    args = parser.parse_args()
    home = args.out.resolve() if args.out else pathlib.Path(tempfile.mkdtemp(prefix="pulso-bench-"))
    home.mkdir(parents=True, exist_ok=True)
    # PostgreSQL runs as another user.
    os.chmod(home, 0o755)
    servers, summary = Servers(home), {}
    try:
        for name in args.runs or RUNS:
            results = []
            for result in RUNS[name](home, servers, args.rounds):
                results.append(result)
                print(json.dumps({"run": name, **result}), flush=True)
            summary[name] = medians(name, results)
    finally:
        servers.stop()
    print(json.dumps({"load_average": os.getloadavg(), "cores": os.cpu_count(), "medians": summary}, indent=1))
    if not args.out:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
