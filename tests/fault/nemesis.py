# SPDX-License-Identifier: Apache-2.0
"""What goes wrong. A fault is a function of (cluster, random) that breaks something, waits, and mends it; all choices come
from `random`, so a seed names a run. It leaves every process running and every connection open."""
import contextlib
import os
import signal
import time

from cluster import HEARTBEAT, kill, pause

LEASE = 3 * HEARTBEAT  # seconds of silence after which a lease is lost


def _short(random):
    return random.uniform(0.02, 0.8 * LEASE)


def _long(random):
    return random.uniform(1.2 * LEASE, 3 * LEASE)


def _child(cluster, random):
    """Pid of a process that runs a job now, if there is any within a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        children = [pid for w in cluster.workers for pid in w.children()]
        if children:
            return random.choice(sorted(children))
        time.sleep(0.01)
    return None


# ---- processes

def kill_quantd(cluster, random):
    """Of several any one, while clients and workers go on with the others."""
    server = random.choice(cluster.servers())
    kill(server)
    time.sleep(random.choice([0, _short(random), _long(random)]))
    for other in cluster.servers():
        if other is not server and not cluster.answers(other):
            cluster.crashes.append(f"{other.address if other in cluster.others else cluster.server} does not answer while "
                                   "another quantd is dead")
    cluster.restart_server(server)


def kill_quantd_twice(cluster, random):
    """The second time while it recovers from the first."""
    server = random.choice(cluster.servers())
    kill(server)
    server = cluster.restart_server(server)
    time.sleep(random.uniform(0, 0.1))
    kill(server)
    cluster.restart_server(server)


def stop_quantd(cluster, random):
    pause(random.choice(cluster.servers()).pid, random.choice([_short, _long])(random))


def term_quantd(cluster, random):
    """A graceful stop, which must lose as little as any other."""
    server = random.choice(cluster.servers())
    server.killed = True
    server.send(signal.SIGTERM)
    if server.wait(30) != 0:
        cluster.crashes.append(f"quantd ended with {server.popen.returncode} after SIGTERM")
    server.kill()
    cluster.restart_server(server)


def kill_worker(cluster, random):
    worker = random.choice(cluster.workers)
    kill(worker)
    time.sleep(random.choice([0, _short(random), _long(random)]))
    cluster.restart_worker(worker)


def stop_worker(cluster, random):
    pause(random.choice(cluster.workers).pid, random.choice([_short, _long])(random))


def drain_worker(cluster, random):
    worker = random.choice(cluster.workers)
    worker.killed = True
    worker.send(signal.SIGTERM)
    time.sleep(_short(random))
    worker.kill()  # it may be in the middle of handing its job back
    cluster.restart_worker(worker)


def kill_all(cluster, random):
    for process in [*cluster.servers(), *cluster.workers]:
        kill(process)
    time.sleep(_short(random))
    for server in cluster.servers():
        cluster.restart_server(server)
    for worker in list(cluster.workers):
        cluster.restart_worker(worker)


def kill_child(cluster, random):
    if pid := _child(cluster, random):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop_child(cluster, random):
    if pid := _child(cluster, random):
        pause(pid, _long(random))


# ---- the disk of the data folder

def disk_full(cluster, random):
    cluster.fill_disk(leave=random.choice([0, 0, 4096, 64 << 10]))
    time.sleep(random.uniform(0.3, 2))
    cluster.free_disk()


def disk_full_and_kill(cluster, random):
    """quantd dies on a full disk. Started there it may refuse, and must not once there is room."""
    cluster.fill_disk()
    time.sleep(random.uniform(0.1, 0.6))
    kill(cluster.quantd)
    with contextlib.suppress(AssertionError):
        cluster.start_quantd()
    if cluster.quantd.alive():
        time.sleep(random.uniform(0, 0.5))
    kill(cluster.quantd)
    cluster.free_disk()
    cluster.start_quantd()


# ---- connections

def _proxy(cluster, random):
    return cluster.proxies[random.choice(sorted(cluster.proxies))]


def cut(cluster, random):
    proxy = _proxy(cluster, random)
    proxy.cut()
    time.sleep(random.choice([0, _short(random), _long(random)]))
    proxy.heal()


def cut_often(cluster, random):
    proxies = [cluster.proxies[name] for name in sorted(cluster.proxies)]
    for _ in range(random.randint(3, 12)):
        random.choice(proxies).reset()
        time.sleep(random.uniform(0, 0.15))


def half_open(cluster, random):
    proxy = _proxy(cluster, random)
    proxy.half_open(random.choice([("up",), ("down",), ("up", "down")]))
    time.sleep(random.choice([_short, _long])(random))
    proxy.heal()


def slow(cluster, random):
    proxy = _proxy(cluster, random)
    proxy.slow(random.choice([8 << 10, 64 << 10, 512 << 10]))
    time.sleep(_long(random))
    proxy.heal()


def reorder(cluster, random):
    proxies = [cluster.proxies[name] for name in sorted(cluster.proxies)]
    for proxy in proxies:
        proxy.reorder(random.uniform(0.05, 0.4))
    time.sleep(_long(random))
    for proxy in proxies:
        proxy.heal()


# ---- clocks

def clock_jump(cluster, random):
    """Of one process, by seconds to days, and back after a while."""
    clock = cluster.clocks[random.choice(sorted(cluster.clocks))]
    clock.set(random.choice([-86400, -3600, -60, -2, 2, 60, 3600, 12 * 3600, 86400]))
    time.sleep(random.uniform(1.1, 2))  # libfaketime looks once a second
    clock.set(0)
    time.sleep(random.uniform(0, 1))


def clock_jump_and_kill(cluster, random):
    """What was stored with one time is read with another."""
    clock = cluster.clocks["quantd"]
    clock.set(random.choice([-3600, 3600, 86400]))
    time.sleep(random.uniform(1.1, 2))
    kill(cluster.quantd)
    clock.set(0)
    cluster.start_quantd()


# ---- the database server, where there is one

def kill_postmaster(cluster, random):
    cluster.postmaster.kill()
    time.sleep(random.choice([0, _short(random), _long(random)]))
    cluster.postmaster.start()


def kill_session(cluster, random):
    """One process of the database: the postmaster takes the others down with it and recovers."""
    if sessions := cluster.postmaster.sessions():
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(sessions), signal.SIGKILL)
    time.sleep(_short(random))
    cluster.postmaster.start()  # waits until it answers again


def stop_database(cluster, random):
    """Connections stay, and nobody answers."""
    cluster.postmaster.pause()
    time.sleep(random.choice([_short, _long])(random))
    cluster.postmaster.resume()


def kill_postmaster_and_quantd(cluster, random):
    server = random.choice(cluster.servers())
    for process in random.sample([cluster.postmaster, server], 2):
        if process is server:
            kill(server)
        else:
            process.kill()
        time.sleep(random.uniform(0, 0.3))
    cluster.postmaster.start()
    cluster.restart_server(server)


# name -> (how often, what it needs, fault)
FAULTS = {f.__name__: (weight, needs, f) for weight, needs, f in [
    (5, None, kill_quantd), (2, None, kill_quantd_twice), (3, None, stop_quantd), (2, None, term_quantd),
    (4, None, kill_worker), (3, None, stop_worker), (2, None, drain_worker), (2, None, kill_all),
    (4, None, kill_child), (2, None, stop_child),
    (3, "disk", disk_full), (3, "disk", disk_full_and_kill),
    (3, None, cut), (2, None, cut_often), (3, None, half_open), (2, None, slow), (2, None, reorder),
    (3, "clock", clock_jump), (2, "clock", clock_jump_and_kill),
    (6, "postmaster", kill_postmaster), (2, "postmaster", kill_session), (3, "postmaster", stop_database),
    (4, "postmaster", kill_postmaster_and_quantd),
]}


def possible(cluster):
    """Names of the faults that can be had here, sorted."""
    without = dict(cluster.without)
    if cluster.postmaster is None:
        without["postmaster"] = "the store has no server of its own"
    return sorted(name for name, (_, needs, _) in FAULTS.items() if needs not in without)


def schedule(names, cycles, random):
    """`cycles` names, each fault at least once where there are enough cycles, the rest by weight."""
    weights = [FAULTS[name][0] for name in names]
    chosen = list(names)[:cycles] if cycles >= len(names) else []
    chosen += random.choices(names, weights, k=cycles - len(chosen))
    random.shuffle(chosen)
    return chosen
