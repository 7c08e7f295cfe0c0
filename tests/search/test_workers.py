"""Searches that several processes work on, over a real PostgreSQL and Optuna's proxy, while parts
of them are killed: the search ends right, and nothing is lost but the trial of who was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from canao.errors import InputError
from canao.model.arch import Arch
from canao.search import Space
from canao.search.candidates.trial import FAILED, MEASURED_OVER, TRAINED, Trial
from canao.search.latency import place
from canao.search.latency.place import Place, place_of
from canao.search.study.bulk_storage import BulkStorage
from canao.search.study.journal import Journal, read_trials
from canao.search.study.storage import open_shared, study_name
from canao.search.study.team import Offer, Team, Waits
from canao.search.study.url import parse_study
from tests.search.databases import ENVIRONMENT, Postgres, Proxy, free_port, until
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula, device, options
from tests.search.landscape import run_search as run_locally
from tests.search.team_process import CONTENTS, WAITS, Started, run

# Several processes compile, as users do, and only with the same flags.
pytestmark = pytest.mark.as_shipped
SPACE = Space.of_teacher(TEACHER)
RUNNING, WAITING = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING
HERE = Place("a machine", "host-avx2", "code")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def database(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """An empty database for the test."""
    return postgres.database(request.node.name[:60])


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts processes of a search, and ends them with the test. Searches stop in their second
    training until `let_go`, so that others have begun by then."""
    found: list[Started] = []
    (tmp_path / "hold").touch()

    def start(role: str, study: str, name: str, **more: Any) -> Started:
        held = {"hold": str(tmp_path / "hold")} if role == "search" else {}
        found.append(Started(tmp_path, role, study, name, **held | more))
        return found[-1]

    yield start
    for one in found:
        if not one.ended:
            one.kill()


def let_go(folder: Path) -> None:
    (folder / "hold").unlink()


def judged_right(run_dir: Path, trials: int, processes: int) -> tuple[Trial, ...]:
    """The trials of a search that ended: each architecture once, and as many as were asked for, but
    for what several processes began at the same moment."""
    found = read_trials(run_dir)
    assert max(Counter(trial.arch for trial in found).values()) == 1
    assert trials <= sum(trial.trained for trial in found) < trials + processes
    formula = FormulaTrainer(run_dir.parent / "formula")
    assert all(t.accuracy == formula.score(t.arch).value for t in found if t.trained)
    return found


def best_of(trials: tuple[Trial, ...]) -> Arch:
    return max((t for t in trials if t.trained), key=lambda t: t.accuracy or 0.0).arch


def test_three_processes_judge_each_candidate_once(
    database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    study = f"{database}#three"
    search = started("search", study, "run", trials=12).says("trial 1 ")
    workers = [started("worker", study, name, trials=12) for name in ("w1", "w2")]
    for worker in workers:
        worker.says("trial ")
    let_go(tmp_path)
    assert search.outcome == f"found {best_of(judged_right(tmp_path / 'run', 12, 3))}"
    counts = [int(one.outcome.removeprefix("judged ")) for one in workers]
    assert all(counts), counts
    assert any("works on the search" in line for line in search.lines)
    assert not (tmp_path / "run" / "study.db").exists()


def test_one_process_proposes_what_a_search_of_its_own_does(database: str, tmp_path: Path) -> None:
    run("search", database, str(tmp_path / "run"), seconds=0.0, trials=4)
    alone = run_locally(
        options(tmp_path / "alone", trials=4), FormulaTrainer(tmp_path / "w"), compile_by_formula,
        device(),
    )  # fmt: skip
    assert [t.arch for t in read_trials(tmp_path / "run")] == [t.arch for t in alone.trials]


def test_a_killed_worker_loses_its_trial_to_another(
    database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    search = started("search", database, "run", trials=6).says("trial 1 ")
    # It would take longer for a single one than the test may.
    worker = started("worker", database, "w", trials=6, seconds=600.0)
    worker.says("in training")
    worker.kill()
    let_go(tmp_path)
    search.says("has not been heard of").says("is judged anew")
    assert search.outcome == f"found {best_of(judged_right(tmp_path / 'run', 6, 1))}"


def closed_in(database: str) -> list[optuna.trial.FrozenTrial]:
    """The trials that were given up."""
    name = study_name(place_of(device()).to_dict())
    study = optuna.load_study(study_name=name, storage=parse_study(database).url)
    return study.get_trials(states=(optuna.trial.TrialState.FAIL,))


def test_a_database_and_a_proxy_may_go_away_and_come_back(
    postgres: Postgres, database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    proxy = Proxy(database)
    try:
        search = started("search", database, "run", trials=10, seconds=0.4).says("trial 1 ")
        worker = started("worker", proxy.url, "w", trials=10, seconds=0.4).says("trial ")
        let_go(tmp_path)
        postgres.kill()
        search.says("the study cannot be reached")
        worker.says("the study cannot be reached")
        postgres.start()
        search.says("reached again after")
        worker.says("reached again after")
        before = len(worker.lines)
        proxy.kill()
        until(lambda: any("cannot be reached" in line for line in worker.lines[before:]), "it")
        proxy.start()
        assert search.outcome == f"found {best_of(judged_right(tmp_path / 'run', 10, 2))}"
        assert worker.outcome.startswith("judged ")
    finally:
        proxy.close()


def test_a_device_whose_holder_dies_is_measured_on(
    database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    """In the middle of a search, whose worker waits for the same device."""
    cache = str(tmp_path / "cache")
    search = started("search", database, "run", trials=6, cache=cache).says("trial 1 ")
    holder = started("device", database, "none", cache=cache).says("held")
    worker = started("worker", database, "w", trials=6, cache=cache)
    let_go(tmp_path)
    for one in (search, worker):
        one.says(f"device null: waiting for process {holder.process.pid}")
    holder.kill()
    assert search.outcome == f"found {best_of(judged_right(tmp_path / 'run', 6, 2))}"
    assert worker.outcome.startswith("judged ")


def test_a_search_that_is_killed_goes_on_with_what_workers_did_meanwhile(
    database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    search = started("search", database, "run", trials=6).says("trial 1 ")
    worker = started("worker", database, "w", trials=6).says("trial ")
    search.kill()
    assert worker.outcome.startswith("judged ")  # all, and the trial of the search as well
    let_go(tmp_path)
    again = started("search", database, "run", trials=6)
    assert again.outcome == f"found {best_of(judged_right(tmp_path / 'run', 6, 2))}"
    assert any("resuming: 6 of 6 trials done" in line for line in again.lines)


def test_an_interrupted_worker_gives_its_trial_back(
    database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    search = started("search", database, "run", trials=4).says("trial 1 ")
    worker = started("worker", database, "w", trials=4, seconds=600.0)
    worker.says("in training")
    worker.send(signal.SIGINT)
    assert worker.outcome == "interrupted"
    let_go(tmp_path)
    assert search.outcome.startswith("found ")
    assert any("works no longer on the search" in line for line in search.lines)
    judged_right(tmp_path / "run", 4, 2)
    closed = closed_in(database)
    assert all("repeats" in trial.user_attrs for trial in closed)


def test_a_worker_that_stood_still_is_not_believed(
    database: str, started: Callable[..., Started], tmp_path: Path
) -> None:
    """Stopped for longer than others wait: its trial is another's, and so is the verdict."""
    search = started("search", database, "run", trials=8, seconds=0.4).says("trial 1 ")
    worker = started("worker", database, "w", trials=8, seconds=1.0)
    worker.says("in training")
    worker.send(signal.SIGSTOP)
    let_go(tmp_path)
    search.says("is judged anew")
    worker.send(signal.SIGCONT)
    worker.says("was given to another process while this one stood still")
    assert search.outcome.startswith("found ") and worker.outcome.startswith("judged ")
    judged_right(tmp_path / "run", 8, 2)


def a_team(database: str, run_dir: Path, waits: dict[str, float] | None = None) -> Team:
    run_dir.mkdir(exist_ok=True)
    return Team(parse_study(database), new=True, waits=Waits(**WAITS | (waits or {})))


def test_two_that_claim_one_trial(database: str, tmp_path: Path) -> None:
    """One has it; and the other does not propose the same."""
    one, two = a_team(database, tmp_path / "one"), a_team(database, tmp_path / "two")
    with one.present(tmp_path / "one"), two.present(tmp_path / "two"):
        asked = options(tmp_path / "one", controller="random")
        first, second = (Journal(asked, SPACE, HERE, team) for team in (one, two))
        first.suggest(TEACHER)
        got = [first.ask(), second.ask(), first.ask(), second.ask()]
        archs = [proposal.arch for proposal in got if proposal is not None]
        assert archs[0] == TEACHER and len(set(archs)) == 4
        # What is suggested although it is under way is closed, and not judged twice.
        second.suggest(TEACHER)
        again = second.ask()
        assert again is not None and again.arch not in archs


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_claim_is_made_once_however_many_try(
    database: str, tmp_path: Path, kind: str
) -> None:
    """Of eight threads with connections of their own, each claims what it can of twenty trials."""
    url = database if kind == "postgresql" else f"sqlite:///{tmp_path}/study.db"
    study, waiting = parse_study(url), optuna.trial.create_trial(state=WAITING)
    made = open_shared(study, new=True)
    head = made.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "one")
    trials = [made.create_new_trial(head, waiting) for _ in range(20)]

    def claims(_: int) -> list[int]:
        own = open_shared(study, new=False)
        return [id for id in trials if own.set_trial_state_values(id, RUNNING)]

    with ThreadPoolExecutor(8) as pool:
        had = Counter(id for found in pool.map(claims, range(8)) for id in found)
    assert had == Counter(trials)


def test_a_candidate_that_costs_processes_is_given_up(database: str, tmp_path: Path) -> None:
    asked, costly = options(tmp_path / "run", controller="random"), SPACE.smallest
    for number in range(3):
        team = a_team(database, tmp_path / f"w{number}", {"lost_s": 0.0, "beat_s": 0.05})
        with team.present(tmp_path / f"w{number}"):
            journal = Journal(asked, SPACE, HERE, team)
            journal.take_from_lost()
            if number == 0:
                journal.suggest(costly)
            proposal = journal.ask()
            assert proposal is not None and proposal.arch == costly  # and then it is killed
    team = a_team(database, tmp_path / "last", {"lost_s": 0.0})
    with team.present(tmp_path / "last"):
        journal = Journal(asked, SPACE, HERE, team)
        journal.take_from_lost()
        other = journal.ask()
    assert other is not None and other.arch != costly
    (given_up,) = journal.trials
    assert (given_up.arch, given_up.verdict) == (costly, FAILED)
    assert given_up.reason == "3 processes were lost that judged it"


def refused(study: str, match: str, tmp_path: Path, role: str = "worker", **more: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        run(role, study, str(tmp_path / "refused"), **more)
    said = str(caught.value)
    assert "\n" not in said and ";" in said and len(said) < 600, said


@pytest.mark.parametrize(("study", "match"), [
    ("study", "no URL of a database; give postgresql://"),
    ("sqlite://", "a database in memory is of one process"),
    ("grpc://host", "is no address of a proxy; give grpc://HOST:PORT"),
    ("postgresql://u@h/d#a b", "'a b' behind # is not a name"),
    ("oracle+cx_oracle://u@h/d", "cx_Oracle is not installed; install the package"),
])  # fmt: skip
def test_what_names_no_study(study: str, match: str, tmp_path: Path) -> None:
    refused(study, match, tmp_path)


def test_a_password_is_never_shown() -> None:
    study = parse_study("postgresql://me:secret@host/db#name")
    assert "secret" in study.url and study.kept == "postgresql://me@host/db#name"


def test_storages_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    pytest.importorskip("grpc")
    monkeypatch.setattr("canao.search.study.storage._CONNECT_S", 1)
    said = r"cannot be reached .*; start it"
    refused(f"postgresql://a@127.0.0.1:{free_port()}/b", said, tmp_path)
    refused(f"grpc://127.0.0.1:{free_port()}", said, tmp_path)


def test_storages_of_something_else(database: str, tmp_path: Path) -> None:
    refused(database, "holds no search; start one with `canao search --study` first", tmp_path)
    refused(f"sqlite:///{tmp_path}/none.db", "holds no search; start one", tmp_path)
    run("search", database, str(tmp_path / "run"), seconds=0.0, trials=1)
    refused(f"{database}#other", "no search called 'other'; start it", tmp_path)
    refused(database, f"is of the search in {tmp_path}/run on .*; join it", tmp_path, role="search",
            trials=1)  # fmt: skip
    with pytest.raises(InputError, match=r"its trials are in postgresql://canao@.*; give --study"):
        run_locally(options(tmp_path / "run", trials=1), FormulaTrainer(tmp_path / "w"),
                    compile_by_formula, device())  # fmt: skip
    refused(database, "the teacher of this worker is not that of the search", tmp_path,
            contents={"the teacher": "two"})  # fmt: skip
    refused(database, "seed is 0 there, 3 here", tmp_path, seed=3)


def test_workers_of_other_code_or_another_machine(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("search", database, str(tmp_path / "run"), seconds=0.0, trials=1)
    assert run("worker", database, str(tmp_path / "same")) == "judged 0"
    monkeypatch.setattr(place, "code_stamp", lambda toolchain: "newer")
    refused(database, "would measure with other code for kernels, and its times", tmp_path)
    said = "on another machine, A instead of B"
    monkeypatch.setattr(Place, "instead_of", lambda self, held: said)
    refused(database, f"would measure {said}, and its", tmp_path)


@pytest.mark.parametrize(("row", "match"), [
    ({"format": 99}, "is of format 99, this CANAO reads 1; use the same version for all"),
    (7, "is of format None"),
    ({"format": 1, "facts": []}, "what it says of the search"),
])  # fmt: skip
def test_a_study_of_another_version(
    postgres: Postgres, tmp_path: Path, row: object, match: str
) -> None:
    database = f"sqlite:///{tmp_path}/study.db"
    team = a_team(database, tmp_path / "run")
    team._write("search", row)
    refused(database, match, tmp_path)


def test_a_schema_of_another_version(database: str, tmp_path: Path) -> None:
    import psycopg

    a_team(database, tmp_path / "run")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.0.0.z'")
    refused(database, "belongs to another version of Optuna than .*; install that", tmp_path)


def test_a_search_that_stopped_before_it_began(database: str, tmp_path: Path) -> None:
    team = a_team(database, tmp_path / "run")
    with team.present(tmp_path / "run"):
        facts = options(tmp_path / "refused").facts() | {
            "device": "null", "target": place_of(device()).target, "teacher_arch": str(TEACHER),
            "space": str(SPACE),
        }  # fmt: skip
        team.publish(facts, place_of(device()), Offer({}, CONTENTS, ""), tmp_path / "run")
    refused(database, "was stopped before it began; start it again there", tmp_path)


def test_a_database_that_does_not_come_back(postgres: Postgres, tmp_path: Path) -> None:
    """It is waited for, and then one line says that nothing is lost."""
    proxy, said = Proxy(postgres.database("gone")), []
    team = Team(parse_study(proxy.url), said.append, new=True, waits=Waits(reach_s=1.0))
    proxy.kill()
    with pytest.raises(InputError, match=r"cannot be reached for .*the same command continues"):
        team.set_phase("searching")
    assert len(said) == 1 and "trying again for 1 s" in said[0]


def test_ten_thousand_trials_open_and_report_in_five_seconds(tmp_path: Path) -> None:
    from canao.report.write import write_report

    asked = options(tmp_path / "run", trials=1)
    run_locally(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
    here = place_of(device())
    fill(tmp_path / "run" / "study.db", 10_000)
    begun = time.process_time()
    journal = Journal(asked, SPACE, here)
    assert len(journal.trials) > 9_000
    opened_s = time.process_time() - begun
    begun = time.process_time()
    journal.trials  # noqa: B018 - once more
    assert time.process_time() - begun < 0.5
    begun = time.process_time()
    write_report(tmp_path / "run")
    reported_s = time.process_time() - begun
    assert max(opened_s, reported_s) < 5.0, (opened_s, reported_s)


def test_a_study_is_read_at_once_as_optuna_reads_it(database: str, tmp_path: Path) -> None:
    """All states, and two values a trial."""
    team = a_team(database, tmp_path / "run")
    with team.present(tmp_path / "run"):
        journal = Journal(options(tmp_path / "run", controller="nsga2"), SPACE, HERE, team)
        journal.suggest(TEACHER)
        proposals = [journal.ask() for _ in range(4)]
        for proposal, verdict in zip(proposals, (TRAINED, MEASURED_OVER), strict=False):
            assert proposal is not None
            accuracy = 0.5 if verdict == TRAINED else None
            journal.tell(proposal, Trial(proposal.arch, verdict, 0.5, accuracy=accuracy))
        assert journal._closed(journal._in_state(optuna.trial.TrialState.RUNNING)[0])
        journal.suggest(SPACE.smallest)
    url = parse_study(database).url
    plain, bulk = optuna.storages.RDBStorage(url), BulkStorage(url)
    for study in plain.get_all_studies():
        found = bulk._get_trials(study._study_id, None, set(), -1)
        assert found == plain.get_all_trials(study._study_id)
    assert len({trial.state for trial in found}) == 4
    with pytest.raises(KeyError):
        bulk._get_trials(999, None, set(), -1)


def fill(path: Path, count: int) -> None:
    """Copy the first trial of a study with other architectures, by SQL: Optuna takes minutes."""
    import itertools
    import sqlite3

    archs = itertools.islice(
        (Arch.uniform(layers, 32 * h, h, 32 * f) for layers, h, f in itertools.product(
            range(1, 7), range(1, 13), range(1, 140))), count)  # fmt: skip
    with sqlite3.connect(path) as db:
        (study,) = db.execute("SELECT study_id FROM trials LIMIT 1").fetchone()
        for i, arch in enumerate(archs, 100):
            trial = Trial(arch, TRAINED, -0.5, accuracy=0.1 + i / 1e6, latency_ms=1.0 + i / 1e5)
            db.execute(
                "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, "
                "datetime_complete) VALUES (?, ?, ?, 'COMPLETE', '2026-01-01', '2026-01-01')",
                (i, i, study))  # fmt: skip
            db.execute("INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES "
                       "(?, 0, ?, 'FINITE')", (i, trial.accuracy))  # fmt: skip
            db.execute("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES "
                       "(?, 'trial', json_quote(?))", (i, trial.to_json()))  # fmt: skip
            db.execute(
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
                "SELECT ?, param_name, param_value, distribution_json FROM trial_params "
                "WHERE trial_id = (SELECT min(trial_id) FROM trial_params)", (i,))  # fmt: skip


def test_processes_that_open_a_new_database_at_once(tmp_path: Path) -> None:
    """One of them makes Optuna's tables; those that meet it half done open it as well, or say that
    there is no search yet."""
    code = (
        "import sys; from canao.errors import InputError; "
        "from canao.search.study.storage import open_shared; "
        "from canao.search.study.url import parse_study; sys.stdin.read(1)\n"
        "try: open_shared(parse_study(sys.argv[1]), new=sys.argv[2] == 'new')\n"
        "except InputError as error: sys.exit(f'refused: {error}')"
    )
    for number in range(2):
        url = f"sqlite:///{tmp_path}/{number}.db"
        started = [
            subprocess.Popen([sys.executable, "-c", code, url, kind], env=ENVIRONMENT, text=True,
                             stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            for kind in ("new", "new", "old", "old")
        ]  # fmt: skip
        time.sleep(1.5)  # all have loaded Optuna
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate()[1] for process in started]
        assert [p.returncode for p in started[:2]] == [0, 0], said
        assert all(not line or "holds no search" in line for line in said[2:]), said
