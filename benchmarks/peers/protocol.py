"""The worker's side: one process, one engine, requests and replies as lines of JSON.

Requests come on standard input, replies go to the descriptor that the first argument names.

    {"do": "load", "job": {...}}            -> {"versions": {...}}
    {"do": "outputs", "to": FILE}           -> {}, all outputs in FILE as float32 [tokens, hidden]
    {"do": "run", "first": i, "count": n}   -> {"ns": [...]}, n inferences, of text i and on
    {"do": "stream"}                        -> {"ns": [total]}, every text once, as fast as it goes

The last two also tell how often a thread of the process was `preempted`: on a quiet machine hardly
ever.

Needs NumPy and the engine, nothing else. A failure ends the process with its traceback on standard
error. What is timed is one call from arrays in hand to an output in an array.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What a worker loads.

    model      file or directory that the engine takes
    texts      .npz with `ids` of all texts in a row and their `lengths`
    threads    threads of each session
    cores      cores of the process
    pad_to     tokens that every text is padded to, with a mask; 0: the true length
    sessions   independent copies of the model; more than 1 only matters to `stream`
    options    words that the engine's module knows
    """

    model: str
    texts: str
    threads: int
    cores: tuple[int, ...]
    pad_to: int = 0
    sessions: int = 1
    options: tuple[str, ...] = ()


class Engine(Protocol):
    """A loaded model. One that has a method `stream(prepared texts)` streams in its own way."""

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """What `run` takes, of int64 ids and mask of shape [1, tokens]; not timed."""
        ...

    def run(self, prepared: Any) -> np.ndarray:
        """The last hidden state, float32, [1, tokens, hidden] or [tokens, hidden]."""
        ...


def serve(load: Callable[[Job], Engine], versions: Callable[[], Mapping[str, str]]) -> None:
    """Answer requests until standard input ends."""
    # A worker that its driver stopped would outlive a killed driver, stopped for ever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Some engines print, as soon as they are imported: replies have a pipe of their own.
    replies = os.fdopen(int(sys.argv[1]), "w")
    worker: _Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "load":
            given: dict[str, Any] = request["job"]
            listed = {k: tuple(v) for k, v in given.items() if isinstance(v, list)}
            worker = _Worker(load, Job(**(given | listed)))
            reply: dict[str, Any] = {"versions": dict(versions())}
        elif worker is None:
            raise SystemExit(f"'{request['do']}' came before 'load'")
        else:
            reply = worker.answer(request)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class _Worker:
    """The loaded sessions of an engine with their prepared texts."""

    def __init__(self, load: Callable[[Job], Engine], job: Job) -> None:
        self.job = job
        self.engines = [load(part) for part in _parts(job)]
        self.texts = read_texts(job.texts)
        self.prepared = [self.engines[0].prepare(*padded(t, job.pad_to)) for t in self.texts]
        gc.collect()
        gc.disable()  # a collection inside a sample would be Python's time, not the engine's

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] == "outputs":
            np.save(request["to"], self._outputs())
            return {}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        if request["do"] == "run":
            samples = self._run(request["first"], request["count"])
        elif request["do"] == "stream":
            start = time.perf_counter_ns()
            self._stream()
            samples = [time.perf_counter_ns() - start]
        else:
            raise SystemExit(f"unknown request '{request['do']}'")
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
        return {"ns": samples, "preempted": preempted}

    def _run(self, first: int, count: int) -> list[int]:
        run, prepared, samples = self.engines[0].run, self.prepared, []
        for i in range(first, first + count):
            text = prepared[i % len(prepared)]
            start = time.perf_counter_ns()
            run(text)
            samples.append(time.perf_counter_ns() - start)
        return samples

    def _outputs(self) -> np.ndarray:
        rows = []
        for ids, prepared in zip(self.texts, self.prepared):  # noqa: B905  same by construction
            out = np.asarray(self.engines[0].run(prepared), np.float32)
            rows.append(out.reshape(-1, out.shape[-1])[: len(ids)].copy())
        return np.concatenate(rows)

    def _stream(self) -> None:
        own = getattr(self.engines[0], "stream", None)
        if own is not None:
            own(self.prepared)
        elif len(self.engines) == 1:
            for text in self.prepared:
                self.engines[0].run(text)
        else:
            self._share()

    def _share(self) -> None:
        """Each session in a Python thread, taking the next text that nobody has taken."""
        counter, last = itertools.count(), len(self.prepared)

        def take(engine: Engine) -> None:
            for i in iter(counter.__next__, None):
                if i >= last:
                    return
                engine.run(self.prepared[i])

        threads = [threading.Thread(target=take, args=(e,)) for e in self.engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _parts(job: Job) -> Iterator[Job]:
    """The job of each session: with several, each has its own share of the cores."""
    if job.sessions == 1:
        yield job
        return
    for i in range(job.sessions):
        yield replace(job, cores=job.cores[i * job.threads : (i + 1) * job.threads])


def read_texts(path: str) -> list[np.ndarray]:
    """The texts of a file written by `write_texts`."""
    with np.load(path) as held:
        return np.split(held["ids"], np.cumsum(held["lengths"])[:-1])


def write_texts(path: str, texts: Sequence[np.ndarray]) -> None:
    """Token ids of each text, int64 [tokens], in one .npz file."""
    np.savez(path, ids=np.concatenate(texts).astype(np.int64), lengths=[len(t) for t in texts])


def padded(ids: np.ndarray, pad_to: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of shape [1, tokens]; with `pad_to`, zeros up to it that the mask hides."""
    size = max(pad_to, len(ids))
    row, mask = np.zeros((1, size), np.int64), np.zeros((1, size), np.int64)
    row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
    return row, mask
